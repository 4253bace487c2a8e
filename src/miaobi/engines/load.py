"""`miaobi.load`: a name, path, URL or hub id becomes an open model.

model = miaobi.load("smollm2")
model.generate("Write a haiku about rain.", n=2, max_new_tokens=48, seed=1)   # -> list of Text
miaobi.load("./stable-diffusion").generate("a fox", num_inference_steps=20)   # -> list of Image
miaobi.load("smollm2", adapters=["helpdesk", "poet"]).generate("Hello!", adapter="poet")
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from miaobi.core.engine import Engine, EngineModule, Weights
from miaobi.core.errors import BadInput, MissingPart, Unsupported, nearest
from miaobi.core.language import say
from miaobi.engines import auto, engines
from miaobi.engines.model import Model
from miaobi.models.tuned import FAMILY, open_tuned
from miaobi.models.weights import find


def load(
    name: str | os.PathLike[str] | Weights,
    engine: str = "auto",
    streams: int = 1,
    needs: Collection[str] = (),
    **options: Any,
) -> Model:
    """Open a model.

    Args:
        name: A name in the store ("poet", "poet@2", "poet@production"), a starter pack,
            the path of a GGUF file or a model folder, the URL of an OpenAI-compatible
            server, a hub id ("org/name"), or weights that were found already.
        engine: The name of an engine (`miaobi doctor` lists them), or auto for what
            reads these weights and was measured to be quickest.
        streams: How many answers will be made at the same time.
        needs: Names of the controls that will be set, or a mapping with their values;
            `auto` then passes over engines that cannot serve one of them.
        options: The engine's own settings, such as context_length, device or adapters.

    Raises NotFound with the nearest names, Unsupported, MissingPart, or Damaged for
    files that are not whole.
    """
    weights = name if isinstance(name, Weights) else find(os.fspath(name))
    engine_name = engine
    if engine == "auto":
        engine_name = auto.choose(weights, streams, needs, options)
    opened = open_engine(weights, engine_name, streams, options)
    return Model(weights, engine_name, opened)


def open_engine(
    weights: Weights, name: str, streams: int, options: Mapping[str, Any]
) -> Engine:
    """Open weights with a named engine.

    Args:
        weights: The model.
        name: Of the engine.
        streams: How many answers will be made at the same time.
        options: The engine's own settings.

    Raises Unsupported for weights that it does not run, MissingPart where it is not
    installed, BadInput for options that it does not have.
    """
    module = engines.get(name)
    _check_format(weights, name, module)
    command = module.installed()
    if command is not None:
        raise MissingPart(
            say(f"The {name} engine is not installed.", f"未安装 {name} 引擎。"),
            command,
        )
    if weights.family == FAMILY and not module.reads(weights):
        raise _runs_not(weights, name)
    _check_options(options, name, module)
    return module.open_engine(weights, streams=streams, **options)


def _check_format(weights: Weights, name: str, module: EngineModule) -> None:
    if weights.format not in module.FORMATS:
        raise Unsupported(
            say(
                f"The {name} engine does not read {weights.name} (format: {weights.format}).",
                f"{name} 引擎无法读取 {weights.name}（格式：{weights.format}）。",
            ),
            say(
                f"It reads: {', '.join(module.FORMATS)}. Leave --engine out to have one chosen.",
                f"它支持：{'、'.join(module.FORMATS)}。去掉 --engine 可自动选择。",
            ),
        )


def _check_options(options: Mapping[str, Any], name: str, module: EngineModule) -> None:
    names = auto.options_of(module)
    for option in options:
        if option not in names:
            raise BadInput(
                say(
                    f"The {name} engine has no option {option!r}.",
                    f"{name} 引擎没有选项 {option!r}。",
                ),
                nearest(option, names),
            )


def _runs_not(weights: Weights, name: str) -> Unsupported:
    """For a tuned model of a kind that the engine does not run."""
    tuned = open_tuned(weights)
    kind = tuned.task_name
    if "peft_type" in tuned.adapter:
        kind += f", {tuned.adapter['peft_type']}"
    return Unsupported(
        say(
            f"The {name} engine does not run {weights.label} ({kind}).",
            f"{name} 引擎不能运行 {weights.label}（{kind}）。",
        ),
        say("Leave --engine out to have one chosen.", "去掉 --engine 可自动选择。"),
    )
