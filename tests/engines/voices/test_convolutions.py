"""Convolutions as products: the same integers as onnxruntime's own."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from miaobi.engines.voices.convolutions import rewritten, use_products


def convolution(
    kernel: int,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    dtype: type = np.uint8,
    stride: int = 1,
) -> ModelProto:
    """A model of one ConvInteger [B, 5, L] to [B, 7, L'] whose input is float."""
    random = np.random.default_rng(kernel)
    low = 0 if dtype is np.uint8 else -128
    weights = random.integers(low, low + 256, (7, 5, kernel)).astype(dtype)
    zero = np.array(random.integers(low, low + 256), dtype)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node(
            "ConvInteger",
            ["q", "w", "zero", "wz"],
            ["y"],
            name="conv",
            dilations=[dilation],
            pads=list(pads),
            strides=[stride],
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 5, "L"])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(zero, "wz")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )


def output(model: ModelProto) -> np.ndarray:
    values = np.random.default_rng(1).standard_normal((2, 5, 40)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString())
    result = session.run(None, {"x": values})[0]
    return np.asarray(result)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("kernel", "dilation", "pads"),
    [
        (1, 1, (0, 0)),
        (3, 1, (1, 1)),
        (3, 5, (5, 5)),
        (7, 3, (9, 9)),
        (4, 1, (0, 3)),
        (11, 1, (0, 0)),
    ],
)
def test_the_same_integers(
    kernel: int, dilation: int, pads: tuple[int, int], dtype: type
) -> None:
    model = convolution(kernel, dilation, pads, dtype)
    expected = output(model)
    assert use_products(model) == 1
    assert not any(node.op_type == "ConvInteger" for node in model.graph.node)
    assert np.array_equal(output(model), expected)


def test_what_cannot_be_replaced_stays() -> None:
    model = convolution(3, stride=2)
    before = model.SerializeToString()
    assert use_products(model) == 0
    assert model.SerializeToString() == before


def test_a_copy_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    file = tmp_path / "model.onnx"
    file.write_bytes(convolution(3).SerializeToString())
    copy = rewritten(file)
    time = copy.stat().st_mtime_ns
    assert copy != file
    assert rewritten(file) == copy
    assert copy.stat().st_mtime_ns == time
