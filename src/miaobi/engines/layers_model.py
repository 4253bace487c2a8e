"""TensorFlow.js layers models (model.json and its shards of float32 weights) as OpenVINO networks.

Reads functional models of the layers that picture networks of one input and one output are made of; any other is refused
by name. Format: tensorflow.org/js/guide/save_load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import Damaged, Unsupported
from miaobi.core.language import say
from miaobi.engines.weights import read_json


def read(path: Path) -> Any:
    """The openvino.Model of a model.json: [1, C, H, W] float32 in and out. Raises Damaged or Unsupported."""
    import openvino
    from openvino import opset13 as ops
    described, nodes = read_json(path), dict[str, Any]()
    weights = _weights(path, described)
    config = described["modelTopology"]["model_config"]["config"]
    for layer in config["layers"]:
        name, settings = layer["name"], layer["config"]
        inputs = [nodes[source[0]] for source in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []
        if layer["class_name"] == "InputLayer":
            nodes[name] = ops.parameter([1, settings["batch_input_shape"][-1], -1, -1], np.float32)
        else:
            nodes[name] = _layer(layer["class_name"], settings, inputs, weights)
    return openvino.Model([nodes[config["output_layers"][0][0]]], [nodes[config["input_layers"][0][0]]])


def _layer(kind: str, settings: dict[str, Any], inputs: list[Any], weights: dict[str, np.ndarray]) -> Any:
    from openvino import opset13 as ops
    if kind == "Conv2D":
        kernel, bias = weights[f"{settings['name']}/kernel"], weights[f"{settings['name']}/bias"]
        found = ops.convolution(inputs[0], np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), settings["strides"], [0, 0], [0, 0],
                                settings["dilation_rate"], "same_upper" if settings["padding"] == "same" else "valid")
        return _activated(ops.add(found, bias.reshape(1, -1, 1, 1)), settings["activation"])
    if kind == "Activation":
        return _activated(inputs[0], settings["activation"])
    if kind == "Add":
        return ops.add(*inputs)
    if kind == "Concatenate":
        return ops.concat(inputs, 1)
    if kind == "UpSampling2D" and settings["interpolation"] == "nearest":
        # floor and asymmetric: each pixel becomes a block, as in Keras
        return ops.interpolate(inputs[0], np.array(settings["size"], np.float32), "nearest", "scales", axes=np.array([2, 3]),
                               coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    raise Unsupported(say(f"The layer {settings['name']} ({kind}) is not among those read here.", f"不支持的层 {settings['name']}（{kind}）。"))


def _activated(node: Any, name: str) -> Any:
    from openvino import opset13 as ops
    if name not in ("linear", "relu"):
        raise Unsupported(say(f"The activation {name!r} is not among those read here.", f"不支持的激活函数 {name!r}。"))
    return ops.relu(node) if name == "relu" else node


def _weights(path: Path, described: dict[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of the manifest by name. Raises Damaged when the shards are too short or too long for it."""
    found = dict[str, np.ndarray]()
    for group in described["weightsManifest"]:
        data, place = b"".join((path.parent / shard).read_bytes() for shard in group["paths"]), 0
        for item in group["weights"]:
            count = int(np.prod(item["shape"]))
            found[item["name"]] = np.frombuffer(data, "<f4", count, place).reshape(item["shape"])
            place += 4 * count
        if place != len(data):
            raise Damaged(say(f"{path.parent} holds {len(data)} bytes of weights where {path.name} promises {place}.",
                              f"{path.parent} 中的权重为 {len(data)} 字节，而 {path.name} 标明 {place} 字节。"),
                          say("Copy or download it again.", "请重新复制或下载。"))
    return found
