"""Weights of the base itself: all of them, or some, or one layer after the other; saved whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.tune.learner import Callback, Learner
from miaobi.tune.methods.regularisers import input_embedding

if TYPE_CHECKING:
    from miaobi.tune.methods import TuneConfig

WEIGHTS = "model.safetensors"
SHARE = 0.1
"""A stack of layers holds at least so much of a model."""


def free(learner: Learner, config: TuneConfig) -> None:
    learner.net.requires_grad_(True)


def freeze(learner: Learner, config: TuneConfig) -> None:
    """Mark what moves; with gradual unfreezing, all that will ever move, and a
    callback that holds back what is not due.
    """
    net = learner.net
    places = depths(net, learner.blocks)
    if config.freeze_layers >= 0 or config.gradual_unfreezing:
        _need_layers(places, config.freeze_layers)
    embedding = input_embedding(net)
    held = (
        {id(item) for item in embedding.parameters()}
        if embedding is not None and config.freeze_embeddings
        else set()
    )
    for name, parameter in net.named_parameters():
        low = (
            config.freeze_layers < 0
            or places.get(name, config.freeze_layers) < config.freeze_layers
        )
        below = (
            config.freeze_layers >= 0
            and name not in places
            and config.freeze_embeddings
            and is_input(net, name)
        )
        stays = (
            low
            or below
            or id(parameter) in held
            or bool(config.freeze_pattern and re.search(config.freeze_pattern, name))
        )
        parameter.requires_grad_(is_fresh(learner, name) or not stays)
    if config.gradual_unfreezing:
        learner.callbacks.append(Thaw(places, config.gradual_unfreezing))


def _need_layers(places: Mapping[str, int], wanted: int) -> None:
    count = layer_count(places)
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
    if wanted > count:
        raise BadInput(
            say(
                f"tune.freeze_layers is {wanted}; the base has {count} layers.",
                f"tune.freeze_layers 为 {wanted}，而基础模型只有 {count} 层。",
            ),
            say(f"Give at most {count}.", f"请不要超过 {count}。"),
        )


def is_fresh(learner: Learner, name: str) -> bool:
    """Whether a parameter lies in a module that the task added."""
    return any(f".{fresh}." in f".{name}" for fresh in learner.fresh)


def is_input(net: nn.Module, name: str) -> bool:
    """Whether a parameter outside the layers comes before them: embeddings, their norms
    and projections.
    """
    return bool(re.search(r"embed|wte|wpe|patch|stem", name))


def stacks(net: nn.Module, blocks: str) -> list[str]:
    """Names of the ModuleLists that hold the layers: the one that is given, or the
    outermost that hold a good part of the weights (two for an encoder with a decoder).
    """
    if blocks:
        return [blocks]
    whole = sum(item.numel() for item in net.parameters())
    found = list[str]()
    for name, module in net.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if (
            isinstance(module, nn.ModuleList)
            and len(module) > 1
            and not inside
            and sum(item.numel() for item in module.parameters()) > SHARE * whole
        ):
            found.append(name)
    return found


def depths(net: nn.Module, blocks: str) -> dict[str, int]:
    """Layer of each parameter that lies in one, by name, from 0."""
    names = stacks(net, blocks)
    found = (
        {
            name: re.search(
                rf"(?:^|\.)(?:{'|'.join(map(re.escape, names))})\.(\d+)\.", name
            )
            for name, _ in net.named_parameters()
        }
        if names
        else {}
    )
    return {name: int(place[1]) for name, place in found.items() if place}


def layer_count(places: Mapping[str, int]) -> int:
    return max(places.values(), default=-1) + 1


class Thaw(Callback):
    """Layers begin to move one after the other, the last first, embeddings at the end
    (Howard & Ruder 2018, arXiv:1801.06146).

    The optimiser knows them all from the start: it leaves alone what has no gradient.
    """

    def __init__(self, places: Mapping[str, int], share: float) -> None:
        super().__init__()
        self.places, self.share = places, share
        self.held: dict[str, float] | None = None
        """By parameter, the part of the run from which it moves."""

    def before_step(self, learner: Learner) -> None:
        named = dict(learner.net.named_parameters())
        if self.held is None:
            self.held = self._due(
                {name: parameter.requires_grad for name, parameter in named.items()},
                learner.net,
            )
        for name, due in self.held.items():
            named[name].requires_grad_(learner.progress >= due - 1e-9)

    def _due(self, moves: Mapping[str, bool], net: nn.Module) -> dict[str, float]:
        layers: Sequence[int] = sorted(
            {
                self.places[name]
                for name in moves
                if moves[name] and name in self.places
            },
            reverse=True,
        )
        stages = [
            name
            for name in moves
            if moves[name] and (name in self.places or is_input(net, name))
        ]
        return {
            name: self.share
            * (
                layers.index(self.places[name]) + 1
                if name in self.places
                else len(layers) + 1
            )
            / (len(layers) + 1)
            for name in stages
        }


class Still(Callback):
    """Running statistics of frozen batch norms stay as they are, though the net is in
    training mode.
    """

    def before_step(self, learner: Learner) -> None:
        for module in _batch_norms(learner.net):
            module.train(module.weight.requires_grad)


def _batch_norms(net: nn.Module) -> list[Any]:
    return [
        module
        for module in net.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    ]


def keep_statistics(learner: Learner) -> None:
    if _batch_norms(learner.net):
        learner.callbacks.append(Still())


def rates(learner: Learner, decay: float) -> dict[str, float]:
    """Layer-wise learning rates: decay^(n - i) for layer i of n, decay^(n + 1) below
    the first, 1 above the last (Clark et al. 2020, arXiv:2003.10555).
    """
    if decay == 1:
        return {}
    places = depths(learner.net, learner.blocks)
    count = layer_count(places)
    if not count:
        raise Unsupported(
            say(
                "tune.layer_decay does not go with this base: it has no stack of layers.",
                "tune.layer_decay 不适用于该基础模型：其中没有成叠的层。",
            ),
            say("Leave it out.", "请去掉该设置。"),
        )
    return {
        name: decay ** (count - places[name] if name in places else count + 1)
        for name, _ in learner.net.named_parameters()
        if name in places or is_input(learner.net, name)
    }


def save(learner: Learner, folder: Path) -> None:
    """Whole: Transformers' and Diffusers' models in their own layout, plain modules as
    model.safetensors.
    """
    net: Any = learner.net
    if _knows_its_layout(net):
        net.save_pretrained(folder)
        return
    from safetensors.torch import save_model

    save_model(net, str(folder / WEIGHTS))


def load(learner: Learner, config: TuneConfig, folder: Path) -> None:
    net: Any = learner.net
    if _knows_its_layout(net):
        net.load_state_dict(
            type(net)
            .from_pretrained(folder, use_safetensors=True, local_files_only=True)
            .state_dict()
        )
    else:
        from safetensors.torch import load_model

        load_model(net, str(folder / WEIGHTS))


def load_frozen(learner: Learner, config: TuneConfig, folder: Path) -> None:
    load(learner, config, folder)
    freeze(learner, config)
    del learner.callbacks[:]  # what has thawed stays so


def _knows_its_layout(net: Any) -> bool:
    return callable(getattr(net, "save_pretrained", None)) and callable(
        getattr(type(net), "from_pretrained", None)
    )
