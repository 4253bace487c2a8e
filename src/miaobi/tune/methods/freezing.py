"""Weights of the base itself: all of them, some, or one layer after the other.

They are saved whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Callback, Learner
from miaobi.tune.methods.regularisers import input_embedding

WEIGHTS = "model.safetensors"
STACK_SHARE = 0.1
"""A stack of layers holds at least this share of a model's weights."""
INPUT_NAMES = re.compile(r"embed|wte|wpe|patch|stem")
TOLERANCE = 1e-9
"""Of the progress of a run, which is a quotient."""


def unfreeze(learner: Learner, config: TuneConfig) -> None:
    """Let every weight move."""
    learner.net.requires_grad_(True)


def freeze(learner: Learner, config: TuneConfig) -> None:
    """Mark the weights that move.

    With gradual unfreezing these are all that will ever move, and a callback holds
    back those that are not due. Raises Unsupported for a base without a stack of
    layers where layers are named by number, BadInput for more layers than there are.
    """
    layers = layer_of_parameters(learner.net, learner.blocks)
    if config.freeze_layers >= 0 or config.gradual_unfreezing:
        _check_layers(layers, config.freeze_layers)
    frozen = _frozen_names(learner.net, layers, config)
    for name, parameter in learner.net.named_parameters():
        parameter.requires_grad_(is_fresh(learner, name) or name not in frozen)
    if config.gradual_unfreezing:
        learner.callbacks.append(Thaw(layers, config.gradual_unfreezing))


def _frozen_names(
    net: nn.Module, layers: Mapping[str, int], config: TuneConfig
) -> set[str]:
    """Return the names of the parameters that stay unless the task added them."""
    embedding = input_embedding(net)
    embedding_ids = set[int]()
    if embedding is not None and config.freeze_embeddings:
        embedding_ids = {id(parameter) for parameter in embedding.parameters()}
    frozen = set[str]()
    for name, parameter in net.named_parameters():
        if (
            _is_low(name, layers, config)
            or id(parameter) in embedding_ids
            or (config.freeze_pattern and re.search(config.freeze_pattern, name))
        ):
            frozen.add(name)
    return frozen


def _is_low(name: str, layers: Mapping[str, int], config: TuneConfig) -> bool:
    """Return whether a parameter lies in the layers that stay, or before them all."""
    if config.freeze_layers < 0:
        return True
    if name in layers:
        return layers[name] < config.freeze_layers
    return config.freeze_embeddings and is_input(name)


def _check_layers(layers: Mapping[str, int], freeze_layers: int) -> None:
    count = layer_count(layers)
    if not count:
        raise Unsupported(
            say(
                "This base has no stack of layers to freeze by number.",
                "该基础模型没有可按层数冻结的层。",
            ),
            say(
                "Name what stays with --tune.freeze_pattern.",
                "请用 --tune.freeze_pattern 指明要冻结的部分。",
            ),
        )
    if freeze_layers > count:
        raise BadInput(
            say(
                f"tune.freeze_layers is {freeze_layers}; the base has {count} layers.",
                f"tune.freeze_layers 为 {freeze_layers}，而基础模型只有 {count} 层。",
            ),
            say(f"Give at most {count}.", f"请不要超过 {count}。"),
        )


def is_fresh(learner: Learner, name: str) -> bool:
    """Return whether a parameter lies in a module that the task added."""
    return any(f".{fresh}." in f".{name}" for fresh in learner.fresh)


def is_input(name: str) -> bool:
    """Return whether a parameter outside the layers comes before them.

    These are embeddings, their norms and projections.
    """
    return bool(INPUT_NAMES.search(name))


def stacks(net: nn.Module, blocks: str) -> list[str]:
    """Return the names of the ModuleLists that hold the layers.

    This is `blocks` where it is given; otherwise the outermost ModuleLists that hold a
    good part of the weights (two for an encoder with a decoder).
    """
    if blocks:
        return [blocks]
    total = _size(net)
    names = list[str]()
    for name, module in net.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) < 2:
            continue
        is_inside = any(name.startswith(f"{other}.") for other in names)
        if not is_inside and _size(module) > STACK_SHARE * total:
            names.append(name)
    return names


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def layer_of_parameters(net: nn.Module, blocks: str) -> dict[str, int]:
    """Return the number of the layer, from 0, of each parameter that lies in one."""
    names = stacks(net, blocks)
    if not names:
        return {}
    alternatives = "|".join(map(re.escape, names))
    pattern = re.compile(rf"(?:^|\.)(?:{alternatives})\.(\d+)\.")
    layers = dict[str, int]()
    for name, _ in net.named_parameters():
        match = pattern.search(name)
        if match:
            layers[name] = int(match[1])
    return layers


def layer_count(layers: Mapping[str, int]) -> int:
    return max(layers.values(), default=-1) + 1


class Thaw(Callback):
    """Let layers move one after the other, the last first, embeddings at the end.

    The optimiser knows them all from the start: it leaves alone what has no gradient
    (Howard & Ruder 2018, arXiv:1801.06146).

    Args:
        layers: the number of the layer by the parameter's name.
        share: the share of the run after which everything moves.
    """

    def __init__(self, layers: Mapping[str, int], share: float) -> None:
        super().__init__()
        self.layers = layers
        self.share = share
        self.due: dict[str, float] | None = None
        """By parameter, the progress of the run from which on it moves."""

    def before_step(self, learner: Learner) -> None:
        parameters = dict(learner.net.named_parameters())
        if self.due is None:
            self.due = self._due(learner.net)
        for name, due in self.due.items():
            parameters[name].requires_grad_(learner.progress >= due - TOLERANCE)

    def _due(self, net: nn.Module) -> dict[str, float]:
        moving = [
            name
            for name, parameter in net.named_parameters()
            if parameter.requires_grad and (name in self.layers or is_input(name))
        ]
        numbers = {self.layers[name] for name in moving if name in self.layers}
        order = sorted(numbers, reverse=True)
        stages = len(order) + 1
        due = dict[str, float]()
        for name in moving:
            stage = stages
            if name in self.layers:
                stage = order.index(self.layers[name]) + 1
            due[name] = self.share * stage / stages
        return due


class StatisticsHold(Callback):
    """Keep the running statistics of frozen batch norms as they are.

    The net is in training mode, in which a batch norm would go on counting.
    """

    def before_step(self, learner: Learner) -> None:
        for module in _batch_norms(learner.net):
            module.train(module.weight.requires_grad)


def _batch_norms(net: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            yield module


def hold_statistics(learner: Learner) -> None:
    """Add a `StatisticsHold` where the net has batch norms."""
    if any(True for _ in _batch_norms(learner.net)):
        learner.callbacks.append(StatisticsHold())


def layer_rates(learner: Learner, decay: float) -> dict[str, float]:
    """Return multiples of the learning rate by the parameter's name.

    decay^(n - i) for layer i of n, decay^(n + 1) below the first, 1 above the last
    (Clark et al. 2020, arXiv:2003.10555). Raises Unsupported for a base without a
    stack of layers.
    """
    if decay == 1:
        return {}
    layers = layer_of_parameters(learner.net, learner.blocks)
    count = layer_count(layers)
    if not count:
        raise Unsupported(
            say(
                "tune.layer_decay does not go with this base: it has no stack of layers.",
                "tune.layer_decay 不适用于该基础模型：其中没有成叠的层。",
            ),
            say("Leave it out.", "请去掉该设置。"),
        )
    rates = dict[str, float]()
    for name, _ in learner.net.named_parameters():
        if name in layers:
            rates[name] = decay ** (count - layers[name])
        elif is_input(name):
            rates[name] = decay ** (count + 1)
    return rates


def save(learner: Learner, folder: Path) -> None:
    """Write the whole model.

    Transformers' and Diffusers' models in their own layout, plain modules as
    model.safetensors.
    """
    net: Any = learner.net
    if _has_layout(net):
        net.save_pretrained(folder)
        return
    from safetensors.torch import save_model

    save_model(net, str(folder / WEIGHTS))


def load(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """Read what `save` wrote into the learner's net."""
    net: Any = learner.net
    if _has_layout(net):
        saved = type(net).from_pretrained(
            folder, use_safetensors=True, local_files_only=True
        )
        net.load_state_dict(saved.state_dict())
        return
    from safetensors.torch import load_model

    load_model(net, str(folder / WEIGHTS))


def load_frozen(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """Read what `save` wrote, and freeze what was frozen."""
    load(learner, config, folder)
    freeze(learner, config)
    del learner.callbacks[:]  # what has thawed goes on moving


def _has_layout(net: Any) -> bool:
    """Return whether the net is one of Transformers' or Diffusers' models."""
    return callable(getattr(net, "save_pretrained", None)) and callable(
        getattr(type(net), "from_pretrained", None)
    )
