"""Opening a model for a server: with the engines that are quickest here, and how much
memory that will take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from miaobi.core.engine import Engine, TextEngine, Weights
from miaobi.engines import auto, engines
from miaobi.engines.load import open_engine
from miaobi.engines.model import Model
from miaobi.engines.paired import Paired
from miaobi.models import converted
from miaobi.models.tuned import FAMILY, open_tuned
from miaobi.serve.names import Names
from miaobi.serve.pool import Pool
from miaobi.serve.settings import Settings

WEIGHTS = (".safetensors", ".gguf", ".bin", ".onnx", ".npz", ".pth")
SINGLE_STREAM = 1
"""Streams of the engine that answers lone requests: a small cache, which it clears when
it is opened.
"""


def build_pool(settings: Settings, names: Names | None = None) -> Pool:
    """`names`: where they were looked up already."""
    names = names or Names(settings)
    return Pool(
        settings,
        names.find,
        names.names,
        lambda weights: open_model(weights, settings.streams),
        estimate,
        names.facts,
    )


def open_model(weights: Weights, streams: int) -> Model:
    """Embedders as such; a writer with the engine for one request and, when requests
    meet, the one for many; others by one engine.

    An adapter is merged into its base first, once, where an engine can read the result:
    on a CPU that is several times as quick as the engine that runs adapters as they
    are.
    """
    if engines.get("embedding").reads(weights):
        return Model(
            weights, "embedding", open_engine(weights, "embedding", streams, {})
        )
    if (
        converted.pending(weights)
        and converted.fits(weights)
        and any(engines.get(name).installed() is None for name in auto.MERGED)
    ):
        converted.gguf_of(weights)
    low_latency = auto.choose(weights, 1)
    throughput = auto.choose(weights, streams)
    if low_latency == throughput:
        return Model(
            weights,
            throughput,
            open_engine(weights, throughput, streams, {}),
            open_scorer(weights),
        )
    first = cast(TextEngine, open_engine(weights, low_latency, SINGLE_STREAM, {}))
    module: Any = engines.get(throughput)
    tools = first.abilities.controls & {"tools"}
    controls = module.ABILITIES.controls | tools
    abilities = replace(module.ABILITIES, controls=controls)
    return Model(
        weights,
        f"{low_latency}+{throughput}",
        Paired(
            first,
            lambda: cast(TextEngine, open_engine(weights, throughput, streams, {})),
            abilities,
        ),
        open_scorer(weights),
    )


def open_scorer(weights: Weights) -> Callable[[], Engine] | None:
    """Return what opens the engine that scores texts; None where none can."""
    native = engines.get("native")
    if native.installed() is not None or weights.format not in native.FORMATS:
        return None
    if not native.reads(weights):
        return None
    return lambda: open_engine(weights, "native", 1, {})


def estimate(weights: Weights) -> int:
    """Bytes of memory that these weights will take, opened: the files, as numbers that
    engines compute with, and room to work in.
    """
    stored = _stored(weights.path)
    if weights.family == FAMILY and (tuned := open_tuned(weights)).adapter:
        stored += _stored(tuned.base.folder)
    # The second engine of a pair holds the weights again, with eight bits each, and a
    # cache.
    return (3 * stored if weights.format == "gguf" else 2 * stored) + (256 << 20)


def _stored(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(
        file.stat().st_size for file in path.rglob("*") if file.suffix in WEIGHTS
    )
