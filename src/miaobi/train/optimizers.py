"""Optimisers for a phase: which parameters go to which, and with how much decay."""

from __future__ import annotations

import torch
from torch import nn

from miaobi.nn.objective import Phase
from miaobi.train.config import TrainConfig
from miaobi.train.muon import Muon


def optimizers_for(phase: Phase, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of a phase's module; every group has `initial_lr`, which the schedule multiplies.

    Weight decay is for matrices inside the model, not for embeddings, gains and biases. Muon takes those same matrices
    but leaves the output layer to AdamW (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).
    """
    inner, outer, rest = split(phase.module)
    rate = config.learning_rate * phase.learning_rate
    if config.optimizer == "muon":
        muon = Muon(inner, lr=config.matrix_learning_rate * phase.learning_rate, momentum=config.momentum,
                    weight_decay=config.weight_decay)
        return [_started(muon), _started(_adamw([outer, rest], rate, config))]
    if config.optimizer == "sgd":
        groups = [{"params": inner + outer, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return [_started(torch.optim.SGD([group for group in groups if group["params"]], lr=rate, momentum=config.momentum))]
    return [_started(_adamw([inner + outer, rest], rate, config))]


def split(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """(hidden matrices, output layers' matrices, all else: embeddings, gains, biases). Output layers are those whose
    name ends in "head"; a head tied to an embedding counts as the embedding."""
    embeddings = {id(item.weight) for item in module.modules() if isinstance(item, (nn.Embedding, nn.EmbeddingBag))}
    inner, outer, rest = list[nn.Parameter](), list[nn.Parameter](), list[nn.Parameter]()
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


def _adamw(pair: list[list[nn.Parameter]], rate: float, config: TrainConfig) -> torch.optim.Optimizer:
    decayed, plain = pair
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=config.betas, fused=True)


def _started(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
