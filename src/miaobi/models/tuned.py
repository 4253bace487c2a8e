"""A tuned model as it was saved: which base, which task, which weights.

A bundle of the family "tuned" holds either an adapter in PEFT's layout, and then needs
its base, which is told by its weights' SHA-256 and not by its name, or whole weights in
Transformers' layout, and then needs nothing else. Opening imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from miaobi.core import bundle
from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput, Damaged, MiaobiError, NotFound, Unsupported
from miaobi.core.language import say
from miaobi.models.base import Base, open_base
from miaobi.models.weights import find, read_json

FAMILY = "tuned"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIXES = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING")
"""PEFT's kinds of adapter that put learned tokens before the text."""
UNMERGEABLE = (*PREFIXES, "BOTTLENECK")
"""Kinds that have no place in the base's matrices."""
LANGUAGE = ("causal", "chat", "preference", "distillation")
"""Tasks that leave a language model which is asked as its base was; the others put
questions in a form of their own.
"""
PIPELINE_LORA = "pytorch_lora_weights.safetensors"
"""What a tuned Diffusers pipeline keeps, in Diffusers' own layout."""


@dataclass(frozen=True)
class Tuned:
    weights: Weights
    manifest: bundle.Manifest

    @property
    def folder(self) -> Path:
        return self.weights.path

    @property
    def label(self) -> str:
        return self.weights.label

    @cached_property
    def adapter(self) -> Mapping[str, Any]:
        """PEFT's settings; empty for whole weights. Raises Damaged where the adapter's
        weights are missing.
        """
        if not (self.folder / ADAPTER).exists():
            return {}
        if not (self.folder / ADAPTER_WEIGHTS).exists():
            raise Damaged(
                say(
                    f"{self.folder} has no {ADAPTER_WEIGHTS}.",
                    f"{self.folder} 中没有 {ADAPTER_WEIGHTS}。",
                ),
                say(
                    "Copy the whole folder again, or tune again.",
                    "请重新复制整个文件夹，或重新微调。",
                ),
            )
        return read_json(self.folder / ADAPTER)

    @cached_property
    def base(self) -> Base:
        """What it was tuned from: under its name, else where it lay. Raises NotFound,
        or BadInput where other weights lie there.
        """
        known = self.manifest.data["base"]
        found = list[Base]()
        for name in dict.fromkeys((known["name"], known["location"])):
            try:
                base = open_base(name)
            except MiaobiError:  # told below, once for all places
                continue
            if base.identity == known["hash"]:
                return base
            found.append(base)
        if found:
            raise other_base(self, found[0])
        raise NotFound(
            say(
                f"{self.label} is an adapter for {known['name']}, which is not here (nor in {known['location']}).",
                f"{self.label} 是 {known['name']} 的适配器，但此处找不到该基础模型（{known['location']} 中也没有）。",
            ),
            say(
                f"Bring it back: miaobi data fetch {known['name']} for a pack, "
                f"or copy the model to {known['location']}.",
                f"请取回基础模型：数据包用 miaobi data fetch {known['name']}，或把模型复制到 {known['location']}。",
            ),
        )

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json of what runs: the base's for an adapter."""
        return (
            self.base.config if self.adapter else Base(self.weights, self.folder).config
        )

    @property
    def writes(self) -> bool:
        """Whether it is a causal language model that is asked as its base was, so that
        every engine that writes can step it.
        """
        if self.weights.modality != "text" or self.task_name not in LANGUAGE:
            return False
        if self.adapter:
            return self.adapter.get("task_type") == "CAUSAL_LM"
        return any(
            str(kind).endswith(("ForCausalLM", "LMHeadModel"))
            for kind in self.config.get("architectures") or ()
        )

    @property
    def task_name(self) -> str:
        """The name in the tasks registry that it was tuned for."""
        return str(self.manifest.recipe["task"])


def open_tuned(weights: Weights) -> Tuned:
    """A bundle of the family "tuned". Raises Unsupported for other weights, NotFound or
    Damaged for files that are not whole.
    """
    if weights.format != "bundle" or weights.family != FAMILY:
        raise Unsupported(
            say(
                f"{weights.label} was not tuned here (format: "
                f"{weights.format}{', ' + weights.family if weights.family else ''}).",
                f"{weights.label} 不是在此微调的模型（格式："
                f"{weights.format}{'，' + weights.family if weights.family else ''}）。",
            ),
            say(
                "Name a model that `miaobi finetune` made; `miaobi models list` shows them.",
                "请给出由 `miaobi finetune` 得到的模型；`miaobi models list` 可列出。",
            ),
        )
    return Tuned(weights, bundle.read(weights.path))


def open_adapter(name: str, base: Base) -> Tuned:
    """The adapter that `name` means, for this base. Raises BadInput for one of another
    base, Unsupported for what is no adapter.
    """
    tuned = open_tuned(find(name))
    if not tuned.adapter:
        raise Unsupported(
            say(
                f"{tuned.label} holds whole weights, not an adapter.",
                f"{tuned.label} 保存的是完整权重，不是适配器。",
            ),
            say(
                f"Open it by itself: miaobi generate text --model {name}",
                f"请单独打开：miaobi generate text --model {name}",
            ),
        )
    if base.identity != tuned.manifest.data["base"]["hash"]:
        raise other_base(tuned, base)
    return tuned


def other_base(tuned: Tuned, base: Base) -> BadInput:
    """For an adapter whose base is not what lies here."""
    known = tuned.manifest.data["base"]
    return BadInput(
        say(
            f"{tuned.label} is an adapter for {known['name']} with weights "
            f"{known['hash'][:16]}; {base.name} ({base.folder}) has "
            f"{base.identity[:16]}.",
            f"{tuned.label} 是 {known['name']} 的适配器，其权重为 "
            f"{known['hash'][:16]}；而 {base.name}（{base.folder}）的权重为 "
            f"{base.identity[:16]}。",
        ),
        say(
            "An adapter fits the weights it was tuned on and no others: restore those, or tune again on these.",
            "适配器只适合它微调时所用的权重：请恢复原来的权重，或在现有权重上重新微调。",
        ),
    )
