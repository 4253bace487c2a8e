"""What turns batches of token ids into vectors: OpenVINO where it is installed, which
was measured to be quicker (bench/embeddings.py), or PyTorch.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from miaobi.core.engine import Weights
from miaobi.core.files import home, write_beside
from miaobi.data.cache import locked_folder
from miaobi.models.base import Base, open_base
from miaobi.models.encoders import FORMAT as PACKAGED
from miaobi.models.tuned import open_tuned
from miaobi.models.weights import configured_context
from miaobi.nn.graphs import Traced
from miaobi.tune.heads import EmbeddingHead
from miaobi.tune.saved import learner_of
from miaobi.tune.tasks import embedding

GRAPH = "encoder.xml"
VERSION = 1
"""Of the graphs that are stored."""


class Encoder(Protocol):
    """Vectors of length one: ids and mask [B, T] -> float32 [B, D]."""

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Source:
    """An encoder's weights, and what its texts are read with."""

    tokenizer: Any
    max_tokens: int
    """What it holds; 0 for no limit."""
    prompts: Mapping[str, str]
    identity: str
    """Of the weights, and of how they are pooled."""
    learner: Callable[[], embedding.Embedder]


def source_of(weights: Weights) -> Source:
    """Return what a packaged encoder, a folder or a tuned model is made of."""
    if weights.format == "bundle":
        return _of_tuned(weights)
    base = Base(weights, weights.path)
    identity = "" if weights.format == PACKAGED else base.identity
    if weights.format == PACKAGED:
        base = open_base(weights.family)
        # The folder's name has the hashes of all that it was made of.
        identity = base.folder.name
    return Source(
        base.tokenizer,
        configured_context(base.config) or 0,
        embedding.prompts_of(base.folder),
        identity,
        lambda: _evaluated(embedding.learner(base, {}, EmbeddingHead())),
    )


def _of_tuned(weights: Weights) -> Source:
    tuned = open_tuned(weights)
    learner = learner_of(tuned)
    assert isinstance(learner, embedding.Embedder)
    manifest = (tuned.folder / "miaobi.json").read_bytes()
    return Source(
        learner.tokenizer,
        learner.max_tokens,
        learner.prompts,
        hashlib.sha256(manifest).hexdigest(),
        lambda: _evaluated(learner),
    )


def _evaluated(learner: embedding.Embedder) -> embedding.Embedder:
    learner.eval()
    return learner


def open_encoder(source: Source, threads: int, dtype: str) -> Encoder:
    """Return the quickest encoder that is installed.

    Args:
        source: its weights.
        threads: of the processor.
        dtype: float32 or bfloat16.
    """
    if find_spec("openvino"):
        return OpenVinoEncoder(_graph_of(source), threads, dtype)
    return TorchEncoder(source.learner(), dtype)


class TorchEncoder:
    """The learner itself."""

    def __init__(self, learner: embedding.Embedder, dtype: str) -> None:
        self.learner = learner
        self.learner.net.to(getattr(torch, dtype))

    @torch.inference_mode()
    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        batch = {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask)}
        return self.learner.vectors(batch).numpy()


class OpenVinoEncoder:
    """The graph of an encoder on OpenVINO's CPU runtime."""

    def __init__(self, graph: Path, threads: int, dtype: str) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
            "NUM_STREAMS": 1,
        }
        core = openvino.Core()
        self._request = core.compile_model(
            graph, "CPU", settings
        ).create_infer_request()

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        results = self._request.infer([ids, mask], share_inputs=True)
        vectors: np.ndarray = results[0]
        return vectors.copy()


def _graph_of(source: Source) -> Path:
    """Return the file of an encoder's graph, written on first use."""
    import openvino

    facts = f"encoder {VERSION} {openvino.__version__} {source.identity}"
    digest = hashlib.sha256(facts.encode()).hexdigest()[:24]
    root = home() / "converted"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, digest) as folder:
        if not folder.exists():
            model = _converted(source.learner())
            with write_beside(folder) as draft:
                draft.mkdir()
                openvino.save_model(model, draft / GRAPH, compress_to_fp16=False)
    return folder / GRAPH


@torch.inference_mode()
def _converted(learner: embedding.Embedder) -> Any:
    """Return the encoder as OpenVINO's model, for any number of texts and tokens."""
    import openvino

    (graph,) = learner.graphs()
    with warnings.catch_warnings():
        # OpenVINO reads PyTorch's models by torch.jit, which PyTorch means to retire.
        warnings.simplefilter("ignore")
        return openvino.convert_model(
            Traced(learner.net, graph.function),
            example_input=tuple(graph.inputs.values()),
        )
