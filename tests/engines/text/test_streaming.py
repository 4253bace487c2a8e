"""Any text, cut into any token pieces, comes out whole, character by character, and
never shows a stop string.
"""

import codecs
import itertools

from hypothesis import given
from hypothesis import strategies as st

from miaobi.engines.text.streaming import (
    REPLACEMENT,
    ByteDetokenizer,
    StopText,
    TextStream,
    WindowDetokenizer,
    byte_level_table,
    byte_of_character,
    sentencepiece_table,
)

TEXT = st.text(st.sampled_from("ab 春江花月夜🌙é\n·"), max_size=40)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(at % (len(data) + 1) for at in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(TEXT, st.lists(st.integers(0, 400)))
def test_bytes_join_to_the_whole_at_character_boundaries(
    text: str, cuts: list[int]
) -> None:
    table = cut(text.encode(), cuts)
    detokenizer = ByteDetokenizer(table)
    pieces = [detokenizer.push(token) for token in range(len(table))] + [
        detokenizer.flush()
    ]
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


@given(st.lists(st.binary(max_size=3), max_size=12))
def test_broken_bytes_are_marked_and_a_character_cut_by_the_end_is_left_out(
    table: list[bytes],
) -> None:
    detokenizer = ByteDetokenizer(table)
    pieces = [detokenizer.push(token) for token in range(len(table))] + [
        detokenizer.flush()
    ]
    assert "".join(pieces) == codecs.getincrementaldecoder("utf-8")("replace").decode(
        b"".join(table)
    )


@given(TEXT, st.lists(st.integers(0, 400)))
def test_window_joins_to_the_whole(text: str, cuts: list[int]) -> None:
    table = [b"a", *cut(text.encode(), cuts)]
    detokenizer = WindowDetokenizer(
        lambda ids: b"".join(table[i] for i in ids).decode("utf-8", "replace"), anchor=0
    )
    pieces = [detokenizer.push(token) for token in range(1, len(table))] + [
        detokenizer.flush()
    ]
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


@given(
    TEXT,
    st.lists(st.integers(0, 400)),
    st.lists(st.text(st.sampled_from("ab 春江🌙"), min_size=1, max_size=3), max_size=3),
)
def test_stop_strings_never_show(text: str, cuts: list[int], stops: list[str]) -> None:
    table = cut(text.encode(), cuts)
    stream, shown = TextStream(ByteDetokenizer(table), stops), ""
    for token in range(len(table)):
        shown += stream.push(token)
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        if stream.stopped:
            break
    shown += stream.finish()
    ends = [text.find(stop) for stop in stops if stop in text]
    assert stream.stopped == bool(ends)
    if ends:  # the cut is where the first stop string to be completed begins
        first = min(
            (text.find(stop) + len(stop), text.find(stop))
            for stop in stops
            if stop in text
        )
        assert len(shown) <= first[1] or shown == text[: min(ends)]
        assert text.startswith(shown)
    else:
        assert shown == text


def test_stop_text_holds_back_only_what_may_begin_a_stop() -> None:
    stop = StopText(["###", "END"])
    assert stop.push("hello #") == "hello "
    assert stop.push("#x E") == "##x "
    assert stop.push("N") == ""
    assert stop.push("D more") == ""
    assert stop.stopped
    assert stop.flush() == ""


def test_byte_level_alphabet_is_gpt2s() -> None:
    assert len(byte_of_character()) == 256
    assert set(byte_of_character().values()) == set(range(256))
    assert byte_level_table(["Ġhi", "æĺ", "¥", "<|end|>", "a b"], {3}) == [
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
