"""Which language is wanted: a token in front of the source, in Marian's form."""

from __future__ import annotations

import re
from collections.abc import Sequence

from miaobi.core.errors import BadInput
from miaobi.core.language import say

TAG = re.compile(r"\s*>>([\w-]+)<<\s*")
"""The language that a text asks for."""


def language_token(language: str) -> str:
    """Return the token that asks for a language, as Marian's models have it."""
    return f">>{language}<<"


def tagged(text: str, languages: Sequence[str]) -> tuple[str, str]:
    """Return the language that is asked for, and the text: ">>zh<< Open" is ("zh", "Open").

    Without a tag it is the second of `languages`; "" for a model that has none.

    Raises BadInput for a language that is not among them, and for an empty text.
    """
    language = languages[1] if languages else ""
    if languages and (tag := TAG.match(text)):
        language = tag[1]
        text = text[tag.end() :]
    if not text.strip():
        raise BadInput(
            say("The text is empty.", "文本为空。"),
            say("Give a text of one character or more.", "请至少给出一个字符。"),
            field="prompt",
        )
    if language and language not in languages:
        raise BadInput(
            say(
                f"This model does not write {language!r}.",
                f"此模型不会写 {language!r}。",
            ),
            say(
                f"Begin with one of {', '.join(map(language_token, languages))}.",
                f"请以其中之一开头：{'、'.join(map(language_token, languages))}。",
            ),
            field="prompt",
        )
    return language, text
