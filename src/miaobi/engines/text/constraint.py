"""Answers held to a JSON schema token by token, by llguidance (Microsoft, MIT).

A matcher knows which tokens may follow; the engine masks the others. It takes all that
`Prepared` does, and a single space after ":" and ",".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from miaobi.core.errors import MissingPart
from miaobi.core.language import say
from miaobi.engines.text.schema import Prepared, parts_in_order, unsatisfied

LAYOUT: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""White space: one space after a comma and a colon, as the grammar of the other engines
has it, and none to the end of the answer.
"""
SPELLING = b'{}[]":,.-0123456789 abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
"""What a vocabulary must have tokens for, to write JSON."""


def grammar_of(schema: Mapping[str, Any]) -> str:
    """Return llguidance's grammar of a JSON schema.

    Raises Unsupported or BadInput naming the place as it was written, and MissingPart
    where llguidance is not installed.
    """
    if find_spec("llguidance") is None:
        raise MissingPart(
            say(
                "This JSON schema needs llguidance to be enforced.",
                "此 JSON schema 需要 llguidance 才能保证。",
            ),
            'pip install "miaobi[engines]"',
        )
    prepared = Prepared(schema)
    whole = _grammar(prepared.with_definitions(prepared.schema))
    if not _fault(whole):
        return whole
    for where, part in parts_in_order(prepared):
        fault = _fault(_grammar(part))
        if fault:
            raise unsatisfied(where, fault)
    raise unsatisfied("#", _fault(whole))


def with_layout(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema as another copy of llguidance is to read it."""
    prepared = Prepared(schema)
    return {**prepared.with_definitions(prepared.schema), "x-guidance": LAYOUT}


def check(schema: Mapping[str, Any]) -> None:
    """Raise what `grammar_of` raises."""
    grammar_of(schema)


def _grammar(schema: Mapping[str, Any]) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=LAYOUT)


def _fault(grammar: str) -> str:
    """What is wrong with a grammar, in llguidance's words; empty for nothing."""
    from llguidance import LLMatcher

    message: str = LLMatcher.validate_grammar(grammar, bytewise())
    if message.startswith("oneOf"):
        return say(
            "alternatives of its oneOf overlap; anyOf can be enforced",
            "其 oneOf 的选项相互重叠；可改用 anyOf",
        )
    reasons = message.strip().splitlines()
    return reasons[-1].removeprefix("error: ").strip() if reasons else ""


class Constraint:
    """A vocabulary under constraints.

    Args:
        table: the bytes of every token, b"" for control tokens.
        eos_ids: the tokens that end an answer.
    """

    def __init__(self, table: Sequence[bytes], eos_ids: Collection[int]) -> None:
        self._tokenizer = _tokenizer(table, sorted(eos_ids))

    def matchers(self, schema: Mapping[str, Any], count: int) -> list[Matcher]:
        """Return matchers at the beginning of answers. Raises as `grammar_of`."""
        grammar = grammar_of(schema)
        return [Matcher(self._tokenizer, grammar) for _ in range(count)]


class Matcher:
    """One answer on its way through a grammar."""

    def __init__(self, tokenizer: Any, grammar: str) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(tokenizer, grammar, log_level=0)

    def allowed(self) -> bytes:
        """Return a byte a token: 0 for those that may not come next."""
        mask: bytes = self._matcher.compute_logit_bias()
        return mask

    def take(self, token: int) -> bool:
        """Go on by a token that was chosen; False where it is not allowed."""
        return bool(self._matcher.consume_token(token))

    @property
    def may_end(self) -> bool:
        """Whether the answer is whole as it is."""
        return bool(self._matcher.is_accepting())

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())


class TextMatcher:
    """Whether a text keeps to a schema, as far as it has come."""

    def __init__(self, grammar: str) -> None:
        self._matcher = Matcher(bytewise(), grammar)

    def take(self, text: str) -> bool:
        """Go on by a piece of text; False where it leaves the schema."""
        return all(self._matcher.take(byte) for byte in text.encode())

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.may_end


def spells_json(table: Sequence[bytes] | None) -> bool:
    """Return whether a vocabulary has tokens for what JSON is written with."""
    return table is not None and {bytes([byte]) for byte in SPELLING} <= set(table)


@cache
def bytewise() -> Any:
    """The tokenizer whose tokens are the bytes; token 256 ends a text."""
    return _tokenizer([bytes([byte]) for byte in range(256)], [])


def _tokenizer(table: Sequence[bytes], eos_ids: list[int]) -> Any:
    """llguidance's view of a vocabulary.

    One token more than the table ends the text where the model has none for it.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    tokens = [*table, b""]
    end_ids = eos_ids or [len(table)]
    special = [token for token, piece in enumerate(tokens) if not piece]
    named = [piece or f"<|{token}|>".encode() for token, piece in enumerate(tokens)]
    wrapper = TokenizerWrapper(_Pieces(named, end_ids[0], special))
    return LLTokenizer(wrapper, eos_token=end_ids)


class _Pieces:
    """What TokenizerWrapper reads."""

    def __init__(self, tokens: list[bytes], eos: int, special: list[int]) -> None:
        self.tokens = tokens
        self.eos_token_id = eos
        self.bos_token_id = None
        self.special_token_ids = special
        numbers = set(range(len(tokens))) - set(special)
        self._numbers = {tokens[number]: number for number in numbers}
        self._longest = max(map(len, self._numbers), default=1)

    def __call__(self, text: bytes) -> list[int]:
        """Return the tokens of a text that the schema leaves no choice of.

        Each is the longest that fits: the vocabulary alone says no more.
        """
        ids: list[int] = []
        position = 0
        while position < len(text):
            for end in range(min(len(text), position + self._longest), position, -1):
                number = self._numbers.get(text[position:end])
                if number is not None:
                    break
            else:
                break
            ids.append(number)
            position = end
        return ids
