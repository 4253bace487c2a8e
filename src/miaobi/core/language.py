"""The user's language: English or Chinese.

It is the one of `speaking` where a request or a page has its own, else that of
MIAOBI_LANG or the system's locale. Both wordings stand side by side where they are used,
so neither can be forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

LANGUAGES = ("en", "zh")
_spoken: ContextVar[str | None] = ContextVar("language", default=None)


def language() -> str:
    """Return "zh" or "en"."""
    return _spoken.get() or process_language()


@cache
def process_language() -> str:
    """Return the language of whoever started this process."""
    chosen = (
        os.environ.get("MIAOBI_LANG")
        or os.environ.get("LC_ALL")
        or os.environ.get("LANG")
        or "en"
    )
    return "zh" if chosen.lower().startswith("zh") else "en"


@contextmanager
def speaking(chosen: str | None) -> Iterator[None]:
    """Use a language of LANGUAGES in this block, and in the threads and tasks that it
    starts; None for the process's own.
    """
    before = _spoken.set(chosen)
    try:
        yield
    finally:
        _spoken.reset(before)


def preferred(accept_language: str) -> str | None:
    """Return the first of our languages that a header names (RFC 9110, 12.5.4), by its
    weights; None if it names none.
    """
    wanted = sorted(_weighed(accept_language), key=lambda item: -item[1])
    return next((name for name, weight in wanted if weight > 0), None)


def _weighed(accept_language: str) -> Iterator[tuple[str, float]]:
    for part in accept_language.split(","):
        tag, _, weight = part.partition(";")
        name = tag.strip()[:2].lower()
        if name not in LANGUAGES:
            continue
        try:
            yield name, float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            continue


class Wording(str):
    """A text that keeps both wordings: what is stored can be read later in another
    language.

    `str()` and f-strings take the one of the language that is spoken then. An f-string
    around it has that language alone; `in_each`, `+` and `joined` keep both.
    """

    wordings: dict[str, str]

    def __new__(cls, english: str, chinese: str) -> Wording:
        wordings = dict(zip(LANGUAGES, (english, chinese), strict=True))
        text = super().__new__(cls, wordings[language()])
        text.wordings = wordings
        return text

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Return what a copy in another process is made of."""
        return self.wordings["en"], self.wordings["zh"]

    def __str__(self) -> str:
        return spoken(self)

    def __format__(self, spec: str) -> str:
        return format(spoken(self), spec)

    def __add__(self, other: str) -> Wording:
        return joined((self, other), "")

    def __radd__(self, other: str) -> Wording:
        return joined((other, self), "")


def say(english: str, chinese: str) -> str:
    """Return the wording in the user's language, a Wording."""
    return Wording(english, chinese)


def wordings_of(text: str) -> dict[str, str]:
    """Return what a text says by language; {} where it is in one language alone."""
    return text.wordings if isinstance(text, Wording) else {}


def spoken(text: str) -> str:
    """Return what a text says in the user's language; as it is, where it is in one
    alone.
    """
    return wordings_of(text).get(language(), text)


def in_each(make: Callable[[], str]) -> Wording:
    """Return what `make` makes in each language: for texts put together of others.

    Such as `in_each(lambda: say(f"{path}: {reason}", f"{path}：{reason}"))`, where
    `reason` is a Wording.
    """
    texts = list[str]()
    for name in LANGUAGES:
        with speaking(name):
            texts.append(str(make()))
    return Wording(*texts)


def joined(texts: Sequence[str], separator: str = "\n  ") -> Wording:
    """Return the texts that are not empty, one after another, in both languages; one in
    a single language is the same in both.
    """
    filled = [text for text in texts if text]
    return in_each(lambda: str(separator).join(map(str, filled)))


def located(location: str, problem: str) -> Wording:
    """Return what is wrong, after where it is."""
    return in_each(lambda: say(f"{location}: {problem}", f"{location}：{problem}"))
