"""TensorFlow.js layers models (model.json and its shards of float32 weights) as OpenVINO networks.

Reads functional models of the layers that picture networks of one input and one output
are made of; any other is refused by name. Format: tensorflow.org/js/guide/save_load.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import Damaged, NotFound, Unsupported
from miaobi.core.language import say
from miaobi.models.weights import read_json


def read(path: Path) -> Any:
    """The openvino.Model of a model.json: [1, C, H, W] float32 in and out. Raises
    Damaged or Unsupported.
    """
    import openvino
    from openvino import opset13 as ops

    described, nodes, enlarged = (
        read_json(path),
        dict[str, Any](),
        dict[str, tuple[Any, int]](),
    )
    weights = _weights(path, described)
    config = described["modelTopology"]["model_config"]["config"]
    for layer in config["layers"]:
        name, settings = layer["name"], layer["config"]
        inputs = (
            [nodes[source[0]] for source in layer["inbound_nodes"][0]]
            if layer["inbound_nodes"]
            else []
        )
        if layer["class_name"] == "InputLayer":
            nodes[name] = ops.parameter(
                [1, settings["batch_input_shape"][-1], -1, -1], np.float32
            )
            continue
        source = layer["inbound_nodes"][0][0][0]
        if (
            layer["class_name"] == "UpSampling2D"
            and settings["size"][0] == settings["size"][1]
        ):
            enlarged[name] = inputs[0], settings["size"][0]
        if (
            layer["class_name"] == "Conv2D"
            and source in enlarged
            and settings["padding"] == "same"
            and settings["strides"] == [1, 1]
        ):
            nodes[name] = _before_enlarging(*enlarged[source], settings, weights)
        else:
            nodes[name] = _layer(layer["class_name"], settings, inputs, weights)
    return openvino.Model(
        [nodes[config["output_layers"][0][0]]], [nodes[config["input_layers"][0][0]]]
    )


def _layer(
    kind: str,
    settings: dict[str, Any],
    inputs: list[Any],
    weights: dict[str, np.ndarray],
) -> Any:
    from openvino import opset13 as ops

    if kind == "Conv2D":
        kernel, bias = (
            weights[f"{settings['name']}/kernel"],
            weights[f"{settings['name']}/bias"],
        )
        found = ops.convolution(
            inputs[0],
            np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)),
            settings["strides"],
            [0, 0],
            [0, 0],
            settings["dilation_rate"],
            "same_upper" if settings["padding"] == "same" else "valid",
        )
        return _activated(
            ops.add(found, bias.reshape(1, -1, 1, 1)), settings["activation"]
        )
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


def _before_enlarging(
    source: Any, scale: int, settings: dict[str, Any], weights: dict[str, np.ndarray]
) -> Any:
    """A convolution of pixels repeated `scale` times each way, done before they are repeated.

    Of the result, the pixels at (a, b) inside their block all see the same few pixels
    of the source, so that each of the scale² places is a convolution of its own, whose
    taps are sums of the layer's. The same numbers up to rounding, without the repeated
    pixels, which at scale 8 would be 192 channels of the enlarged picture.
    """
    from openvino import opset13 as ops

    kernel, bias = (
        weights[f"{settings['name']}/kernel"],
        weights[f"{settings['name']}/bias"],
    )
    radius, (_, _, channels, count) = kernel.shape[0] // 2, kernel.shape
    reach = -(-radius // scale)
    gathered = np.zeros(
        (scale, scale, count, channels, 2 * reach + 1, 2 * reach + 1), np.float32
    )
    for a, b, y, x in np.ndindex(scale, scale, *kernel.shape[:2]):
        gathered[
            a,
            b,
            :,
            :,
            reach + (a + y - radius) // scale,
            reach + (b + x - radius) // scale,
        ] += kernel[y, x].T
    found = ops.convolution(
        source,
        gathered.reshape(-1, channels, 2 * reach + 1, 2 * reach + 1),
        [1, 1],
        [reach] * 2,
        [reach] * 2,
        [1, 1],
    )
    spread = ops.depth_to_space(found, "blocks_first", scale)
    return _activated(
        ops.add(spread, bias.reshape(1, -1, 1, 1)), settings["activation"]
    )


def _activated(node: Any, name: str) -> Any:
    from openvino import opset13 as ops

    if name not in ("linear", "relu"):
        raise Unsupported(
            say(
                f"The activation {name!r} is not among those read here.",
                f"不支持的激活函数 {name!r}。",
            ),
            say("Choose another model.", "请选用其他模型。"),
        )
    return ops.relu(node) if name == "relu" else node


def _weights(path: Path, described: dict[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of the manifest by name. Raises NotFound without a shard, Damaged when
    they hold too little or too much.
    """
    found = dict[str, np.ndarray]()
    for group in described["weightsManifest"]:
        data, place = (
            b"".join(_shard(path.parent / shard) for shard in group["paths"]),
            0,
        )
        promised = sum(4 * prod(item["shape"]) for item in group["weights"])
        if len(data) != promised:
            raise Damaged(
                say(
                    f"{path.parent} holds {len(data)} bytes of weights where {path.name} promises {promised}.",
                    f"{path.parent} 中的权重为 {len(data)} 字节，而 {path.name} 标明 {promised} 字节。",
                ),
                say("Copy or download it again.", "请重新复制或下载。"),
            )
        for item in group["weights"]:
            if item["dtype"] != "float32" or "quantization" in item:
                raise Unsupported(
                    say(
                        f"{path} has weights that are not plain float32 ({item['name']}).",
                        f"{path} 含有非 float32 权重（{item['name']}）。",
                    ),
                    say(
                        "Take the model's unquantised version.", "请使用未量化的版本。"
                    ),
                )
            found[item["name"]] = np.frombuffer(
                data, "<f4", prod(item["shape"]), place
            ).reshape(item["shape"])
            place += 4 * prod(item["shape"])
    return found


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
