"""Weights, by the file that only folders of that format hold, or by a file's ending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from miaobi.core.engine import Weights
from miaobi.core.registry import Registry

formats: Registry[Callable[[Path, str], Weights]] = Registry(
    "formats",
    {
        "miaobi.json": "miaobi.models.weights:of_bundle",
        "model_index.json": "miaobi.models.formats.diffusers:weights_of",
        "openvino_model.xml": "miaobi.models.formats.openvino:weights_of",
        "config.json": "miaobi.models.formats.transformers:weights_of",
        ".onnx": "miaobi.models.formats.piper:weights_of",
    },
)
"""The function makes weights of (a folder that holds the file, the model's name); for a
name that is an ending, of (a file that ends so, the model's name).
"""


def format_of_file(file: Path) -> Callable[[Path, str], Weights] | None:
    """Return what makes weights of a file; None for an ending of no known format."""
    ending = file.suffix.lower()
    return formats.get(ending) if ending in formats else None


def format_of(folder: Path) -> Callable[[Path, str], Weights] | None:
    """Return what makes weights of a folder; None for a folder of no known format.

    A folder may hold the files of several: the first of the table counts.
    """
    for file in [*formats.built_in(), *formats.added()]:
        if (folder / file).exists():
            return formats.get(file)
    return None
