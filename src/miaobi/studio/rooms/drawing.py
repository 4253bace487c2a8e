"""Tables and small signs as HTML. Every text that comes from outside is
escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Cells are HTML already (`text`, `sign`). The caption is for screen readers."""
    label = escape(caption)
    names = [escape(name) for name in headers]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_table_row(names, row) for row in rows)
    return (
        f'<div class="sheet" role="region" aria-label="{label}" tabindex="0">'
        f"<table><caption>{label}</caption>"
        f"<thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _table_row(names: Sequence[str], row: Sequence[str]) -> str:
    cells = "".join(
        f'<td data-name="{name}">{cell}</td>'
        for name, cell in zip(names, row, strict=True)
    )
    return f"<tr>{cells}</tr>"


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
