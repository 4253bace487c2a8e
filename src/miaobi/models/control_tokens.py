"""Control tokens in people's texts are text.

A tokenizer reads `<|im_end|>` as the end of a turn wherever it is spelled. So people's
texts are cut inside every control token that they spell before a template is rendered
with them, and the rendered prompt is tokenised part by part: no part spells a control
token that the template did not write. A prompt without a cut is one part, whose tokens
are those of the whole string.

Knows nothing of templates and engines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from miaobi.models.weights import read_json

Span = tuple[int, int]
"""[start, end) in characters."""

Token = tuple[int, int, int]
"""A token's id, and where its text starts and ends."""

CONTROL_TYPES = (2, 3)
"""Types of tokens in a GGUF file that engines read in texts: unknown and control."""

USER_DEFINED = 4

ANCHOR = "\n"
"""Stands before a part that is not the first, and is taken off its tokens again: some
tokenizers put a space before whatever they are given.
"""

PRIVATE_USE = range(0x100000, 0x10FFFE)
"""Characters without a meaning: a few that a conversation does not hold are its marks
while it is rendered.
"""


@dataclass(frozen=True)
class Prompt:
    """A text whose parts are tokenised by themselves.

    Slicing gives the part of a prompt.
    """

    text: str
    cuts: tuple[int, ...] = ()
    """Where a control token is cut that people wrote, in characters."""
    turns: tuple[Span, ...] = field(default=(), compare=False)
    """What the template marks as the assistant's ({% generation %})."""

    def __getitem__(self, part: slice) -> Prompt:
        first, end, _ = part.indices(len(self.text))
        cuts = tuple(cut - first for cut in self.cuts if first < cut < end)
        return Prompt(self.text[part], cuts)

    def without_first(self, token: str) -> Prompt:
        """Return what follows `token`, where the template began with it."""
        if not self.text.startswith(token) or self[: len(token)].cuts:
            return self
        return self[len(token) :]

    def parts(self) -> Iterator[Span]:
        """Yield where each part starts and ends."""
        return pairwise([0, *self.cuts, len(self.text)])

    def encode(self, encode: Callable[[str], Sequence[int]]) -> list[int]:
        """Return the prompt's token ids.

        Args:
            encode: the tokenizer, which reads control tokens.
        """
        first, *others = self.parts()
        ids = list(encode(self.text[slice(*first)]))
        anchor = len(encode(ANCHOR)) if others else 0
        for part in others:
            ids += encode(ANCHOR + self.text[slice(*part)])[anchor:]
        return ids

    def encode_with_offsets(
        self, encode: Callable[[str], Sequence[Token]]
    ) -> list[Token]:
        """Return the prompt's tokens, each with where it stands in `text`.

        Args:
            encode: the tokenizer, which reads control tokens.
        """
        first, *others = self.parts()
        tokens = list(encode(self.text[slice(*first)]))
        anchor = len(encode(ANCHOR)) if others else 0
        for part in others:
            shift = part[0] - len(ANCHOR)
            text = ANCHOR + self.text[slice(*part)]
            for token, left, right in encode(text)[anchor:]:
                tokens.append((token, left + shift, right + shift))
        return tokens


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a vocabulary."""

    tokens: frozenset[str] = frozenset()

    @classmethod
    def among(cls, added: Mapping[str, bool]) -> ControlTokens:
        """Return the control tokens among a vocabulary's added tokens.

        Those that are declared so, and those that look it, as llama.cpp has it
        (convert_hf_to_gguf.py, `does_token_look_special`). A token of one character
        cannot be cut, so it is none.

        Args:
            added: the tokens, and whether each is declared special.
        """
        return cls(
            frozenset(
                token
                for token, special in added.items()
                if len(token) > 1 and (special or _looks_special(token))
            )
        )

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(token) for token in self.tokens})

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(
            token[:length] for token in self.tokens for length in range(1, len(token))
        )

    @cached_property
    def _first_character(self) -> re.Pattern[str]:
        characters = sorted({re.escape(token[0]) for token in self.tokens})
        return re.compile("|".join(characters) or "(?!)")

    def stands_at(self, text: str, index: int) -> bool:
        """Return whether a control token begins at `index`."""
        return any(text[index : index + size] in self.tokens for size in self._lengths)

    def cut(self, value: Any, mark: str) -> Any:
        """Return JSON whose texts spell no control token.

        `mark` stands after the first character of each, also of one that the end of a
        text only begins: another text may go on with it.
        """
        if isinstance(value, str):
            return self._cut_text(value, mark)
        if isinstance(value, Mapping):
            return {
                self.cut(key, mark): self.cut(item, mark) for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.cut(item, mark) for item in value]
        return value

    def _cut_text(self, text: str, mark: str) -> str:
        stripped = text.rstrip()

        def first_character(match: re.Match[str]) -> str:
            index = match.start()
            if self.stands_at(text, index) or stripped[index:] in self._beginnings:
                return match[0] + mark
            return match[0]

        return self._first_character.sub(first_character, text)


@dataclass(frozen=True)
class Marks:
    """Characters that stand in a conversation's texts only while it is rendered."""

    cut: str
    turn_opening: str
    turn_closing: str
    end: str
    """Of a message that is not ended yet."""

    @classmethod
    def unused_in(cls, value: Any) -> Marks:
        """Return marks that no text of `value` (JSON) holds."""
        text = "".join(_texts(value))
        spare = (
            character
            for character in map(chr, PRIVATE_USE)
            if character not in text and _escaped(character) not in text
        )
        return cls(*islice(spare, 4))

    def prompt(self, rendered: str, tokens: ControlTokens) -> Prompt:
        """Return what was rendered without the marks, and where they stood.

        Cuts that cut no control token are left out.
        """
        cut_forms = (self.cut, _escaped(self.cut))
        marks = "|".join(
            map(re.escape, (*cut_forms, self.turn_opening, self.turn_closing))
        )
        pieces = list[str]()
        length = 0
        cuts = list[int]()
        openings = list[int]()
        turns = list[Span]()
        for piece in re.split(f"({marks})", rendered):
            if piece in cut_forms:
                cuts.append(length)
            elif piece == self.turn_opening:
                openings.append(length)
            elif piece == self.turn_closing:
                turns.append((openings.pop(), length))
            else:
                pieces.append(piece)
                length += len(piece)
        text = "".join(pieces)
        needed = [cut for cut in cuts if tokens.stands_at(text, cut - 1)]
        return Prompt(text, tuple(needed), tuple(turns))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _escaped(character: str) -> str:
    """Return a character as JSON in ASCII spells it."""
    return json.dumps(character)[1:-1]


def _looks_special(token: str) -> bool:
    return any(
        token.startswith(opening) and token.endswith(closing)
        for opening, closing in [("<|", "|>"), ("<\uff5c", "\uff5c>")]
    )


def tokens_of_folder(folder: Path) -> ControlTokens:
    """Return the control tokens of a model folder's tokenizer.

    They are in tokenizer.json, or beside a tokenizer of another kind in
    tokenizer_config.json.
    """
    path = folder / "tokenizer.json"
    if path.exists():
        items = read_json(path).get("added_tokens") or []
        return ControlTokens.among({item["content"]: item["special"] for item in items})
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    items = (config.get("added_tokens_decoder") or {}).values()
    return ControlTokens.among(
        {item["content"]: item.get("special", False) for item in items}
    )


def tokens_of_gguf(metadata: Mapping[str, Any]) -> ControlTokens:
    """Return the control tokens of a GGUF file."""
    tokens: Collection[str] = metadata.get("tokenizer.ggml.tokens", ())
    types = metadata.get("tokenizer.ggml.token_type", ())
    return ControlTokens.among(
        {
            token: kind in CONTROL_TYPES
            for token, kind in zip(tokens, types, strict=False)
            if kind in CONTROL_TYPES or kind == USER_DEFINED
        }
    )
