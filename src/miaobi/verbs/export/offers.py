"""What a model can be exported to, without opening it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from miaobi.core.errors import MiaobiError
from miaobi.models import convert
from miaobi.models.convert.quantise import Dtype
from miaobi.models.tuned import FAMILY, Tuned, open_tuned
from miaobi.verbs.export.folder import architecture_of

if TYPE_CHECKING:
    from miaobi.core.engine import Weights

To = Literal["gguf", "transformers", "onnx"]
GRAPHED_TASKS = (
    "text-classification",
    "token-classification",
    "image-classification",
    "embedding",
)
"""Tasks whose models have graphs for ONNX (nn/graphs.py)."""
GRAPHED_FAMILIES = ("gan", "lstm", "pix2pix", "vae", "vq")
"""Families whose models have."""


@dataclass(frozen=True)
class Offer:
    """One way to export a model, as settings of `export`."""

    to: To
    merge: bool = False
    dtypes: tuple[str, ...] = ()
    """Number formats to choose from; empty where there is no choice."""


def offers(weights: Weights) -> list[Offer]:
    """Return the ways in which `export` can export these weights."""
    if weights.format not in ("bundle", "transformers"):
        return []
    tuned = open_tuned(weights) if weights.family == FAMILY else None
    if tuned is not None and tuned.adapter:
        return _of_adapter(tuned)
    offered = list[Offer]()
    if (tuned is None or tuned.writes) and _has_gguf(weights.path):
        offered.append(Offer("gguf", dtypes=get_args(Dtype)))
    if architecture_of(weights.path):
        offered.append(Offer("transformers"))
    if _has_graphs(weights, tuned):
        offered.append(Offer("onnx"))
    return offered


def _of_adapter(tuned: Tuned) -> list[Offer]:
    offered = list[Offer]()
    is_mergeable = _is_mergeable(tuned)
    if tuned.writes and is_mergeable:
        offered.append(Offer("gguf", merge=True, dtypes=get_args(Dtype)))
        offered.append(Offer("gguf"))
    if is_mergeable:
        offered.append(Offer("transformers", merge=True))
    offered.append(Offer("transformers"))
    if tuned.task_name in GRAPHED_TASKS:
        offered.append(Offer("onnx"))
    return offered


def _is_mergeable(tuned: Tuned) -> bool:
    from miaobi.models.merging import check_mergeable

    try:
        check_mergeable(tuned)
    except MiaobiError:
        return False
    return True


def _has_gguf(folder: Path) -> bool:
    try:
        convert.check(folder)
    except MiaobiError:
        return False
    return True


def _has_graphs(weights: Weights, tuned: Tuned | None) -> bool:
    if tuned is not None:
        return tuned.task_name in GRAPHED_TASKS
    return weights.format == "bundle" and weights.family in GRAPHED_FAMILIES
