"""Adapters merged into the weights of their base, and several adapters into one.

merge      W + (α/r) B A, in float32: a Transformers folder that needs no adapter code
combine    ΔW = Σ_i w_i (α_i/r_i) B_i A_i, in one of three ways:
           linear   exact, the ranks add up
           svd      its best approximation of a lower rank
           ties     TIES of the task vectors, then the best low rank

TIES (Yadav et al. 2023, arXiv:2306.01708) of task vectors τ_i = (α_i/r_i) B_i A_i, for
each entry by itself: keep the share `density` of τ_i that is greatest; elect the sign of
Σ_i τ_i; average w_i τ_i over those that agree with it (equal to PEFT's "ties_svd").
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from miaobi.core.bundle import MANIFEST
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.models.base import Base
from miaobi.models.tuned import ADAPTER, ADAPTER_WEIGHTS, UNMERGEABLE, Tuned, other_base

Method = Literal["linear", "svd", "ties"]
MODULE_PREFIX = "base_model.model."
"""Of module names in PEFT's weight files."""
NOT_COPIED = (ADAPTER, ADAPTER_WEIGHTS, MANIFEST, "README.md")
"""Files of a bundle that merged weights do not need."""


@dataclass(frozen=True)
class Update:
    """The low-rank updates of one adapter."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    """By module, B [out, r] and A [r, in], scaled so that ΔW = B A."""

    @property
    def rank(self) -> int:
        return max(down.shape[0] for _, down in self.factors.values())


def check_mergeable(tuned: Tuned) -> None:
    """Raise BadInput for whole weights, Unsupported for adapters outside the matrices."""
    if not tuned.adapter:
        raise BadInput(
            say(
                f"{tuned.label} holds whole weights already: there is no adapter to merge.",
                f"{tuned.label} 已是完整权重，没有需要合并的适配器。",
            ),
            say("Leave --merge out.", "请去掉 --merge。"),
        )
    kind = tuned.adapter.get("peft_type")
    if kind in UNMERGEABLE:
        raise Unsupported(
            say(
                f"{tuned.label} is {kind}: it acts outside the base's matrices and cannot be merged into them.",
                f"{tuned.label} 属于 {kind}：它位于基础模型的矩阵之外，无法并入权重。",
            ),
            say(
                "Serve it with the native engine, or tune with the method lora.",
                "请用 native 引擎运行，或改用 lora 方法微调。",
            ),
        )


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Ignore PEFT's warnings about names that Transformers has changed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


def with_adapter(module: nn.Module, folder: Path, name: str = "default") -> Any:
    """Return the module wrapped by PEFT with an adapter, in evaluation mode.

    Args:
        module: the base's.
        folder: of the adapter.
        name: what PEFT calls the adapter.
    """
    from peft import PeftModel

    with quiet_peft():
        model: Any = PeftModel.from_pretrained(module, str(folder), adapter_name=name)
    return model.eval()


def merge_adapter(module: nn.Module, folder: Path) -> nn.Module:
    """Return the base's module with an adapter in its weights, without PEFT."""
    merged: nn.Module = with_adapter(module, folder).merge_and_unload()
    return merged


def merge(tuned: Tuned, target: Path, adapted: nn.Module | None = None) -> Path:
    """Write a Transformers folder of the base with its adapter merged in, in float32.

    Beside the weights it holds what the bundle holds: tokenizer, template, labels. The
    folder appears whole or not at all. Raises as `check_mergeable` does.

    Args:
        tuned: the saved adapter.
        target: the folder to write.
        adapted: the base with its head, wrapped by PEFT (the `net` of the model's
            learner); left out for a language model, which has no head of its own.
    """
    check_mergeable(tuned)
    if adapted is None:
        adapted = with_adapter(_plain_base(tuned.base), tuned.folder)
    merged = cast(Any, adapted).merge_and_unload()
    with write_beside(target) as draft:
        draft.mkdir()
        merged.save_pretrained(draft)
        if (tuned.base.folder / "tokenizer.json").exists():
            tuned.base.tokenizer.save_pretrained(draft)
        for file in tuned.folder.iterdir():
            if file.is_file() and file.name not in NOT_COPIED:
                (draft / file.name).write_bytes(file.read_bytes())
    return target


def _plain_base(base: Base) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return base.model(AutoModelForCausalLM)


def combine(
    adapters: Sequence[Tuned],
    weights: Sequence[float],
    method: Method,
    target: Path,
    *,
    density: float = 0.5,
    rank: int = 0,
) -> None:
    """Write one adapter out of several of the same base and task, in PEFT's layout.

    Raises BadInput for adapters of different bases, Unsupported for what is not plain
    LoRA.

    Args:
        adapters: two or more.
        weights: w, one for each.
        method: how they are combined.
        target: the folder to write.
        density: the share of each update that TIES keeps.
        rank: of the result for svd and ties; 0 for the sum of theirs.
    """
    _check_alike(adapters, weights, density)
    updates = [read_update(tuned) for tuned in adapters]
    limit = rank or sum(update.rank for update in updates)
    names = {name for update in updates for name in update.factors}
    factors = dict[str, tuple[Tensor, Tensor]]()
    for name in sorted(names):
        parts = [
            (weight, *update.factors[name])
            for weight, update in zip(weights, updates, strict=True)
            if name in update.factors
        ]
        if method == "linear":
            factors[name] = _stacked(parts)
        elif method == "svd":
            factors[name] = _low_rank(_summed(parts), limit)
        else:
            factors[name] = _low_rank(_ties(parts, density), limit)
    _write(adapters[0], factors, target)


def _check_alike(
    adapters: Sequence[Tuned], weights: Sequence[float], density: float
) -> None:
    if len(adapters) < 2:
        raise BadInput(
            say(
                "One adapter alone has nothing to be merged with.",
                "只有一个适配器，没有可合并的对象。",
            ),
            say("Name two or more.", "请给出两个或更多。"),
        )
    finite = all(math.isfinite(weight) for weight in weights)
    if len(weights) != len(adapters) or not finite:
        raise BadInput(
            say(
                f"There are {len(adapters)} adapters and the weights {list(weights)}.",
                f"有 {len(adapters)} 个适配器，而权重为 {list(weights)}。",
            ),
            say("Give one number for each.", "请为每个适配器给出一个数值。"),
        )
    if not 0 < density <= 1:
        raise BadInput(
            say(
                f"density is {density:g}, outside 0 to 1.",
                f"density 为 {density:g}，应在 0 与 1 之间。",
            ),
            say(
                "Give the share of each update to keep, such as 0.5.",
                "请给出每个更新量的保留比例，例如 0.5。",
            ),
        )
    first = adapters[0]
    for other in adapters[1:]:
        if other.manifest.data["base"]["hash"] != first.manifest.data["base"]["hash"]:
            raise other_base(other, first.base)
        if other.task_name != first.task_name:
            raise BadInput(
                say(
                    f"{first.label} was tuned for {first.task_name}, "
                    f"{other.label} for {other.task_name}.",
                    f"{first.label} 的任务是 {first.task_name}，"
                    f"{other.label} 的任务是 {other.task_name}。",
                ),
                say("Merge adapters of one task.", "请合并同一任务的适配器。"),
            )


def read_update(tuned: Tuned) -> Update:
    """Return the factors of a LoRA bundle, in float32.

    Raises Unsupported for other adapters, heads and added tokens, which do not add up.
    """
    settings = tuned.adapter
    kind = str(settings.get("peft_type", "whole weights"))
    if settings.get("use_dora"):
        kind = "DoRA"
    if kind != "LORA":
        raise _only_lora(tuned, kind)
    tensors = load_file(tuned.folder / ADAPTER_WEIGHTS)
    factors = dict[str, tuple[Tensor, Tensor]]()
    if settings.get("trainable_token_indices"):
        raise _adds_tokens(tuned)
    for key, down in tensors.items():
        if not key.endswith((".lora_A.weight", ".lora_B.weight")):
            raise _only_lora(tuned, key)
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            up = tensors[f"{name}.lora_B.weight"].float()
            factors[name] = (up * _scale(settings, name), down.float())
    return Update(factors)


def _only_lora(tuned: Tuned, what: str) -> Unsupported:
    return Unsupported(
        say(
            f"{tuned.label} is more than plain LoRA ({what}); such updates do not add up.",
            f"{tuned.label} 不是普通的 LoRA（{what}），此类更新量无法相加。",
        ),
        say(
            "Merge adapters that were tuned with lora or rslora and without a head of their own.",
            "请合并以 lora 或 rslora 微调、且没有独立输出头的适配器。",
        ),
    )


def _adds_tokens(tuned: Tuned) -> Unsupported:
    return Unsupported(
        say(
            f"{tuned.label} adds tokens to its base; only weights with the adapter merged in have rows for them.",
            f"{tuned.label} 为基础模型添加了词元；只有并入适配器后的权重才有对应的行。",
        ),
        f"miaobi export {tuned.label} --merge",
    )


def _scale(settings: Mapping[str, Any], module: str) -> float:
    """Return α/r of a module, or α/√r where the adapter is rank-stabilised.

    Rank-stabilised: Kalajdzievski 2023, arXiv:2312.03732.
    """
    rank = _of_module(settings, "rank_pattern", "r", module)
    alpha = _of_module(settings, "alpha_pattern", "lora_alpha", module)
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank


def _of_module(
    settings: Mapping[str, Any], pattern: str, default: str, module: str
) -> float:
    """Return a module's own number in PEFT's settings, else that of the adapter."""
    from peft.utils.other import get_pattern_key

    numbers: dict[str, float] = settings.get(pattern) or {}
    key = get_pattern_key(list(numbers), module)
    return float(numbers.get(key, settings[default]))


Part = tuple[float, Tensor, Tensor]
"""(w, B, A) of one adapter."""


def _stacked(parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """Return Σ w B A as [w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...], exactly."""
    up = torch.cat([weight * up for weight, up, _ in parts], dim=1)
    down = torch.cat([down for _, _, down in parts])
    return up, down


def _summed(parts: Sequence[Part]) -> Tensor:
    up, down = _stacked(parts)
    return up @ down


def _ties(parts: Sequence[Part], density: float) -> Tensor:
    """Return the TIES of the parts' updates, [out, in]."""
    updates = torch.stack([trimmed(up @ down, density) for _, up, down in parts])
    elected = torch.where(updates.sum(0) >= 0, 1.0, -1.0)
    agree = updates.sign() == elected
    weights = torch.tensor([weight for weight, _, _ in parts])[:, None, None]
    return (weights * updates * agree).sum(0) / agree.sum(0).clamp(min=1)


def trimmed(update: Tensor, density: float) -> Tensor:
    """Return the share `density` of the entries that are greatest in size; the rest 0."""
    count = int(density * update.numel())
    flat = update.flatten()
    greatest = flat.abs().topk(count).indices
    sparse = torch.zeros_like(flat).scatter(0, greatest, flat[greatest])
    return sparse.reshape(update.shape)


def _low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of the nearest matrix of this rank (Eckart and Young 1936).

    It is M V V^T, with V the leading right singular vectors. V comes from the smaller of
    M^T M and M M^T in float64, many times quicker than a whole decomposition.
    """
    is_wide = matrix.shape[1] > matrix.shape[0]
    tall = (matrix.T if is_wide else matrix).double()
    _, vectors = torch.linalg.eigh(tall.T @ tall)  # eigenvalues rise
    leading = vectors[:, -min(rank, vectors.shape[1]) :]
    up = (tall @ leading).float()
    down = leading.T.float()
    return (down.T, up.T) if is_wide else (up, down)


def _write(
    first: Tuned, factors: Mapping[str, tuple[Tensor, Tensor]], target: Path
) -> None:
    """Write an adapter whose updates are scaled by 1 (r = alpha).

    Modules of a lower rank than the highest are listed in rank_pattern.

    Args:
        first: the adapter whose other settings are used.
        factors: B and A by module.
        target: the folder to write to.
    """
    ranks = {
        name.removeprefix(MODULE_PREFIX): down.shape[0]
        for name, (_, down) in factors.items()
    }
    highest = max(ranks.values())
    lower = {name: rank for name, rank in ranks.items() if rank != highest}
    settings = {
        **first.adapter,
        "r": highest,
        "lora_alpha": highest,
        "use_rslora": False,
        "rank_pattern": lower,
        "alpha_pattern": lower,
        "target_modules": sorted(ranks),
        "init_lora_weights": True,
    }
    tensors = dict[str, Tensor]()
    for name, (up, down) in factors.items():
        tensors[f"{name}.lora_B.weight"] = up.contiguous()
        tensors[f"{name}.lora_A.weight"] = down.contiguous()
    save_file(tensors, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(settings, ensure_ascii=False, indent=1)
    (target / ADAPTER).write_text(text, encoding="utf-8")
