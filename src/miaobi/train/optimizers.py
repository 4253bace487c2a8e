"""Optimisers for a phase: which parameters go to which, with their weight decay and rate."""

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
    """Return the optimisers of a phase's module; frozen parameters are in none.

    Every group has `initial_lr`, which the schedule multiplies. Weight decay is for
    matrices inside the model, not for embeddings, gains and biases. Muon takes those
    same matrices but leaves the output layer to AdamW (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/).
    """
    inner, outer, rest = split(phase.module)
    multipliers = {
        id(parameter): phase.rates.get(name, 1.0)
        for name, parameter in phase.module.named_parameters()
    }
    rate = config.learning_rate * phase.learning_rate
    decay = config.weight_decay
    optimizers = list[torch.optim.Optimizer]()
    if config.optimizer == "muon":
        if inner:
            matrix_rate = config.matrix_learning_rate * phase.learning_rate
            optimizers.append(
                Muon(
                    _groups([(inner, decay)], matrix_rate, multipliers),
                    lr=config.matrix_learning_rate,
                    momentum=config.momentum,
                )
            )
        groups = _groups([(outer, decay), (rest, 0.0)], rate, multipliers)
        if groups:
            optimizers.append(_adamw(groups, config))
    else:
        groups = _groups([(inner + outer, decay), (rest, 0.0)], rate, multipliers)
        if config.optimizer == "sgd":
            optimizers.append(
                torch.optim.SGD(groups, lr=rate, momentum=config.momentum)
            )
        else:
            optimizers.append(_adamw(groups, config))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _groups(
    parts: Sequence[tuple[list[nn.Parameter], float]],
    rate: float,
    multipliers: Mapping[int, float],
) -> list[dict[str, Any]]:
    """Return an optimiser's parameter groups, one for each weight decay and rate.

    Args:
        parts: (parameters, weight decay).
        rate: the peak rate.
        multipliers: of the peak rate, by the parameter's id.
    """

    def multiplier(parameter: nn.Parameter) -> float:
        return multipliers[id(parameter)]

    groups = list[dict[str, Any]]()
    for parameters, decay in parts:
        fastest_first = sorted(parameters, key=lambda item: -multiplier(item))
        for factor, members in groupby(fastest_first, key=multiplier):
            groups.append(
                {
                    "params": list(members),
                    "weight_decay": decay,
                    "lr": rate * factor,
                }
            )
    return groups


def split(
    module: nn.Module,
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return (hidden matrices, output layers' matrices, all else: embeddings, gains,
    biases), trainable ones only.

    Output layers are those whose name ends in "head"; a head tied to an embedding
    counts as the embedding.
    """
    embeddings = {
        id(item.weight)
        for item in module.modules()
        if isinstance(item, (nn.Embedding, nn.EmbeddingBag))
    }
    inner = list[nn.Parameter]()
    outer = list[nn.Parameter]()
    rest = list[nn.Parameter]()
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
