"""A small ONNX model, written by hand: the format is protocol buffers
(github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from pathlib import Path

FLOAT = 1
"""TensorProto.DataType."""
IR_VERSION = 8
OPSET = 13


def varint(value: int) -> bytes:
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, value: str | bytes) -> bytes:
    """Return a field that holds a text or another message."""
    content = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(content)) + content


def dimension(size: int | str) -> bytes:
    """Return a TensorShapeProto.Dimension: a number, or a name for any."""
    content = number(1, size) if isinstance(size, int) else message(2, size)
    return message(1, content)


def value_info(name: str, shape: tuple[int | str, ...]) -> bytes:
    """Return a ValueInfoProto of float32."""
    dimensions = b"".join(dimension(size) for size in shape)
    tensor = number(1, FLOAT) + message(2, dimensions)
    return message(1, name) + message(2, message(1, tensor))


def node(operation: str, source: str, target: str) -> bytes:
    """Return a NodeProto, as a field of the graph."""
    content = message(1, source) + message(2, target) + message(4, operation)
    return message(1, content)


def write_onnx(
    path: Path, side: int | str = "side", channels: int = 3, pooled: bool = True
) -> Path:
    """Write a model of images [n, channels, side, side].

    It gives the mean of each channel, [n, channels]; or, not pooled, the image itself.
    """
    image = ("n", channels, side, side)
    if pooled:
        nodes = node("GlobalAveragePool", "x", "m") + node("Flatten", "m", "y")
        output = value_info("y", ("n", channels))
    else:
        nodes = node("Relu", "x", "y")
        output = value_info("y", image)
    graph = nodes + message(2, "means")
    graph += message(11, value_info("x", image)) + message(12, output)
    opset = message(1, "") + number(2, OPSET)
    model = number(1, IR_VERSION) + message(7, graph) + message(8, opset)
    path.write_bytes(model)
    return path
