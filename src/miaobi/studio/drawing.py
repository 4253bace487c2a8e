"""Tables and small signs as HTML. Every text that comes from outside is
escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import pairwise


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Cells are HTML already (`text`, `sign`). The caption is for those who hear the page."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headers)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-name="{escape(name)}">{cell}</td>'
            for name, cell in zip(headers, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="sheet" role="region" aria-label="{escape(caption)}" '
        f'tabindex="0"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def text(value: object) -> str:
    return escape(str(value))


def sign(value: str, kind: str = "") -> str:
    """A word in a small frame: a state, an alias. `kind` is one of look.css: good, bad, busy."""
    return f'<span class="sign {kind}">{escape(value)}</span>'


def notice(value: str) -> str:
    """For rooms with nothing in them yet."""
    return f'<p class="notice">{escape(value)}</p>'


def when(seconds: float | str) -> str:
    """UTC seconds or an ISO time, as people write it here."""
    moment = (
        datetime.fromisoformat(seconds)
        if isinstance(seconds, str)
        else datetime.fromtimestamp(seconds)
    )
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def lineage(name: str, parents: Mapping[str, Sequence[str]]) -> str:
    """Where a model came from, oldest first: smollm2 → helper@1 → helper@2."""
    chain = [name]
    while len(found := parents.get(chain[0], ())) == 1 and found[0] not in chain:
        chain.insert(0, found[0])
    if len(found) > 1:
        chain.insert(0, " + ".join(found))
    drawn = [text(chain[0])] + [
        f'<i aria-hidden="true">→</i> {text(item)}' for _, item in pairwise(chain)
    ]
    return f'<span class="lineage">{" ".join(drawn)}</span>'
