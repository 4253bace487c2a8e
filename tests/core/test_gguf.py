"""A GGUF header is read in bounds: cut, altered and false files are refused, at no cost."""

import contextlib
import struct
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miaobi.core import gguf
from miaobi.core.errors import Damaged, MiaobiError

NUMBERS = count()
"""For names: headers are cached by path."""


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def pair(key: str, form: str, *values: int, content: bytes = b"") -> bytes:
    """A key with its value: type numbers, lengths and numbers, then further bytes."""
    return string(key) + struct.pack(f"<{form}", *values) + content


def small_gguf() -> bytes:
    """A whole file: four pairs of metadata and one tensor [4, 2] of F32."""
    pieces = string("a") + string("春")
    pairs = [
        pair("general.architecture", "I", 8, content=string("llama")),
        pair("llama.context_length", "II", 4, 64),
        pair("tokenizer.ggml.tokens", "IIQ", 9, 8, 2, content=pieces),
        pair("tokenizer.ggml.token_type", "IIQii", 9, 5, 2, 1, 3),
    ]
    tensor = pair("w", "IQQIQ", 2, 4, 2, 0, 0)
    counts = struct.pack("<IQQ", 3, 1, len(pairs))
    head = b"GGUF" + counts + b"".join(pairs) + tensor
    padding = b"\0" * (-len(head) % 32)
    return head + padding + b"\1" * 32


def test_reads_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(small_gguf())
    header = gguf.read(path)
    assert header.architecture == "llama"
    assert header.of_model("context_length") == 64
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "春"]
    assert list(header.metadata["tokenizer.ggml.token_type"]) == [1, 3]
    assert header.types == {"F32"}
    assert header.parameters == 8


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = small_gguf()
    for size in range(len(whole)):
        path = tmp_path / f"{size}.gguf"
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            gguf.read(path)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    position=st.integers(0, len(small_gguf()) - 1),
    value=st.binary(min_size=1, max_size=8),
)
def test_a_false_header_costs_no_more_than_its_size(
    tmp_path: Path, position: int, value: bytes
) -> None:
    data = small_gguf()
    altered = data[:position] + value + data[position + len(value) :]
    path = tmp_path / f"{next(NUMBERS)}.gguf"
    path.write_bytes(altered[: len(data)])
    take = gguf._Cursor.take
    with (
        patch.object(gguf._Cursor, "take", autospec=True, side_effect=take) as take_spy,
        contextlib.suppress(MiaobiError),
    ):
        gguf.read(path)
    # A number takes a byte at least; a string is a number and its letters.
    assert take_spy.call_count <= 2 * len(data)


def test_a_real_file_cut_short(smollm2: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2.read_bytes()[:-1000])
    with pytest.raises(
        Damaged, match=r"cut short: 9\d,\d{3},\d{3} bytes where its header promises"
    ):
        gguf.read(cut)
    assert gguf.read(smollm2).parameters == 134_515_008
