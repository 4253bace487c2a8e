"""Markdown of models as HTML: what it shows, and what it never does."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.studio.pages.chat.markdown import Growing, rendered

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](/studio/login)",
    "[x](//example.org)",
    "![x](https://example.org/x.png)",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    '[x](https://example.org/"onmouseover="alert(1))',
    "<javascript:alert(1)>",
    '```" onclick="x\n</code><script>x</script>\n```',
    "| a |\n|:-:|\n| <b>x</b> |",
    "[![a](https://a.org/a.png)](https://b.org)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_runs_and_nothing_is_fetched(text: str) -> None:
    html = rendered(text)
    tags = re.findall(r"<[^>]*>", html)
    assert not any(re.match(r"<(script|img|svg|iframe|b\b)", tag) for tag in tags)
    assert not any(re.search(r"\s(on\w+|style|src)=", tag) for tag in tags)
    for address in re.findall(r'href="([^"]*)"', html):
        assert address.startswith(("http://", "https://", "mailto:"))
    assert html.count("<a ") == html.count('rel="noopener noreferrer nofollow"')


def test_forms_of_markdown_have_the_studio_s_own() -> None:
    assert rendered("# a") == "<h3>a</h3>\n"
    assert rendered("###### a").startswith("<h6>")
    assert '<div class="wide"' in rendered("| a |\n|--:|\n| 1 |")
    assert '<td class="right">1</td>' in rendered("| a |\n|--:|\n| 1 |")
    assert '<pre tabindex="0"><code>x &lt; 1\n</code></pre>' in rendered(
        "```py\nx < 1\n```"
    )
    assert rendered("one\ntwo") == "<p>one<br />\ntwo</p>\n"


PIECES = st.sampled_from(
    [
        "word ",
        "\n",
        "\n\n",
        "- item\n",
        "  - in\n",
        "1. one\n",
        "```\n",
        "    code\n",
        "# h\n",
        "> q\n",
        "| a | b |\n",
        "|---|---|\n",
        "**b**",
        "---\n",
        "===\n",
        "\r\n",
    ]
)


@given(st.lists(PIECES, max_size=30))
def test_a_growing_text_becomes_what_the_whole_is(pieces: list[str]) -> None:
    growing = Growing()
    text = ""
    for piece in pieces:
        text += piece
        growing.update(text)
    together = "".join([*growing.blocks, growing.tail])
    assert together == rendered(text)


def test_finished_blocks_are_rendered_once() -> None:
    growing = Growing()
    growing.update("one\n\ntwo\n\nthree")
    first = growing.blocks[0]
    growing.update("one\n\ntwo\n\nthree\n\nfour")
    assert growing.blocks[0] is first
    assert growing.tail == "<p>four</p>\n"
