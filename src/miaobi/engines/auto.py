"""Which engine runs these weights: the one that was measured to be quickest at so many
streams.

The table is measured by `bench/text_engines.py --save`; until that was run here, the
speeds shipped in measured.json stand in (they name the machine).
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

from miaobi.core import gguf
from miaobi.core.engine import Abilities, EngineModule, Weights
from miaobi.core.errors import MiaobiError, MissingPart, Unsupported
from miaobi.core.files import home
from miaobi.core.language import say
from miaobi.engines import engines
from miaobi.models import converted
from miaobi.models.tuned import FAMILY, open_tuned

MERGED = ("llamacpp", "openvino")
"""Engines that read a tuned model as one GGUF, its adapter merged in."""

WEIGHT_FILES = {
    "bundle": (".safetensors", 4),
    "transformers": (".safetensors", 2),
    "openvino": (".bin", 1),
}
"""By format: the files that hold weights, and the bytes of each weight."""


@dataclass(frozen=True)
class Measurement:
    """The speed of an engine with one model."""

    engine: str
    format: str
    parameters: float
    """Millions."""
    tokens_per_second: Mapping[int, float]
    """By number of streams."""

    def at(self, streams: int) -> float:
        """Return the speed at the nearest measured number of streams."""
        nearest = min(
            self.tokens_per_second,
            key=lambda measured: abs(math.log(measured / streams)),
        )
        return self.tokens_per_second[nearest]


class Rank(NamedTuple):
    """How well an engine suits; the largest is chosen."""

    has_options: bool
    has_controls: bool
    runs_at_once: bool
    """No adapter has to be merged first."""
    tokens_per_second: float
    name: str


def table() -> list[Measurement]:
    """Return what was measured here, or else what is shipped."""
    own = home() / "measurements.json"
    source = own if own.exists() else files("miaobi.engines") / "measured.json"
    rows = json.loads(source.read_text(encoding="utf-8"))["rows"]
    measurements = []
    for row in rows:
        speeds = row["tokens_per_second"].items()
        row["tokens_per_second"] = {int(streams): speed for streams, speed in speeds}
        measurements.append(Measurement(**row))
    return measurements


def choose(
    weights: Weights,
    streams: int = 1,
    needs: Collection[str] = (),
    options: Collection[str] = (),
) -> str:
    """Return the name of the quickest engine for these weights.

    Where no engine offers all of `needs`, they are left to be refused by the quickest,
    which names the first it lacks. An engine that would have to merge an adapter first
    is passed over; once that was requested by its name, the merged copy is there and it
    counts.

    Args:
        weights: The model.
        streams: How many answers will be made at the same time.
        needs: Controls that requests will set; a mapping also says to what.
        options: Settings that the engine will be opened with.

    Raises MissingPart or Unsupported when no engine can read the weights.
    """
    ranks: list[Rank] = []
    commands: list[str] = []
    for name in engines.names():
        module = engines.get(name)
        if weights.format not in module.FORMATS:
            continue
        command = module.installed()
        if command is not None:
            commands.append(command)
        elif module.reads(weights):
            rank = Rank(
                set(options) <= options_of(module),
                _serves(module.ABILITIES, weights, needs),
                not (name in MERGED and converted.pending(weights)),
                _speed(name, weights, streams),
                name,
            )
            ranks.append(rank)
    if not ranks:
        raise _no_engine(weights, commands)
    return max(ranks).name


def _serves(abilities: Abilities, weights: Weights, needs: Collection[str]) -> bool:
    """Whether an engine offers the controls, with these values where they are given."""
    if not set(needs) <= abilities.of(weights):
        return False
    return not isinstance(needs, Mapping) or abilities.serves(needs)


def _no_engine(weights: Weights, commands: list[str]) -> MiaobiError:
    """`commands`: what would install an engine for this format."""
    if commands:
        return MissingPart(
            say(
                f"Nothing installed here runs {weights.name} ({weights.format}).",
                f"本机没有安装能运行 {weights.name}（{weights.format}）的引擎。",
            ),
            commands[0],
        )
    return Unsupported(
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
    """Return which engine would be quicker for an adapter, and what it would take.

    Empty where the adapter does not run beside its base, or nothing is quicker.
    """
    if chosen != "native" or not converted.pending(weights):
        return ""
    best, best_speed = chosen, _speed(chosen, weights, 1)
    for name in MERGED:
        module = engines.get(name)
        if module.installed() is None and module.reads(weights):
            speed = _speed(name, weights, 1)
            if speed > best_speed:
                best, best_speed = name, speed
    if best == chosen:
        return ""
    return say(
        f"native runs the adapter as it is; {best} was measured quicker, and merges it first, once: --engine {best}",
        f"native 直接运行适配器；实测 {best} 更快，但需先合并一次：--engine {best}",
    )


def options_of(module: EngineModule) -> set[str]:
    """Return the names of an engine's own settings."""
    parameters = set(inspect.signature(module.open_engine).parameters)
    return parameters - {"weights", "streams"}


def _speed(name: str, weights: Weights, streams: int) -> float:
    """Measured tokens a second of the model nearest in size.

    0 for an engine that was never measured.
    """
    measurements = [
        row for row in table() if row.engine == name and row.format == weights.format
    ]
    if not measurements:
        return 0.0
    size = max(millions(weights), 1e-3)
    nearest = min(measurements, key=lambda row: abs(math.log(row.parameters / size)))
    return nearest.at(streams)


def millions(weights: Weights) -> float:
    """Return the parameters in millions, from the size of the files.

    1000 where the format does not say.
    """
    if weights.format == "gguf":
        return gguf.read(weights.path).parameters / 1e6
    if weights.family == FAMILY:
        tuned = open_tuned(weights)
        if tuned.adapter:
            return millions(tuned.base.weights)
    if weights.format not in WEIGHT_FILES:
        return 1000.0
    suffix, width = WEIGHT_FILES[weights.format]
    size = sum(file.stat().st_size for file in weights.path.glob(f"*{suffix}"))
    return size / width / 1e6
