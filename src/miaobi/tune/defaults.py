"""Hyper-parameters that follow from base, method, data and machine, for whoever left
them open; each with its reason.

Where the numbers come from: full fine-tuning of encoders, 2e-5 to 5e-5 for two to four
    epochs (Devlin et al. 2019, arXiv:1810.04805); LoRA wants ten times the rate of full
    tuning (Schulman et al. 2025, thinkingmachines.ai/blog/lora); IA³ 3e-3 (Liu et al.
    2022, arXiv:2205.05638); adapters 1e-3 (Houlsby et al. 2019, arXiv:1902.00751);
    prompts far more than weights (Lester et al. 2021, arXiv:2104.08691).
What these do not know: your data. `miaobi search` does.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from miaobi.core.language import say
from miaobi.train import estimate, loop, processes
from miaobi.train.config import TrainConfig
from miaobi.tune.examples import Examples, Lengths
from miaobi.tune.learner import Learner
from miaobi.tune.methods import TuneConfig

MINUTES = 30.0
"""What a run takes at most on a CPU unless told otherwise."""
OVERHEAD = 1.25
"""Validations, checkpoints and samples beside the steps."""
TOKENS = 4096
"""Of a microbatch: more gain nothing, they only need memory."""
ROWS = 64
"""Of a microbatch, where examples have no length or a short one."""
FEW = 10
"""A run has so many steps at least."""
RATES = {
    "ia3": 3e-3,
    "prompt": 1e-2,
    "prefix": 1e-2,
    "p-tuning": 1e-3,
    "bottleneck": 1e-3,
    "adalora": 1e-3,
}
TINY = ("ia3", "prompt", "prefix", "p-tuning")
"""Methods with so few parameters that they need to see the data more often."""


@dataclass(frozen=True)
class Derived:
    key: str
    """Of the train section."""
    value: Any
    reason: str
    """For people, in their language."""


def derive(
    given: Set[str],
    tune: TuneConfig,
    train: TrainConfig,
    learner: Learner,
    data: Examples,
    lengths: Lengths,
) -> list[Derived]:
    """What follows for the train settings that are not in `given` ("train.max_steps",
    ...); those that are stay as `train` has them.

    A few rows are run to learn how long a step takes here, unless max_steps is given.
    Weights and random state stay as they were.
    """
    found = dict[str, Derived]()

    def settle(key: str, value: Any, reason: str) -> Any:
        if f"train.{key}" in given:
            return getattr(train, key)
        found[key] = Derived(key, value, reason)
        return value

    size = sum(item.numel() for item in learner.parameters())
    count = data.count("train")
    whole, why = whole_batch(count)
    rows, room = _microbatch(learner, lengths, whole, train.device)
    if "train.accumulation" in given and "train.batch_size" not in given:
        rows, room = max(whole // train.accumulation, 1), why
    rows = settle("batch_size", rows, room)
    parts = settle(
        "accumulation",
        max(whole // rows, 1),
        say(f"{why}, {rows} at a time", f"{why}，每次 {rows} 条"),
    )
    settle("learning_rate", *_rate(tune, size, learner.learning_rate_factor))
    steps = train.max_steps
    if "train.max_steps" not in given:
        steps = settle(
            "max_steps",
            *_steps(
                tune, replace(train, batch_size=rows, accumulation=parts), learner, data
            ),
        )
    settle(
        "warmup",
        0.1 if steps <= 300 else 0.06,
        say(
            "a fresh optimiser must not shake a trained model",
            "避免刚启动的优化器扰动已训练好的模型",
        ),
    )
    settle("schedule", "linear", say("usual in fine-tuning", "微调的惯例"))
    settle(
        "betas",
        (0.9, 0.999),
        say(
            "the long memory suits short, noisy runs",
            "较长的动量记忆适合步数少、噪声大的训练",
        ),
    )
    decayed = tune.method in ("full", "frozen")
    settle(
        "weight_decay",
        0.01 if decayed else 0.0,
        say("light: the weights are good already", "较轻：权重已经很好")
        if decayed
        else say(
            "an adapter is small and pulled to zero, which is the base, by nothing",
            "适配器很小，无需再向零（即基础模型）收缩",
        ),
    )
    every = settle(
        "validate_every",
        max(steps // (10 if steps >= 100 else 5), 1),
        say(
            "ten looks in a long run, five in a short one",
            "长训练验证十次，短训练验证五次",
        ),
    )
    settle(
        "patience",
        3,
        say(
            f"ends when {3 * every} steps brought nothing better",
            f"{3 * every} 步没有改善就结束",
        ),
    )
    settle(
        "log_every",
        min(max(steps // 50, 1), 10),
        say("about fifty points on the curve", "曲线上约五十个点"),
    )
    settle("precision", *_precision(train.device))
    # Free memory and speed are measured, so processes that train together would differ:
    # what the first one found counts.
    agreed = processes.broadcast_json(
        [[item.key, item.value, item.reason] for item in found.values()]
    )
    return [
        Derived(key, tuple(value) if isinstance(value, list) else value, why)
        for key, value, why in agreed
    ]


def whole_batch(count: int) -> tuple[int, str]:
    """Examples a step, and why."""
    wanted = 16 if count < 5000 else 32 if count < 100_000 else 64
    whole = _power(min(wanted, count // 8))
    return whole, say(
        f"{whole} a step for {count:,} examples",
        f"共 {count:,} 条样本，每步 {whole} 条",
    )


def _microbatch(
    learner: Learner, lengths: Lengths, whole: int, device: str
) -> tuple[int, str]:
    """Rows that a microbatch can hold: a power of two, by tokens and by memory."""
    limit, why = min(whole, ROWS), say("a step's worth at once", "一次算完一步")
    if lengths.p95:
        by_tokens = TOKENS // lengths.p95
        by_memory = int(
            _free_memory(device) / 2 / max(_bytes_a_token(learner) * lengths.p95, 1)
        )
        if min(by_tokens, by_memory) < limit:
            limit = min(by_tokens, by_memory)
            why = (
                say(
                    f"at {lengths.p95} tokens half of the free memory holds {limit}",
                    f"每条约 {lengths.p95} 个词元，一半可用内存可容纳 {limit} 条",
                )
                if by_memory < by_tokens
                else say(
                    f"at {lengths.p95} tokens each, {TOKENS} tokens at a time",
                    f"每条约 {lengths.p95} 个词元，每次 {TOKENS} 个词元",
                )
            )
    return _power(limit), why


def _power(limit: int) -> int:
    """The greatest power of two that is not above it; 1 at least."""
    return 1 << (max(limit, 1).bit_length() - 1)


def _bytes_a_token(learner: Learner) -> float:
    """What autograd keeps of a token in a Transformers model, by its config: some 34
    vectors a layer (Korthikanti et al. 2022, arXiv:2205.05198), and the logits three
    times; 0 where there is no such config.
    """
    settings = vars(
        getattr(learner.net, "config", None) or object
    )  # a plain module has none
    if not {"hidden_size", "num_hidden_layers"} <= settings.keys():
        return 0.0
    return 4.0 * (
        settings["num_hidden_layers"] * settings["hidden_size"] * 34
        + 3 * settings.get("vocab_size", 0)
    )


def _free_memory(device: str) -> int:
    chosen = processes.pick_device(device)
    return (
        int(torch.cuda.mem_get_info(chosen)[0])
        if chosen.type == "cuda"
        else int(psutil.virtual_memory().available)
    )


def _rate(tune: TuneConfig, size: int, pace: float) -> tuple[float, str]:
    full = 1e-4 if size < 30e6 else 3e-5 if size < 500e6 else 1e-5
    if tune.method in RATES:
        rate, why = (
            RATES[tune.method],
            say(f"usual for {tune.method}", f"{tune.method} 的常用值"),
        )
    elif tune.method == "full" or (tune.method == "frozen" and tune.freeze_layers >= 0):
        rate, why = (
            full,
            say(
                f"usual for all weights of {size / 1e6:,.0f} M parameters",
                f"{size / 1e6:,.0f} M 参数全量训练的常用值",
            ),
        )
    elif tune.method == "frozen":
        rate, why = 1e-3, say("only the head learns", "只训练任务头")
    else:
        rate, why = (
            10 * full,
            say(
                f"ten times that of full tuning at {size / 1e6:,.0f} M parameters",
                f"{size / 1e6:,.0f} M 参数全量微调的十倍",
            ),
        )
    if pace != 1:
        why = say(
            f"{why}; times {pace:g} for this task", f"{why}；该任务再乘以 {pace:g}"
        )
    return float(f"{rate * pace:.3g}"), why


def _steps(
    tune: TuneConfig, train: TrainConfig, learner: Learner, data: Examples
) -> tuple[int, str]:
    """Epochs by the amount of data, but no more than the time allows."""
    count, whole = (
        data.count("train"),
        train.batch_size * train.accumulation * processes.world_size(),
    )
    epochs = (
        10 if count <= 200 else 5 if count <= 1000 else 3 if count <= 20_000 else 1
    ) * (2 if tune.method in TINY else 1)
    steps = max(-(-count * epochs // whole), FEW)
    why = say(
        f"{epochs} times through {count:,} examples", f"{count:,} 条样本过 {epochs} 遍"
    )
    minutes = train.max_minutes or (
        MINUTES if processes.pick_device(train.device).type == "cpu" else None
    )
    if minutes is None:
        return steps, why
    fitting = int(60 * minutes / (seconds_a_step(train, learner, data) * OVERHEAD))
    if fitting >= steps:
        return steps, why
    shown = max(fitting, FEW)
    return shown, say(
        f"limited by time: about {minutes:g} min on this machine, "
        f"{shown * whole / count:.1f} of the {epochs} times through the data "
        "that would be usual"
        f" ({steps:,} steps; --train.max_steps {steps} for all)",
        f"受时间限制：本机约 {minutes:g} 分钟，可过数据 "
        f"{shown * whole / count:.1f} 遍；通常应过 {epochs} 遍（共 {steps:,} "
        f"步，用 --train.max_steps {steps} 跑完）",
    )


def seconds_a_step(train: TrainConfig, learner: Learner, data: Examples) -> float:
    """Measured on a few rows here and scaled to the batch. Weights, gradients and
    random state stay as they were.
    """
    state = loop.start(learner, train)
    with estimate.preserved(state):
        return estimate.seconds_per_step(state, data)


def _precision(device: str) -> tuple[str, str]:
    chosen = processes.pick_device(device)
    if chosen.type == "cuda" and torch.cuda.is_bf16_supported():
        return "bfloat16", say("this GPU has it", "该 GPU 支持")
    return "float32", say(
        "exact, and as fast on this device", "精确，且在该设备上同样快"
    )
