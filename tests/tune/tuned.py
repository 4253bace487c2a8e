"""Tuned bundles for tests, made with the methods that are tested elsewhere, from the
small gpt that learnt a poem.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.models.base import Base, open_base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Example, Learner
from miaobi.tune.tasks import tasks


class Writer(Learner):
    """As much of a language model's learner as methods and saving need."""

    adapter_kind = "CAUSAL_LM"
    blocks = "model.layers"

    def __init__(self, base: Base) -> None:
        super().__init__(base.model(AutoModelForCausalLM))
        self.tokenizer = base.tokenizer

    def loss(self, batch: Batch) -> Loss:
        raise AssertionError

    encode = length = collate = metrics = evaluate = loss  # type: ignore[assignment]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


def moved(net: nn.Module, seed: int, size: float) -> None:
    """As if tuned: every weight that may move has moved, each seed its own way."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def facts(
    base: Base, task: str, spec: Mapping[str, Any], modality: str, **sections: Any
) -> Manifest:
    base_facts = {
        "name": base.name,
        "location": base.weights.location,
        "format": base.weights.format,
        "hash": base.identity,
    }
    return Manifest(
        "tuned",
        modality,
        {
            "name": "helpdesk",
            "task": task,
            "base": base.name,
            "data": {"max_length": 64},
            "head": {},
            "train": {},
            **sections,
        },
        {"base": base_facts, "spec": dict(spec), "fingerprint": "0" * 16},
        parents=(base.name,),
    )


def tuned(
    folder: Path, base: str | Path, seed: int = 1, size: float = 0.02, **settings: Any
) -> Path:
    """A bundle of a tuned language model. settings: of TuneConfig."""
    return tuned_net(folder, base, seed, size, **settings)[0]


def tuned_net(
    folder: Path, base: str | Path, seed: int = 1, size: float = 0.02, **settings: Any
) -> tuple[Path, nn.Module]:
    """The bundle, and the net that was saved in it."""
    opened, config = open_base(str(base)), TuneConfig(**settings)
    learner = Writer(opened)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        methods.apply(learner, config)
    moved(learner.net, seed, size)

    def save(draft: Path) -> None:
        methods.save(learner, config, draft)
        learner.save(draft)

    return bundle.write(
        folder, facts(opened, "chat", {}, "text", tune=asdict(config)), save
    ), learner.net.eval()


def tuned_task(
    folder: Path,
    origin: Base,
    name: str,
    examples: Sequence[Example],
    modality: str = "labels",
    head: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[Path, Learner]:
    """A bundle of any task, and its learner. head: of the task's Config; settings: of
    TuneConfig.
    """
    task, config = tasks.get(name), TuneConfig(**settings)
    options = task.Config(**(head or {}))
    spec = task.survey(examples, options)
    learner: Learner = task.learner(origin, spec, options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        methods.apply(learner, config)
    moved(learner.net, 4, 0.1)

    def save(draft: Path) -> None:
        methods.save(learner, config, draft)
        learner.save(draft)

    return bundle.write(
        folder,
        facts(origin, name, spec, modality, tune=asdict(config), head=asdict(options)),
        save,
    ), learner.eval()
