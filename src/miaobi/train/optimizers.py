"""Optimisers for a phase: which parameters go to which, with how much decay and at what pace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from miaobi.nn.objective import Phase
from miaobi.train.config import TrainConfig
from miaobi.train.muon import Muon


def optimizers_for(phase: Phase, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of a phase's module; every group has `initial_lr`, which the
    schedule multiplies. Frozen parameters are in none.

    Weight decay is for matrices inside the model, not for embeddings, gains and biases.
    Muon takes those same matrices but leaves the output layer to AdamW (Jordan et al.
    2024, https://kellerjordan.github.io/posts/muon/).
    """
    inner, outer, rest = split(phase.module)
    rates = {
        id(parameter): phase.rates.get(name, 1.0)
        for name, parameter in phase.module.named_parameters()
    }
    rate = config.learning_rate * phase.learning_rate
    if config.optimizer == "muon":
        muon = (
            Muon(
                _groups(
                    [(inner, config.weight_decay)],
                    config.matrix_learning_rate * phase.learning_rate,
                    rates,
                ),  # type: ignore[arg-type]
                lr=config.matrix_learning_rate,
                momentum=config.momentum,
            )
            if inner
            else None
        )
        others = _groups([(outer, config.weight_decay), (rest, 0.0)], rate, rates)
        return [
            *([_started(muon)] if muon else []),
            *([_started(_adamw(others, config))] if others else []),
        ]
    groups = _groups([(inner + outer, config.weight_decay), (rest, 0.0)], rate, rates)
    if config.optimizer == "sgd":
        return [_started(torch.optim.SGD(groups, lr=rate, momentum=config.momentum))]
    return [_started(_adamw(groups, config))]


def _groups(
    parts: Sequence[tuple[list[nn.Parameter], float]],
    rate: float,
    rates: Mapping[int, float],
) -> list[dict[str, Any]]:
    """(parameters, weight decay) as an optimiser's groups, one for each pace."""
    return [
        {"params": list(members), "weight_decay": decay, "lr": rate * pace}
        for parameters, decay in parts
        for pace, members in groupby(
            sorted(parameters, key=lambda item: -rates[id(item)]),
            key=lambda item: rates[id(item)],
        )
    ]


def split(
    module: nn.Module,
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """(hidden matrices, output layers' matrices, all else: embeddings, gains, biases).
    Output layers are those whose name ends in "head"; a head tied to an embedding
    counts as the embedding.
    """
    embeddings = {
        id(item.weight)
        for item in module.modules()
        if isinstance(item, (nn.Embedding, nn.EmbeddingBag))
    }
    inner, outer, rest = (
        list[nn.Parameter](),
        list[nn.Parameter](),
        list[nn.Parameter](),
    )
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or id(parameter) in embeddings:
            rest.append(parameter)
        elif name.rsplit(".", 1)[0].endswith("head"):
            outer.append(parameter)
        else:
            inner.append(parameter)
    return inner, outer, rest


def _adamw(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=config.betas, fused=True)


def _started(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
