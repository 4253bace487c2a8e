"""Texts to vectors: the packaged sentence encoder, and what was tuned for `embedding`.

This module imports no torch; engine.py does what runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import EmbeddingRequest
from miaobi.models.tuned import FAMILY, open_tuned

if TYPE_CHECKING:
    from miaobi.engines.embedding.engine import EmbeddingEngine

FORMATS = ("base", "bundle", "transformers")
TAKES = EmbeddingRequest
ABILITIES = Abilities(
    frozenset({"texts", "seed", "input_type", "too_long"}), tokenize=True
)
"""Vectors do not depend on the seed."""


def installed() -> str | None:
    if find_spec("torch") and find_spec("transformers"):
        return None
    return 'pip install "miaobi[train]"'


def reads(weights: Weights) -> bool:
    if weights.format != "bundle":
        return weights.modality == TAKES.makes
    return weights.family == FAMILY and open_tuned(weights).task_name == "embedding"


def open_engine(
    weights: Weights,
    *,
    streams: int = 1,
    threads: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> EmbeddingEngine:
    """Open on the CPU; one request runs after the other.

    Args:
        weights: A packaged encoder, a Transformers folder of one, or what was tuned for
            `embedding`.
        streams: Requests that come at the same time.
        threads: Of the processor; as many as PyTorch takes unless given.
        dtype: What is computed in; bfloat16 is quicker where the processor has it, and
            cosines then agree to about 0.0001.
    """
    import torch

    from miaobi.engines.embedding.engine import EmbeddingEngine

    return EmbeddingEngine(
        weights, ABILITIES, threads or torch.get_num_threads(), dtype
    )
