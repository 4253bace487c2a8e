"""TensorFlow.js layers models (model.json and its shards of float32 weights) as
OpenVINO networks.

Reads functional models of the layers that image networks of one input and one output
are made of; any other is refused by name. Format: tensorflow.org/js/guide/save_load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miaobi.core.errors import Damaged, NotFound, Unsupported
from miaobi.core.language import say
from miaobi.models.weights import read_json

if TYPE_CHECKING:
    import openvino

Settings = Mapping[str, Any]
"""What model.json says of a layer."""


@dataclass(frozen=True)
class Upsampled:
    """Pixels before they are repeated `scale` times each way."""

    source: Any
    scale: int


def read(path: Path) -> openvino.Model:
    """Open a model.json as a network with [1, C, H, W] float32 in and out.

    Raises Damaged or Unsupported.
    """
    import openvino
    from openvino import opset13 as ops

    description = read_json(path)
    weights = _weights(path, description)
    config = description["modelTopology"]["model_config"]["config"]
    nodes: dict[str, Any] = {}
    upsampled: dict[str, Upsampled] = {}
    for layer in config["layers"]:
        name, kind, settings = layer["name"], layer["class_name"], layer["config"]
        if kind == "InputLayer":
            channels = settings["batch_input_shape"][-1]
            nodes[name] = ops.parameter([1, channels, -1, -1], np.float32)
            continue
        sources = [inbound[0] for inbound in layer["inbound_nodes"][0]]
        inputs = [nodes[source] for source in sources]
        if kind == "UpSampling2D" and settings["size"][0] == settings["size"][1]:
            upsampled[name] = Upsampled(inputs[0], settings["size"][0])
        if kind == "Conv2D" and sources[0] in upsampled and _keeps_size(settings):
            nodes[name] = _convolved_first(upsampled[sources[0]], settings, weights)
        else:
            nodes[name] = _layer(kind, settings, inputs, weights)
    results = [nodes[config["output_layers"][0][0]]]
    parameters = [nodes[config["input_layers"][0][0]]]
    return openvino.Model(results, parameters)


def _keeps_size(settings: Settings) -> bool:
    return bool(settings["padding"] == "same" and settings["strides"] == [1, 1])


def _layer(
    kind: str, settings: Settings, inputs: list[Any], weights: Mapping[str, np.ndarray]
) -> Any:
    """The node of one layer. Raises Unsupported."""
    from openvino import opset13 as ops

    if kind == "Conv2D":
        kernel, bias = _parameters(settings, weights)
        output = ops.convolution(
            inputs[0],
            np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)),
            settings["strides"],
            [0, 0],
            [0, 0],
            settings["dilation_rate"],
            "same_upper" if settings["padding"] == "same" else "valid",
        )
        return _activated(ops.add(output, bias), settings["activation"])
    if kind == "Activation":
        return _activated(inputs[0], settings["activation"])
    if kind == "Add":
        return ops.add(*inputs)
    if kind == "Concatenate":
        return ops.concat(inputs, 1)
    if kind == "UpSampling2D" and settings["interpolation"] == "nearest":
        # floor and asymmetric: each pixel becomes a block, as in Keras
        return ops.interpolate(
            inputs[0],
            np.array(settings["size"], np.float32),
            "nearest",
            "scales",
            axes=np.array([2, 3]),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    raise Unsupported(
        say(
            f"The layer {settings['name']} ({kind}) is not among those read here.",
            f"不支持的层 {settings['name']}（{kind}）。",
        ),
        say("Choose another model.", "请选用其他模型。"),
    )


def _parameters(
    settings: Settings, weights: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [h, w, in, out] and bias [1, out, 1, 1] of a convolution."""
    name = settings["name"]
    return weights[f"{name}/kernel"], weights[f"{name}/bias"].reshape(1, -1, 1, 1)


def _convolved_first(
    upsampled: Upsampled, settings: Settings, weights: Mapping[str, np.ndarray]
) -> Any:
    """A convolution of repeated pixels, done before they are repeated.

    Of the result, the pixels at (a, b) inside their block all see the same few pixels
    of the source, so that each of the scale² positions is a convolution of its own,
    whose taps are sums of the layer's. The same numbers up to rounding, without the
    repeated pixels, which at scale 8 would be 192 channels of the enlarged image.
    """
    from openvino import opset13 as ops

    kernel, bias = _parameters(settings, weights)
    scale = upsampled.scale
    kernel_height, kernel_width, channels, count = kernel.shape
    radius = kernel_height // 2
    reach = -(-radius // scale)
    side = 2 * reach + 1
    taps = np.zeros((scale, scale, count, channels, side, side), np.float32)
    for a, b, y, x in np.ndindex(scale, scale, kernel_height, kernel_width):
        row = reach + (a + y - radius) // scale
        column = reach + (b + x - radius) // scale
        taps[a, b, :, :, row, column] += kernel[y, x].T
    output = ops.convolution(
        upsampled.source,
        taps.reshape(-1, channels, side, side),
        [1, 1],
        [reach] * 2,
        [reach] * 2,
        [1, 1],
    )
    spread = ops.depth_to_space(output, "blocks_first", scale)
    return _activated(ops.add(spread, bias), settings["activation"])


def _activated(node: Any, activation: str) -> Any:
    from openvino import opset13 as ops

    if activation == "linear":
        return node
    if activation == "relu":
        return ops.relu(node)
    raise Unsupported(
        say(
            f"The activation {activation!r} is not among those read here.",
            f"不支持的激活函数 {activation!r}。",
        ),
        say("Choose another model.", "请选用其他模型。"),
    )


def _weights(path: Path, description: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of the manifest by name.

    Raises NotFound without a shard, Damaged when they hold too little or too much.
    """
    arrays: dict[str, np.ndarray] = {}
    for group in description["weightsManifest"]:
        data = b"".join(_shard(path.parent / shard) for shard in group["paths"])
        expected = sum(4 * prod(item["shape"]) for item in group["weights"])
        if len(data) != expected:
            raise Damaged(
                say(
                    f"{path.parent} holds {len(data)} bytes of weights where {path.name} promises {expected}.",
                    f"{path.parent} 中的权重为 {len(data)} 字节，而 {path.name} 标明 {expected} 字节。",
                ),
                say("Copy or download it again.", "请重新复制或下载。"),
            )
        offset = 0
        for item in group["weights"]:
            name, shape = item["name"], item["shape"]
            if item["dtype"] != "float32" or "quantization" in item:
                raise Unsupported(
                    say(
                        f"{path} has weights that are not plain float32 ({name}).",
                        f"{path} 含有非 float32 权重（{name}）。",
                    ),
                    say(
                        "Take the model's unquantised version.", "请使用未量化的版本。"
                    ),
                )
            values = np.frombuffer(data, "<f4", prod(shape), offset)
            arrays[name] = values.reshape(shape)
            offset += 4 * prod(shape)
    return arrays


def _shard(path: Path) -> bytes:
    if not path.exists():
        raise NotFound(
            say(
                f"{path.parent} has no {path.name}.",
                f"{path.parent} 中没有 {path.name}。",
            ),
            say(
                "Copy or download the whole model folder again.",
                "请重新复制或下载整个模型文件夹。",
            ),
        )
    return path.read_bytes()
