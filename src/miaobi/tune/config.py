"""What can be set of fine-tuning whatever the task: its sections `data`, `tune` and
`report` of a recipe. Imports no PyTorch, so that a server can check a request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from miaobi.core.errors import BadInput
from miaobi.core.language import say

MethodName = Literal[
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
]


@dataclass(frozen=True)
class Source:
    """Further examples to train on, see tune/mixing.py."""

    path: str = ""
    """In a recipe, under a name of your own: a further file or folder of training
    examples, of any format that data.path may have.
    """
    pack: str = ""
    """A starter pack instead of a path."""
    share: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Examples of it for each training example of data.path, as far as it has so many;
    0 leaves it out.
    """
    columns: dict[str, str] | None = None
    """Your names for its columns, where they are others than data.columns."""


@dataclass(frozen=True)
class DataConfig:
    """Where the labelled examples come from and how they are divided."""

    path: str = ""
    """A file or folder: JSONL, JSON, CSV, Parquet (each also gzip), or what the task
    reads besides (class folders, CoNLL, COCO).
    """
    pack: str = ""
    """A starter pack instead of a path."""
    encoding: str = ""
    """Of files that are not UTF-8, such as cp1252 or big5; by default it is told from the
    text, or asked for where that is too little.
    """
    columns: dict[str, str] = field(default_factory=dict)
    """Your names for the task's columns: {text: review, label: stars}."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share that is held out from training, for early stopping."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share that is held out from both, for the comparison with the base."""
    validation_path: str = ""
    """A file of its own for validation, instead of a share."""
    test_path: str = ""
    """A file of its own for the test, instead of a share."""
    max_examples: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Use only so many, chosen by chance; 0 uses all."""
    max_length: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Tokens of an example; 0 for enough to hold 99 % of them, at most 512 and at most
    what the base can hold.
    """
    too_long: Literal["truncate", "split", "drop"] = "truncate"
    """What becomes of longer ones. truncate: the beginning of what is read goes (of a
    dialogue first its oldest exchanges), the answer stays; texts without a prompt lose
    their end. split: several examples of one, where the task can. drop: left out.
    """
    allow_leakage: bool = False
    """Go on although questions of test_path stand in the training data."""
    strict: bool = True
    """Stop at the first unusable record. Otherwise leave such records out, count and
    report them.
    """
    mix: dict[str, Source] = field(default_factory=dict)
    """Further sources of training examples by name; what is held out comes from data.path alone."""


@dataclass(frozen=True)
class TuneConfig:
    """Step 3: how the base is changed."""

    method: MethodName = "lora"
    """Which weights move, and what is put beside those that do not."""
    lora_rank: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Columns of A and B; for adalora the average that remains."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Strength: the update is scaled by lora_alpha / lora_rank (rslora: by its root)."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a LoRA's inputs that is dropped while training."""
    targets: str = ""
    """Regular expression for the names of the layers that get an adapter; empty for all
    linear ones but the head.
    """
    add_tokens: list[str] = field(default_factory=list)
    """New tokens of the vocabulary, such as <|note|>: read wherever they stand in a text,
    and written like any other. Their rows are trained, beside an adapter too.
    """
    add_special_tokens: list[str] = field(default_factory=list)
    """New tokens that only a chat template writes, such as <|im_start|>; texts for people
    leave them out.
    """
    virtual_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Of prompt, prefix and p-tuning."""
    bottleneck_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Units of a bottleneck adapter."""
    freeze_layers: Annotated[int, Field(ge=-1)] = -1
    """frozen: so many of the lowest layers stay, -1 for all of the base."""
    freeze_embeddings: bool = True
    """frozen: the embeddings stay."""
    freeze_pattern: str = ""
    """frozen: a regular expression; weights with such names stay besides."""
    gradual_unfreezing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """frozen: share of the run over which the layers that are not frozen thaw, the last
    first (Howard & Ruder 2018, arXiv:1801.06146).
    """
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a layer as a multiple of that of the one above it."""
    quantise: Literal["none", "int8", "int4"] = "none"
    """The frozen base in fewer bits, with an adapter above it."""
    neftune_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Strength of noise on the input embeddings while training, 5 to 15 (Jain et al.
    2023, arXiv:2310.05914); 0 for none.
    """
    dropout: Annotated[float, Field(ge=-1, lt=1)] = -1.0
    """Of the base while training; -1 for what it has."""
    gradient_checkpointing: bool = False
    """Less memory for a third more time: activations are recomputed in the backward pass."""

    def __post_init__(self) -> None:
        """Raise BadInput for settings that do not go together."""
        if -1 < self.dropout < 0:
            raise BadInput(
                say(
                    f"tune.dropout is {self.dropout}.",
                    f"tune.dropout 为 {self.dropout}。",
                ),
                say(
                    "It must be from 0 to below 1, or -1.",
                    "应在 0 与 1 之间，或为 -1。",
                ),
            )
        _check_pattern("targets", self.targets)
        _check_pattern("freeze_pattern", self.freeze_pattern)
        self._check_tokens()
        self._check_combination()

    def _check_tokens(self) -> None:
        """Raise BadInput for a new token that is empty, blank at an end, or there twice."""
        tokens = [*self.add_tokens, *self.add_special_tokens]
        for token in tokens:
            if token.strip() != token or not token or tokens.count(token) > 1:
                raise BadInput(
                    say(
                        f"tune.add_tokens has {token!r}.",
                        f"tune.add_tokens 中有 {token!r}。",
                    ),
                    say(
                        "Name each new token once, without blanks around it.",
                        "每个新词元只写一次，首尾不留空白。",
                    ),
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


def _check_pattern(name: str, value: str) -> None:
    """Raise BadInput for text that is no regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        raise BadInput(
            say(f"tune.{name} is {value!r}.", f"tune.{name} 为 {value!r}。"),
            say(
                f"It must be a regular expression ({error}).",
                f"应为正则表达式（{error}）。",
            ),
        ) from None


@dataclass(frozen=True)
class ReportConfig:
    """Step 5: how base and tuned model are compared."""

    limit: Annotated[int, Field(ge=0, le=1_000_000_000)] = 500
    """Test examples at most."""
    answers: Annotated[int, Field(ge=0, le=1000)] = 6
    """Test examples whose answers are shown side by side, the worst first."""
    forgetting: bool = True
    """For models that write: compare how likely a general text is before and after."""
    memorisation: bool = True
    """Compare the metrics on training examples with those on the test."""
