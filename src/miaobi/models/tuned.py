"""A tuned model as it was saved: which base, which task, which weights.

A bundle of the family "tuned" holds either an adapter in PEFT's layout and needs its
base, which is identified by its weights' SHA-256 and not by its name, or whole weights in
Transformers' layout and needs nothing else. `tune.saved` makes it run. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from miaobi.core import bundle, storage
from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput, Damaged, MiaobiError, NotFound, Unsupported
from miaobi.core.language import say
from miaobi.core.storage import Location
from miaobi.core.store import Version
from miaobi.models.added_tokens import with_tokens
from miaobi.models.base import Base, open_base
from miaobi.models.weights import find, read_json

FAMILY = "tuned"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIXES = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING")
"""PEFT's kinds of adapter that put learned tokens before the text."""
UNMERGEABLE = (*PREFIXES, "BOTTLENECK")
"""Kinds that act outside the base's matrices."""
LANGUAGE = ("causal", "chat", "preference", "distillation")
"""Tasks whose model is prompted as its base was; others have a form of their own."""
PIPELINE_LORA = "pytorch_lora_weights.safetensors"
"""The weights of a tuned Diffusers pipeline, in Diffusers' own layout."""


def needs(manifest: bundle.Manifest, location: Location, version: Version) -> bool:
    """Return whether a bundle is an adapter that runs on this version of the store.

    Args:
        manifest: of the bundle.
        location: of the bundle.
        version: which may be its base.
    """
    base = manifest.data.get("base") or {}
    names = (str(version), str(version.location))
    is_its_base = base.get("name") in names or base.get("location") in names
    return is_its_base and storage.exists(location / ADAPTER)


@dataclass(frozen=True)
class Tuned:
    """A tuned model's folder."""

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
        """PEFT's settings; empty for whole weights.

        Raises Damaged where the adapter's weights are missing.
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
        """What it was tuned from, under its name or in its former location, with the
        tokens that were added.

        Raises NotFound, or BadInput where other weights are there.
        """
        saved = self.manifest.data["base"]
        others = list[Base]()
        for name in dict.fromkeys((saved["name"], saved["location"])):
            try:
                base = open_base(name)
            except MiaobiError:  # reported below, once for both
                continue
            if base.identity == saved["hash"]:
                added = saved.get("added", {})
                return with_tokens(
                    base, added.get("tokens", ()), added.get("special", ())
                )
            others.append(base)
        if others:
            raise other_base(self, others[0])
        raise NotFound(
            say(
                f"{self.label} is an adapter for {saved['name']}, which is not here (nor in {saved['location']}).",
                f"{self.label} 是 {saved['name']} 的适配器，但此处找不到该基础模型（{saved['location']} 中也没有）。",
            ),
            say(
                f"Bring it back: miaobi data fetch {saved['name']} for a pack, "
                f"or copy the model to {saved['location']}.",
                f"请取回基础模型：数据包用 miaobi data fetch {saved['name']}，或把模型复制到 {saved['location']}。",
            ),
        )

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json of the model that runs: the base's for an adapter."""
        base = self.base if self.adapter else Base(self.weights, self.folder)
        return base.config

    @property
    def writes(self) -> bool:
        """Whether it is a causal language model that is prompted as its base was."""
        if self.task_name not in LANGUAGE:
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
    """Return the tuned model of a bundle.

    Raises Unsupported for other weights, NotFound or Damaged for incomplete files.
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
    assert weights.manifest is not None, "weights of a bundle come from models/weights"
    return _opened(weights, weights.manifest)


@lru_cache(maxsize=32)
def _opened(weights: Weights, manifest: bundle.Manifest) -> Tuned:
    """The one Tuned of a reading of a bundle, so that its base too is opened once."""
    return Tuned(weights, manifest)


def open_adapter(name: str, base: Base) -> Tuned:
    """Return the adapter called `name`, for this base.

    Raises BadInput for one of another base, Unsupported for what is no adapter.
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
    """Return the error for an adapter whose base has other weights than this one."""
    saved = tuned.manifest.data["base"]
    return BadInput(
        say(
            f"{tuned.label} is an adapter for {saved['name']} with weights "
            f"{saved['hash'][:16]}; {base.name} ({base.folder}) has "
            f"{base.identity[:16]}.",
            f"{tuned.label} 是 {saved['name']} 的适配器，其权重为 "
            f"{saved['hash'][:16]}；而 {base.name}（{base.folder}）的权重为 "
            f"{base.identity[:16]}。",
        ),
        say(
            "An adapter fits the weights it was tuned on and no others: restore those, or tune again on these.",
            "适配器只适合它微调时所用的权重：请恢复原来的权重，或在现有权重上重新微调。",
        ),
    )
