"""Any text, cut into any token pieces, comes out whole, character by character."""

import codecs
import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from miaobi.engines.text.detokenizer import (
    REPLACEMENT,
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    byte_level_table,
    byte_of_character,
    sentencepiece_table,
)

TEXT = st.text(st.sampled_from("ab 春江花月夜🌙é\n·"), max_size=40)
CUTS = st.lists(st.integers(0, 400))


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, cut at these positions (modulo its length)."""
    inner = {position % (len(data) + 1) for position in cuts}
    bounds = sorted({0, len(data)} | inner)
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def pieces_of(detokenizer: Detokenizer, tokens: Iterable[int]) -> list[str]:
    pieces = [detokenizer.push(token) for token in tokens]
    return [*pieces, detokenizer.flush()]


@given(TEXT, CUTS)
def test_bytes_join_to_the_whole_at_character_boundaries(
    text: str, cuts: list[int]
) -> None:
    table = cut(text.encode(), cuts)
    pieces = pieces_of(ByteDetokenizer(table), range(len(table)))
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


@given(st.lists(st.binary(max_size=3), max_size=12))
def test_broken_bytes_are_marked_and_a_character_cut_by_the_end_is_left_out(
    table: list[bytes],
) -> None:
    pieces = pieces_of(ByteDetokenizer(table), range(len(table)))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    assert "".join(pieces) == decoder.decode(b"".join(table))


@given(TEXT, CUTS)
def test_window_joins_to_the_whole(text: str, cuts: list[int]) -> None:
    table = [b"a", *cut(text.encode(), cuts)]

    def decode(ids: list[int]) -> str:
        return b"".join(table[token] for token in ids).decode("utf-8", "replace")

    pieces = pieces_of(WindowDetokenizer(decode, anchor=0), range(1, len(table)))
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


def test_the_window_does_not_wait_for_ever_behind_broken_bytes() -> None:
    def decode(ids: list[int]) -> str:
        return "a" + REPLACEMENT * (len(ids) - 1)

    detokenizer = WindowDetokenizer(decode, anchor=0)
    pieces = [detokenizer.push(1) for _ in range(8)]
    assert pieces == ["", "", "", REPLACEMENT * 4] * 2


def test_byte_level_alphabet_is_gpt2s() -> None:
    assert len(byte_of_character()) == 256
    assert set(byte_of_character().values()) == set(range(256))
    pieces = ["Ġhi", "æĺ", "¥", "<|end|>", "a b"]
    assert byte_level_table(pieces, {3}) == [
        b" hi",
        "春".encode()[:2],
        "春".encode()[2:],
        b"",
        b"a b",
    ]


def test_sentencepiece_pieces() -> None:
    assert sentencepiece_table(["▁春", "<0xE6>", "</s>", "<0xZZ>"], {2}) == [
        " 春".encode(),
        b"\xe6",
        b"",
        b"<0xZZ>",
    ]
