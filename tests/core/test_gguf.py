"""A GGUF header is read in bounds: cut, altered and lying files are told as such, quickly."""

import contextlib
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miaobi.core import gguf
from miaobi.core.errors import Damaged, MiaobiError


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def small_gguf() -> bytes:
    pairs = [
        string("general.architecture") + struct.pack("<I", 8) + string("llama"),
        string("llama.context_length") + struct.pack("<II", 4, 64),
        string("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, 2)
        + string("a")
        + string("春"),
        string("tokenizer.ggml.token_type")
        + struct.pack("<IIQ", 9, 5, 2)
        + struct.pack("<ii", 1, 3),
    ]
    tensor = (
        string("w")
        + struct.pack("<I", 2)
        + struct.pack("<QQ", 4, 2)
        + struct.pack("<IQ", 0, 0)
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor
    return head + b"\0" * (-len(head) % 32) + b"\1" * 32


def test_reads_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(small_gguf())
    header = gguf.read(path)
    assert header.architecture == "llama"
    assert header.of_model("context_length") == 64
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "春"]
    assert list(header.metadata["tokenizer.ggml.token_type"]) == [1, 3]
    assert (header.types, header.parameters) == ({"F32"}, 8)


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
    at=st.integers(0, len(small_gguf()) - 1), value=st.binary(min_size=1, max_size=8)
)
def test_lying_headers_cost_nothing(tmp_path: Path, at: int, value: bytes) -> None:
    data = small_gguf()
    path = tmp_path / f"{time.monotonic_ns()}.gguf"
    path.write_bytes((data[:at] + value + data[at + len(value) :])[: len(data)])
    start = time.monotonic()
    with contextlib.suppress(MiaobiError):
        gguf.read(path)
    assert time.monotonic() - start < 1
    path.unlink()


def test_a_real_file_cut_short(smollm2: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2.read_bytes()[:-1000])
    with pytest.raises(
        Damaged, match=r"cut short: 9\d,\d{3},\d{3} bytes where its header promises"
    ):
        gguf.read(cut)
    assert gguf.read(smollm2).parameters == 134_515_008
