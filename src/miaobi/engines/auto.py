"""Which engine for these weights? The one that was measured to be quickest at so many streams.

The table is measured by `bench/text_engines.py --save`; until that was run here, the
figures shipped in measured.json stand in (they name the machine).
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from miaobi.core.engine import Weights
from miaobi.core.errors import MissingPart, Unsupported
from miaobi.core.files import home
from miaobi.core.language import say
from miaobi.engines import engines
from miaobi.models import converted
from miaobi.models.tuned import FAMILY, open_tuned

MERGED = ("llamacpp", "openvino")
"""Engines that read a tuned model as one GGUF, its adapter merged in."""


@dataclass(frozen=True)
class Measurement:
    engine: str
    format: str
    parameters: float
    """Millions."""
    tokens_per_second: Mapping[int, float]
    """At so many streams."""

    def at(self, streams: int) -> float:
        """Speed at the nearest measured number of streams."""
        nearest = min(
            self.tokens_per_second,
            key=lambda measured: abs(math.log(measured / streams)),
        )
        return self.tokens_per_second[nearest]


def table() -> list[Measurement]:
    """What was measured here, else what is shipped."""
    here = home() / "measurements.json"
    source = here if here.exists() else files("miaobi.engines") / "measured.json"
    rows = json.loads(source.read_text(encoding="utf-8"))["rows"]
    return [
        Measurement(
            **row
            | {
                "tokens_per_second": {
                    int(key): value for key, value in row["tokens_per_second"].items()
                }
            }
        )
        for row in rows
    ]


def choose(
    weights: Weights,
    streams: int = 1,
    needs: Collection[str] = (),
    options: Collection[str] = (),
) -> str:
    """Name of the quickest engine for these weights that offers the controls in `needs`
    and is opened with `options`.

    Where none offers them all, they are left to be refused by the quickest, which names
    the first it lacks. An engine that would have to merge an adapter first is passed
    over; once that was asked for by its name, the merged copy is there and it counts.
    Raises MissingPart or Unsupported when no engine can read the weights.
    """
    able, missing = dict[str, tuple[bool, bool, bool]](), list[str]()
    for name in engines.names():
        module: Any = engines.get(name)
        if weights.format in module.FORMATS:
            need = module.installed()
            if need:
                missing.append(need)
            elif module.reads(weights):
                able[name] = (
                    set(options) <= options_of(module),
                    set(needs) <= module.ABILITIES.controls,
                    not (name in MERGED and converted.pending(weights)),
                )
    if able:
        return max(
            able, key=lambda name: (able[name], _speed(name, weights, streams), name)
        )
    if missing:
        raise MissingPart(
            say(
                f"Nothing installed here runs {weights.name} ({weights.format}).",
                f"本机没有安装能运行 {weights.name}（{weights.format}）的引擎。",
            ),
            missing[0],
        )
    raise Unsupported(
        say(
            f"No engine runs {weights.name} ({weights.format}).",
            f"没有引擎能运行 {weights.name}（{weights.format}）。",
        ),
        say(
            "`miaobi doctor` shows the engines that are installed.",
            "用 `miaobi doctor` 查看已安装的引擎。",
        ),
    )


def why(weights: Weights, chosen: str) -> str:
    """Of an adapter that runs beside its base: which engine would be quicker, and what
    it would take. Empty where there is nothing to say.
    """
    if chosen != "native" or not converted.pending(weights):
        return ""
    able = [
        name
        for name in MERGED
        if engines.get(name).installed() is None and engines.get(name).reads(weights)
    ]
    best = max(able, key=lambda name: _speed(name, weights, 1), default="")
    if not best or _speed(best, weights, 1) <= _speed(chosen, weights, 1):
        return ""
    return say(
        f"native runs the adapter as it is; {best} was measured quicker, and merges it first, once: --engine {best}",
        f"native 直接运行适配器；实测 {best} 更快，但需先合并一次：--engine {best}",
    )


def options_of(module: Any) -> set[str]:
    """The names of an engine's own settings."""
    return set(inspect.signature(module.open_engine).parameters) - {
        "weights",
        "streams",
    }


def _speed(
    name: str, weights: Weights, streams: int, rows: Iterable[Measurement] | None = None
) -> float:
    """Measured tokens a second of the model nearest in size; 0 for an engine that was
    never measured.
    """
    known = [
        row
        for row in (table() if rows is None else rows)
        if (row.engine, row.format) == (name, weights.format)
    ]
    size = max(millions(weights), 1e-3)
    best = min(
        known, key=lambda row: abs(math.log(row.parameters / size)), default=None
    )
    return best.at(streams) if best else 0.0


def millions(weights: Weights) -> float:
    """Parameters in millions, from the size of the files (two bytes each where the
    format does not say).
    """
    from miaobi.core import gguf

    if weights.format == "gguf":
        return gguf.read(weights.path).parameters / 1e6
    if weights.family == FAMILY and (tuned := open_tuned(weights)).adapter:
        return millions(tuned.base.weights)
    kinds = {
        "bundle": (".safetensors", 4),
        "transformers": (".safetensors", 2),
        "openvino": (".bin", 1),
    }
    if weights.format not in kinds:
        return 1000.0
    suffix, width = kinds[weights.format]
    return (
        sum(file.stat().st_size for file in weights.path.glob(f"*{suffix}"))
        / width
        / 1e6
    )
