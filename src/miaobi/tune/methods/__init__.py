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

Each is a `Method`. All but full, frozen and bottleneck come from PEFT and are saved in
its layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Learner
from miaobi.tune.methods import (
    adapters,
    bottleneck,
    freezing,
    quantise,
    regularisers,
)
from miaobi.tune.methods.method import Method

__all__ = ["METHODS", "Method", "apply", "restore", "save"]


def _peft(english: str, chinese: str) -> Method:
    return Method((english, chinese), adapters.apply, adapters.save, adapters.load)


METHODS = {
    "full": Method(
        ("every weight", "全部权重"),
        freezing.unfreeze,
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
        bottleneck.apply,
        bottleneck.save,
        bottleneck.load,
    ),
}
"""By the names that `tune.method` takes."""
ADDED_ROWS_RATE = 10.0
"""Multiple of the learning rate for the rows of added tokens beside an adapter. They begin
as the mean of all rows, and at an adapter's own rate 40 steps of Adam move an entry by
less than a tenth of the spread that the rows of SmolLM2 have: nothing was learned.
"""


def apply(learner: Learner, config: TuneConfig) -> None:
    """Wrap or freeze `learner.net` in place.

    Raises Unsupported for a method that does not go with this base or task, BadInput
    where nothing would be left to train.
    """
    method = METHODS[config.method]
    _prepare(learner, config)
    method.apply(learner, config)
    _finish(learner, config, method)
    if learner.added_ids:
        _check_added_rows(learner, config)
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


def _check_added_rows(learner: Learner, config: TuneConfig) -> None:
    """Raise BadInput where the rows of added tokens would not be trained."""
    net: Any = learner.net
    tables = [net.get_input_embeddings(), net.get_output_embeddings()]
    for table in filter(None, tables):
        if not any(parameter.requires_grad for parameter in table.parameters()):
            raise BadInput(
                say(
                    f"With the method {config.method} as it is set, the new tokens of tune.add_tokens "
                    "would not be learned.",
                    f"按目前的设置，{config.method} 方法学不到 tune.add_tokens 的新词元。",
                ),
                say(
                    "Take --method lora, rslora, dora, adalora or full; or frozen with "
                    "--tune.freeze_layers 0 --tune.freeze_embeddings false.",
                    "请使用 --method lora、rslora、dora、adalora 或 full；或 frozen 加 "
                    "--tune.freeze_layers 0 --tune.freeze_embeddings false。",
                ),
            )


def save(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """Write the weights as safetensors into `folder`.

    An adapter is written with its settings, a whole model in its ecosystem's layout.
    """
    METHODS[config.method].save(learner, folder)


def restore(learner: Learner, config: TuneConfig, folder: Path) -> None:
    """Read what `save` wrote into a fresh learner of the same base.

    `apply` was not called for it. What was trained may be trained further, but the
    schedules of adalora and gradual unfreezing do not begin again.
    """
    method = METHODS[config.method]
    _prepare(learner, config)
    method.load(learner, config, folder)
    _finish(learner, config, method)


def _prepare(learner: Learner, config: TuneConfig) -> None:
    """Do what is the same for all methods and comes before adapters are put in."""
    regularisers.apply(learner, config)
    if config.quantise != "none":
        quantise.quantise(learner, config.quantise)


def _finish(learner: Learner, config: TuneConfig, method: Method) -> None:
    """Do what is the same for all methods and needs to know which weights move."""
    learner.adapter = method.adapter
    learner.rates = freezing.layer_rates(learner, config.layer_decay)
    for name in adapters.added_rows(learner):
        learner.rates[name] = ADDED_ROWS_RATE * learner.rates.get(name, 1.0)
    freezing.hold_statistics(learner)
