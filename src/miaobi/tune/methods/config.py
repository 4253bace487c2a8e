"""Settings of the third step of fine-tuning: how the base is changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say

NAMES = (
    "full",
    "frozen",
    "lora",
    "rslora",
    "dora",
    "adalora",
    "ia3",
    "prompt",
    "prefix",
    "p-tuning",
    "bottleneck",
)


@dataclass(frozen=True)
class TuneConfig:
    """Step 3: how the base is changed."""

    method: str = "lora"
    """full, frozen, lora, rslora, dora, adalora, ia3, prompt, prefix, p-tuning, bottleneck."""
    lora_rank: int = 8
    """Columns of A and B; for adalora the average that remains."""
    lora_alpha: float = 16.0
    """Strength: the update is scaled by lora_alpha / lora_rank (rslora: by its root)."""
    lora_dropout: float = 0.0
    """Share of a LoRA's inputs that is dropped while training."""
    targets: str = ""
    """Regular expression for the names of the layers that get an adapter; empty for all
    linear ones but the head.
    """
    virtual_tokens: int = 20
    """Of prompt, prefix and p-tuning."""
    bottleneck_size: int = 64
    """Units of a bottleneck adapter."""
    freeze_layers: int = -1
    """frozen: so many of the lowest layers stay, -1 for all of the base."""
    freeze_embeddings: bool = True
    """frozen: the embeddings stay."""
    freeze_pattern: str = ""
    """frozen: a regular expression; weights with such names stay besides."""
    gradual_unfreezing: float = 0.0
    """frozen: share of the run over which the layers that are not frozen thaw, the last
    first (Howard & Ruder 2018, arXiv:1801.06146).
    """
    layer_decay: float = 1.0
    """Learning rate of a layer as a multiple of that of the one above it."""
    quantise: Literal["none", "int8", "int4"] = "none"
    """The frozen base in fewer bits, with an adapter above it."""
    neftune_alpha: float = 0.0
    """Strength of noise on the input embeddings while training, 5 to 15 (Jain et al.
    2023, arXiv:2310.05914); 0 for none.
    """
    dropout: float = -1.0
    """Of the base while training; -1 for what it has."""
    gradient_checkpointing: bool = False
    """Less memory for a third more time: activations are recomputed in the backward pass."""

    def __post_init__(self) -> None:
        """Raise BadInput for a value out of range, or for settings of another method."""
        if self.method not in NAMES:
            raise BadInput(
                say(
                    f"tune.method is {self.method!r}.",
                    f"tune.method 为 {self.method!r}。",
                ),
                nearest(self.method, NAMES),
            )
        self._check_sizes()
        self._check_shares()
        _require_pattern("targets", self.targets)
        _require_pattern("freeze_pattern", self.freeze_pattern)
        self._check_combination()

    def _check_sizes(self) -> None:
        _require_at_least("lora_rank", self.lora_rank, 1)
        _require_at_least("virtual_tokens", self.virtual_tokens, 1)
        _require_at_least("bottleneck_size", self.bottleneck_size, 1)
        _require_at_least("freeze_layers", self.freeze_layers, -1)
        _require(
            "lora_alpha",
            self.lora_alpha,
            self.lora_alpha > 0,
            say("above 0", "大于 0"),
        )
        _require_at_least("neftune_alpha", self.neftune_alpha, 0)

    def _check_shares(self) -> None:
        _require(
            "lora_dropout",
            self.lora_dropout,
            0 <= self.lora_dropout < 1,
            say("from 0 to below 1", "在 0 与 1 之间"),
        )
        _require(
            "dropout",
            self.dropout,
            self.dropout == -1 or 0 <= self.dropout < 1,
            say("from 0 to below 1, or -1", "在 0 与 1 之间，或为 -1"),
        )
        _require(
            "gradual_unfreezing",
            self.gradual_unfreezing,
            0 <= self.gradual_unfreezing <= 1,
            say("from 0 to 1", "在 0 与 1 之间"),
        )
        _require(
            "layer_decay",
            self.layer_decay,
            0 < self.layer_decay <= 1,
            say("above 0, at most 1", "大于 0，至多为 1"),
        )

    def _check_combination(self) -> None:
        """Raise BadInput for settings of one method that another would ignore."""
        freezes = (
            self.freeze_layers >= 0
            or not self.freeze_embeddings
            or self.freeze_pattern
            or self.gradual_unfreezing
        )
        if freezes and self.method != "frozen":
            raise BadInput(
                say(
                    f"tune.freeze_* and tune.gradual_unfreezing go with the method frozen, not with {self.method}.",
                    f"tune.freeze_* 与 tune.gradual_unfreezing 只适用于 frozen 方法，不适用于 {self.method}。",
                ),
                say(
                    "Take --method frozen, or leave them out.",
                    "请使用 --method frozen，或去掉这些设置。",
                ),
            )
        if self.quantise != "none" and self.method in ("full", "frozen"):
            raise BadInput(
                say(
                    f"A base in {self.quantise} does not move, and {self.method} moves it.",
                    f"{self.quantise} 量化的基础模型不能更新，而 {self.method} 需要更新它。",
                ),
                say(
                    "Take --method lora, or --tune.quantise none.",
                    "请使用 --method lora，或 --tune.quantise none。",
                ),
            )


def _require(name: str, value: object, valid: bool, requirement: str) -> None:
    """Raise BadInput with the value and the requirement unless the value is valid."""
    if not valid:
        raise BadInput(
            say(
                f"tune.{name} is {value!r}.",
                f"tune.{name} 为 {value!r}。",
            ),
            say(f"It must be {requirement}.", f"应{requirement}。"),
        )


def _require_at_least(name: str, value: float, least: int) -> None:
    requirement = say(f"at least {least}", f"至少为 {least}")
    _require(name, value, value >= least, requirement)


def _require_pattern(name: str, value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        requirement = say(f"a regular expression ({error})", f"正则表达式（{error}）")
        _require(name, value, False, requirement)
