"""Markdown as HTML that can do no harm: what a model wrote shows as text wherever it is
not one of Markdown's own forms.

HTML in the text stays text. Links lead to http, https and mailto only, and tell nothing
of where they were followed from. A picture becomes a link: nothing is fetched from
elsewhere. Headings begin below the page's own.

Knows nothing of conversations.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping, Sequence
from functools import cache, lru_cache
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from miaobi.core.language import language, say

SCHEMES = ("http", "https", "mailto")
LINK = ' rel="noopener noreferrer nofollow" target="_blank"'
FIRST_HEADING = 3
"""The level of a first heading: h1 is the page's, h2 its parts'."""
Environment = MutableMapping[str, Any]


def rendered(text: str) -> str:
    """Return the HTML of a whole text."""
    return _rendered(text, language())


@lru_cache(maxsize=512)
def _rendered(text: str, _language: str) -> str:
    html: str = _parser().render(text)
    return html


class Growing:
    """The HTML of a text that is being written.

    Blocks that are finished are rendered once: the cost of a step is that of the last
    block, whatever the length of the text. (A link whose address is defined further
    down becomes one when the whole text is rendered.)
    """

    def __init__(self) -> None:
        self.blocks = list[str]()
        """The finished ones, in order."""
        self.tail = ""
        """What is being written."""
        self._begin = 0
        """Where the tail begins in the text."""

    def update(self, text: str) -> None:
        """Go on with `text`, which begins with the one of the last call."""
        tail = text[self._begin :]
        begins = [
            token.map[0]
            for token in _parser().parse(tail)
            if token.level == 0 and token.map is not None
        ]
        if len(set(begins)) > 1:
            until = sum(map(len, tail.splitlines(keepends=True)[: max(begins)]))
            self.blocks.append(_parser().render(tail[:until]))
            self._begin += until
            tail = tail[until:]
        self.tail = _parser().render(tail)


def code(text: str) -> str:
    """Return the HTML of a text that is shown as it is, to be copied."""
    copy, copied = say("Copy", "复制"), say("Copied", "已复制")
    return (
        f'<div class="code"><pre tabindex="0"><code>{escapeHtml(text)}</code></pre>'
        f'<button type="button" class="slim" data-copy="{copied}">{copy}</button></div>\n'
    )


def indented(text: str) -> str:
    """Return JSON as one reads it; what is no JSON, as it is."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except ValueError:
        return text


def is_safe(address: str) -> bool:
    """Return whether a link may lead there."""
    try:
        return urlsplit(address.strip()).scheme.lower() in SCHEMES
    except ValueError:
        return False


class _Parser(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return is_safe(url)


@cache
def _parser() -> MarkdownIt:
    parser = _Parser("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"])
    for name, rule in RULES.items():
        parser.add_render_rule(name, rule)
    return parser


def _fence(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    at: int,
    options: Any,
    environment: Environment,
) -> str:
    return code(tokens[at].content)


def _image(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    at: int,
    options: Any,
    environment: Environment,
) -> str:
    """A link; within a link, its words alone."""
    label = escapeHtml(tokens[at].content or say("picture", "图片"))
    depth = sum(
        token.nesting for token in tokens[:at] if token.type.startswith("link_")
    )
    if depth:
        return label
    return f'<a href="{escapeHtml(str(tokens[at].attrs["src"]))}"{LINK}>{label}</a>'


def _link(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    at: int,
    options: Any,
    environment: Environment,
) -> str:
    return f'<a href="{escapeHtml(str(tokens[at].attrs["href"]))}"{LINK}>'


def _heading(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    at: int,
    options: Any,
    environment: Environment,
) -> str:
    level = min(int(tokens[at].tag[1]) + FIRST_HEADING - 1, 6)
    return f"</h{level}>\n" if tokens[at].nesting < 0 else f"<h{level}>"


def _table(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    at: int,
    options: Any,
    environment: Environment,
) -> str:
    is_end = tokens[at].nesting < 0
    return "</table></div>\n" if is_end else '<div class="wide" tabindex="0"><table>\n'


def _cell(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    at: int,
    options: Any,
    environment: Environment,
) -> str:
    """A style attribute would be refused by the content policy; a class is not."""
    is_right = "right" in str(tokens[at].attrs.get("style", ""))
    tag = tokens[at].tag
    return f'<{tag} class="right">' if is_right else f"<{tag}>"


RULES: dict[str, Any] = {
    "fence": _fence,
    "code_block": _fence,
    "image": _image,
    "link_open": _link,
    "heading_open": _heading,
    "heading_close": _heading,
    "table_open": _table,
    "table_close": _table,
    "th_open": _cell,
    "td_open": _cell,
}
