"""What a model that writes can be asked with, as far as its files say: nothing is opened,
and torch is not imported.
"""

from __future__ import annotations

from pathlib import Path

from miaobi.core import gguf
from miaobi.core.engine import Weights
from miaobi.core.errors import MiaobiError
from miaobi.core.requests import TextRequest, request_for, requests
from miaobi.models.tuned import FAMILY, open_tuned
from miaobi.models.weights import find, read_json

PICTURE_TASKS = frozenset(
    {
        "image-classification",
        "object-detection",
        "image-segmentation",
        "image-captioning",
    }
)
"""Tasks whose models answer with text, and are asked with a picture."""


def writes(weights: Weights) -> bool:
    """Return whether it answers with text or labels."""
    kind = requests.get(request_for(weights.modality))
    return kind.makes == TextRequest.makes


def chats(weights: Weights) -> bool:
    """Return whether it answers messages; False where its files cannot be read."""
    if not writes(weights):
        return False
    if weights.format == "url":
        return True
    try:
        return _has_template(weights)
    except MiaobiError:
        return False


def inputs(weights: Weights) -> list[str]:
    """Return what it can be asked with: "text", "image"."""
    if weights.family == FAMILY and open_tuned(weights).task_name in PICTURE_TASKS:
        return ["text", "image"]
    return ["text"]


def _has_template(weights: Weights) -> bool:
    if weights.format == "gguf":
        return "tokenizer.chat_template" in gguf.read(weights.path).metadata
    if weights.family != FAMILY:
        return _folder_has_template(weights.path)
    tuned = open_tuned(weights)
    if not tuned.writes:
        return False
    if (tuned.folder / "tokenizer.json").exists() or not tuned.adapter:
        return _folder_has_template(tuned.folder)
    return _has_template(find(tuned.manifest.data["base"]["name"]))


def _folder_has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists():
        return True
    config = folder / "tokenizer_config.json"
    return config.exists() and bool(read_json(config).get("chat_template"))
