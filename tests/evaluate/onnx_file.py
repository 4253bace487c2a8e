"""A small ONNX model, written by hand: the format is protocol buffers
(github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from pathlib import Path


def number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def text(field: int, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def value(name: str, shape: tuple[int | str, ...]) -> bytes:
    sides = b"".join(
        text(1, number(1, side) if isinstance(side, int) else text(2, side))
        for side in shape
    )
    return text(1, name) + text(2, text(1, number(1, 1) + text(2, sides)))


def channel_means(
    path: Path, side: int | str = "side", channels: int = 3, flat: bool = True
) -> Path:
    """[n, channels, side, side] -> the mean of each channel, [n, channels] or, not
    flat, the picture itself.
    """
    nodes = (
        text(1, text(1, "x") + text(2, "m") + text(4, "GlobalAveragePool"))
        + text(1, text(1, "m") + text(2, "y") + text(4, "Flatten"))
        if flat
        else text(1, text(1, "x") + text(2, "y") + text(4, "Relu"))
    )
    out = value("y", ("n", channels) if flat else ("n", channels, side, side))
    graph = (
        nodes
        + text(2, "means")
        + text(11, value("x", ("n", channels, side, side)))
        + text(12, out)
    )
    path.write_bytes(
        number(1, 8) + text(7, graph) + text(8, text(1, "") + number(2, 13))
    )
    return path
