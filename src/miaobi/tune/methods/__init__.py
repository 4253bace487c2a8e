"""Ways to tune: which weights move, and what is put beside those that do not.

full        every weight
frozen      the head, and what `freeze_*` leave of the rest
lora        low-rank updates beside the matrices: W + (α/r) B A (Hu et al. 2021, arXiv:2106.09685)
rslora      the same scaled by α/√r, so that a higher rank learns more (Kalajdzievski 2023, arXiv:2312.03732)
dora        LoRA turns the columns, a vector m of its own stretches them (Liu et al. 2024, arXiv:2402.09353)
adalora     B diag(E) A, whose ranks go where they matter (Zhang et al. 2023, arXiv:2303.10512)
ia3         one gain for each key, value and hidden unit (Liu et al. 2022, arXiv:2205.05638)
prompt      learned vectors before the text (Lester et al. 2021, arXiv:2104.08691)
prefix      learned keys and values before those of every layer (Li & Liang 2021, arXiv:2101.00190)
p-tuning    a learned prompt out of a small network (Liu et al. 2021, arXiv:2103.10385)
bottleneck  small networks after each sub-layer (Houlsby et al. 2019, arXiv:1902.00751)

Each is a `Method`; all but full, frozen and bottleneck come from PEFT and are kept in its layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.tune.learner import Learner
from miaobi.tune.methods import adapters, bottleneck, freezing, quantise
from miaobi.tune.methods import regularisers as aids


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
    """Less memory for a third more time: layers are worked out anew on the way back."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadInput(
                say(
                    f"tune.method is {self.method!r}.",
                    f"tune.method 为 {self.method!r}。",
                ),
                nearest(self.method, METHODS),
            )
        for name, least in (
            ("lora_rank", 1),
            ("virtual_tokens", 1),
            ("bottleneck_size", 1),
            ("freeze_layers", -1),
        ):
            self._need(
                name,
                getattr(self, name) >= least,
                say(f"at least {least}", f"至少为 {least}"),
            )
        self._need("lora_alpha", self.lora_alpha > 0, say("above 0", "大于 0"))
        self._need(
            "lora_dropout",
            0 <= self.lora_dropout < 1,
            say("from 0 to below 1", "在 0 与 1 之间"),
        )
        self._need(
            "dropout",
            self.dropout == -1 or 0 <= self.dropout < 1,
            say("from 0 to below 1, or -1", "在 0 与 1 之间，或为 -1"),
        )
        self._need(
            "gradual_unfreezing",
            0 <= self.gradual_unfreezing <= 1,
            say("from 0 to 1", "在 0 与 1 之间"),
        )
        self._need(
            "layer_decay",
            0 < self.layer_decay <= 1,
            say("above 0, at most 1", "大于 0，至多为 1"),
        )
        self._need(
            "neftune_alpha", self.neftune_alpha >= 0, say("at least 0", "至少为 0")
        )
        for name in ("targets", "freeze_pattern"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                self._need(
                    name,
                    False,
                    say(f"a regular expression ({error})", f"正则表达式（{error}）"),
                )
        self._need_together()

    def _need(self, name: str, good: bool, what: str) -> None:
        if not good:
            raise BadInput(
                say(
                    f"tune.{name} is {getattr(self, name)!r}.",
                    f"tune.{name} 为 {getattr(self, name)!r}。",
                ),
                say(f"It must be {what}.", f"应{what}。"),
            )

    def _need_together(self) -> None:
        """Settings of one method are not silently ignored by another."""
        frozen = (
            self.freeze_layers >= 0
            or not self.freeze_embeddings
            or self.freeze_pattern
            or self.gradual_unfreezing
        )
        if frozen and self.method != "frozen":
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


class Method(NamedTuple):
    summary: tuple[str, str]
    """In English and in Chinese."""
    put: Callable[[Learner, TuneConfig], None]
    """Wrap or freeze the net."""
    save: Callable[[Learner, Path], None]
    load: Callable[[Learner, TuneConfig, Path], None]
    """What `save` left, into a net as the base is."""
    adapter: bool = True
    """Whether only what was added is kept, for a base that lies elsewhere."""


def _peft(english: str, chinese: str) -> Method:
    return Method((english, chinese), adapters.put, adapters.save, adapters.load)


METHODS = {
    "full": Method(
        ("every weight", "全部权重"),
        freezing.free,
        freezing.save,
        freezing.load,
        adapter=False,
    ),
    "frozen": Method(
        ("the head and the layers that are not frozen", "任务头与未冻结的层"),
        freezing.freeze,
        freezing.save,
        freezing.load_frozen,
        adapter=False,
    ),
    "lora": _peft("low-rank updates", "低秩更新"),
    "rslora": _peft("low-rank updates, rank-stabilised", "秩稳定的低秩更新"),
    "dora": _peft("low-rank directions and their own magnitudes", "低秩方向加独立幅值"),
    "adalora": _peft(
        "low-rank updates whose ranks are allocated", "自适应分配秩的低秩更新"
    ),
    "ia3": _peft("learned gains", "学习到的增益"),
    "prompt": _peft("a learned prompt", "可学习的提示"),
    "prefix": _peft("learned keys and values", "可学习的键与值"),
    "p-tuning": _peft("a learned prompt out of a network", "由小网络生成的可学习提示"),
    "bottleneck": Method(
        ("small networks after each sub-layer", "每个子层之后的小网络"),
        bottleneck.put,
        bottleneck.save,
        bottleneck.load,
    ),
}


def apply(learner: Learner, config: TuneConfig) -> None:
    """Wrap or freeze `learner.net` in place.

    Raises Unsupported for a method that does not go with this base or task, BadInput
    where nothing would be left to train.
    """
    method = _begun(learner, config)
    method.put(learner, config)
    _concluded(learner, config, method)
    if not any(parameter.requires_grad for parameter in learner.net.parameters()):
        raise BadInput(
            say(
                "Everything is frozen: nothing is left to train.",
                "全部权重都被冻结，没有可训练的内容。",
            ),
            say(
                "Lower --tune.freeze_layers, narrow --tune.freeze_pattern, or take --method lora.",
                "请调小 --tune.freeze_layers、收窄 --tune.freeze_pattern，或使用 --method lora。",
            ),
        )


def save(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """Weights, safetensors: the adapter with its settings, or the whole model in its
    ecosystem's layout.
    """
    METHODS[config.method].save(learner, folder)


def restore(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """The weights `save` left, into a fresh learner of the same base to which `apply`
    was not done; what trained before may train on, but the schedules of adalora and
    gradual unfreezing do not begin again.
    """
    method = _begun(learner, config)
    method.load(learner, config, folder)
    _concluded(learner, config, method)


def _begun(learner: Learner, config: TuneConfig) -> Method:
    aids.prepare(learner, config)
    if config.quantise != "none":
        quantise.quantise(learner, config.quantise)
    return METHODS[config.method]


def _concluded(learner: Learner, config: TuneConfig, method: Method) -> None:
    learner.adapter = method.adapter
    learner.rates = freezing.rates(learner, config.layer_decay)
    freezing.keep_statistics(learner)
