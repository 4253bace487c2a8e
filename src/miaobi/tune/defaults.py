"""Hyper-parameters that follow from base, method, data and machine, for whoever left
them open; each with its reason.

Sources: full fine-tuning of encoders, 2e-5 to 5e-5 for two to four epochs (Devlin et
al. 2019, arXiv:1810.04805); LoRA wants ten times the rate of full tuning (Schulman et
al. 2025, thinkingmachines.ai/blog/lora); IA³ 3e-3 (Liu et al. 2022, arXiv:2205.05638);
adapters 1e-3 (Houlsby et al. 2019, arXiv:1902.00751); prompts far more than weights
(Lester et al. 2021, arXiv:2104.08691).

What these do not know is your data. `miaobi search` does.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from miaobi.core.language import in_each, say
from miaobi.train import loop, processes, threads, timing
from miaobi.train.config import TrainConfig
from miaobi.tune.config import TuneConfig
from miaobi.tune.examples import Examples, Lengths
from miaobi.tune.learner import Learner

MINUTES = 30.0
"""What a run takes at most on a CPU unless max_minutes says otherwise."""
OVERHEAD = 1.25
"""Validations, checkpoints and samples beside the steps."""
MICROBATCH_TOKENS = 4096
"""More gain nothing, they only need memory."""
MICROBATCH_ROWS = 64
"""Where examples have no length or a short one."""
MIN_STEPS = 10
"""A run has so many steps at least."""
SHORT_RUN = 300
"""Up to so many steps the warm-up is a larger share of the run."""
PATIENCE = 3
RATES = {
    "ia3": 3e-3,
    "prompt": 1e-2,
    "prefix": 1e-2,
    "p-tuning": 1e-3,
    "bottleneck": 1e-3,
    "adalora": 1e-3,
}
"""Learning rates by method; those of the others follow from the model's size."""
TINY = ("ia3", "prompt", "prefix", "p-tuning")
"""Methods with so few parameters that they need to see the data more often."""
VECTORS_PER_LAYER = 34
"""What autograd saves of a token in a Transformer (Korthikanti et al. 2022,
arXiv:2205.05198).
"""


@dataclass(frozen=True)
class Derived:
    """A setting that was left open."""

    key: str
    """Of the train section."""
    value: Any
    reason: str
    """For people, in their language."""


class Derivation:
    """Train settings: those that were set, and those that follow.

    Args:
        explicit_keys: "train.max_steps", ...: settings that stay as `train` has them.
        train: holds their values.
    """

    def __init__(self, explicit_keys: Set[str], train: TrainConfig) -> None:
        self.explicit_keys = explicit_keys
        self.train = train
        self.derived = list[Derived]()

    def is_set(self, key: str) -> bool:
        return f"train.{key}" in self.explicit_keys

    def settle(self, key: str, value: Any, reason: str) -> Any:
        """Return the value that was set, or this one, which is then noted."""
        if self.is_set(key):
            return vars(self.train)[key]
        self.derived.append(Derived(key, value, reason))
        return value


def derive(
    explicit_keys: Set[str],
    tune: TuneConfig,
    train: TrainConfig,
    learner: Learner,
    data: Examples,
    lengths: Lengths,
) -> list[Derived]:
    """Return the train settings that were left open.

    A few rows are run to learn how long a step takes here, unless max_steps is set.
    Weights and random state stay as they were.

    Args:
        explicit_keys: "train.max_steps", ...: settings that were not left open.
        tune: how the base is changed.
        train: the settings that were set.
        learner: with its adapters.
        data: to train on.
        lengths: of the data.
    """
    derivation = Derivation(explicit_keys, train)
    rows, microbatches = _settle_batch(
        derivation, learner, lengths, data.count("train")
    )
    size = sum(parameter.numel() for parameter in learner.parameters())
    rate, reason = _rate(tune, size, learner.learning_rate_factor)
    derivation.settle("learning_rate", rate, reason)
    steps = train.max_steps
    if not derivation.is_set("max_steps"):
        batches = replace(train, batch_size=rows, microbatches=microbatches)
        steps, reason = _steps(tune, batches, learner, data)
        derivation.settle("max_steps", steps, reason)
    _settle_schedule(derivation, tune, steps)
    _settle_validation(derivation, steps, bool(data.count("validation")))
    precision, reason = _precision(train.device)
    derivation.settle("precision", precision, reason)
    return _agreed(derivation.derived)


def _agreed(derived: list[Derived]) -> list[Derived]:
    """Return what the first process derived.

    Free memory and speed are measured, so processes that train together would differ.
    """
    rows = processes.broadcast_json(
        [[item.key, item.value, item.reason] for item in derived]
    )
    agreed = list[Derived]()
    for key, value, reason in rows:
        # JSON has no tuples.
        own_value = tuple(value) if isinstance(value, list) else value
        agreed.append(Derived(key, own_value, reason))
    return agreed


def _settle_batch(
    derivation: Derivation, learner: Learner, lengths: Lengths, count: int
) -> tuple[int, int]:
    """Return (rows of a microbatch, microbatches of a step)."""
    train = derivation.train
    batch_size, batch_reason = whole_batch(count)
    world_size = processes.world_size()
    share = max(batch_size // world_size, 1)
    rows, reason = _microbatch(learner, lengths, share, train.device)
    if derivation.is_set("microbatches") and not derivation.is_set("batch_size"):
        rows = max(batch_size // train.microbatches, 1)
        reason = batch_reason
    rows = derivation.settle("batch_size", rows, reason)
    in_each_process = max(batch_size // (rows * world_size), 1)
    microbatches = derivation.settle(
        "microbatches",
        in_each_process * world_size,
        in_each(
            lambda: say(
                f"{batch_reason}, {rows} at a time", f"{batch_reason}，每次 {rows} 条"
            )
        ),
    )
    return rows, microbatches


def _settle_schedule(derivation: Derivation, tune: TuneConfig, steps: int) -> None:
    derivation.settle(
        "warmup",
        0.1 if steps <= SHORT_RUN else 0.06,
        say(
            "early steps of a fresh optimiser would damage the trained weights",
            "避免刚启动的优化器扰动已训练好的模型",
        ),
    )
    derivation.settle("schedule", "linear", say("usual in fine-tuning", "微调的惯例"))
    derivation.settle(
        "betas",
        (0.9, 0.999),
        say(
            "longer averaging of gradients suits short, noisy runs",
            "较长的动量记忆适合步数少、噪声大的训练",
        ),
    )
    if tune.method in ("full", "frozen"):
        derivation.settle(
            "weight_decay",
            0.01,
            say("small: the weights are good already", "较轻：权重已经很好"),
        )
    else:
        derivation.settle(
            "weight_decay",
            0.0,
            say(
                "an adapter is small and needs no decay towards zero, which is the base",
                "适配器很小，无需再向零（即基础模型）收缩",
            ),
        )


def _settle_validation(
    derivation: Derivation, steps: int, has_validation: bool
) -> None:
    validations = 10 if steps >= 100 else 5
    every = derivation.settle(
        "validate_every",
        max(steps // validations, 1),
        say(
            "ten validations in a long run, five in a short one",
            "长训练验证十次，短训练验证五次",
        ),
    )
    if has_validation:
        patience = PATIENCE
        reason = say(
            f"ends when {PATIENCE * every} steps brought nothing better",
            f"{PATIENCE * every} 步没有改善就结束",
        )
    else:
        patience = 0
        reason = say(
            "no validation: to the end, and the last weights are kept",
            "无验证：跑完全程，保留最后的权重",
        )
    derivation.settle("patience", patience, reason)
    derivation.settle(
        "log_every",
        min(max(steps // 50, 1), 10),
        say("about fifty points on the curve", "曲线上约五十个点"),
    )


def whole_batch(count: int) -> tuple[int, str]:
    """Return the examples of a step for `count` training examples, and why."""
    if count < 5000:
        wanted = 16
    elif count < 100_000:
        wanted = 32
    else:
        wanted = 64
    size = _power_of_two(min(wanted, count // 8))
    reason = say(
        f"{size} a step for {count:,} examples",
        f"共 {count:,} 条样本，每步 {size} 条",
    )
    return size, reason


def _microbatch(
    learner: Learner, lengths: Lengths, batch_size: int, device: str
) -> tuple[int, str]:
    """Return the rows that a microbatch can hold, by tokens and by memory, and why.

    Args:
        learner: the model.
        lengths: of the data.
        batch_size: examples of a step, those of this process.
        device: where it is trained.
    """
    limit = min(batch_size, MICROBATCH_ROWS)
    reason = say("a step's worth at once", "一次算完一步")
    length = lengths.p95
    if not length:
        return _power_of_two(limit), reason
    by_tokens = MICROBATCH_TOKENS // length
    bytes_per_row = _bytes_per_token(learner) * length
    by_memory = int(_free_memory(device) / 2 / max(bytes_per_row, 1))
    if by_memory < min(by_tokens, limit):
        limit = by_memory
        reason = say(
            f"at {length} tokens half of the free memory holds {limit}",
            f"每条约 {length} 个词元，一半可用内存可容纳 {limit} 条",
        )
    elif by_tokens < limit:
        limit = by_tokens
        reason = say(
            f"at {length} tokens each, {MICROBATCH_TOKENS} tokens at a time",
            f"每条约 {length} 个词元，每次 {MICROBATCH_TOKENS} 个词元",
        )
    return _power_of_two(limit), reason


def _power_of_two(limit: int) -> int:
    """Return the greatest power of two that is not above it; 1 at least."""
    return 1 << (max(limit, 1).bit_length() - 1)


def _bytes_per_token(learner: Learner) -> float:
    """Return what training needs of memory for a token of a Transformers model.

    Vectors in each layer, and the logits three times, in float32; 0 for models without
    a config that has these sizes.
    """
    config = getattr(learner.net, "config", None)
    settings: dict[str, Any] = {} if config is None else vars(config)
    if not {"hidden_size", "num_hidden_layers"} <= settings.keys():
        return 0.0
    layers = settings["num_hidden_layers"]
    in_layers = layers * settings["hidden_size"] * VECTORS_PER_LAYER
    in_logits = 3 * settings.get("vocab_size", 0)
    return 4.0 * float(in_layers + in_logits)


def _free_memory(device: str) -> int:
    """Return the bytes that are free on the device."""
    chosen = processes.pick_device(device)
    if chosen.type == "cuda":
        return int(torch.cuda.mem_get_info(chosen)[0])
    return int(psutil.virtual_memory().available)


def _rate(tune: TuneConfig, size: int, factor: float) -> tuple[float, str]:
    """Return the learning rate and why.

    Args:
        tune: how the base is changed.
        size: parameters of the model.
        factor: of the task.
    """
    rate, reason = _rate_of_method(tune, size)
    if factor != 1:
        reason = in_each(
            lambda: say(
                f"{reason}; times {factor:g} for this task",
                f"{reason}；该任务再乘以 {factor:g}",
            )
        )
    return float(f"{rate * factor:.3g}"), reason


def _rate_of_method(tune: TuneConfig, size: int) -> tuple[float, str]:
    millions = f"{size / 1e6:,.0f} M"
    full_rate = 1e-4 if size < 30e6 else 3e-5 if size < 500e6 else 1e-5
    if tune.method in RATES:
        reason = say(f"usual for {tune.method}", f"{tune.method} 的常用值")
        return RATES[tune.method], reason
    if tune.method == "full" or (tune.method == "frozen" and tune.freeze_layers >= 0):
        reason = say(
            f"usual for all weights of {millions} parameters",
            f"{millions} 参数全量训练的常用值",
        )
        return full_rate, reason
    if tune.method == "frozen":
        return 1e-3, say("only the head learns", "只训练任务头")
    reason = say(
        f"ten times that of full tuning at {millions} parameters",
        f"{millions} 参数全量微调的十倍",
    )
    return 10 * full_rate, reason


def _epochs(count: int, method: str) -> int:
    """Return how often a run goes through `count` examples if time allows."""
    if count <= 200:
        epochs = 10
    elif count <= 1000:
        epochs = 5
    elif count <= 20_000:
        epochs = 3
    else:
        epochs = 1
    return 2 * epochs if method in TINY else epochs


def _steps(
    tune: TuneConfig, train: TrainConfig, learner: Learner, data: Examples
) -> tuple[int, str]:
    """Return the steps of a run and why: by the amount of data, as far as time allows."""
    count = data.count("train")
    batch_size = train.batch_size * train.microbatches
    epochs = _epochs(count, tune.method)
    steps = max(-(-count * epochs // batch_size), MIN_STEPS)
    reason = say(
        f"{epochs} times through {count:,} examples", f"{count:,} 条样本过 {epochs} 遍"
    )
    minutes = train.max_minutes
    if not minutes and processes.pick_device(train.device).type == "cpu":
        minutes = MINUTES
    if not minutes:
        return steps, reason
    seconds = seconds_a_step(train, learner, data) * OVERHEAD
    fitting = int(60 * minutes / seconds)
    if fitting >= steps:
        return steps, reason
    limited = max(fitting, MIN_STEPS)
    passes = f"{limited * batch_size / count:.1f}"
    return limited, say(
        f"limited by time: about {minutes:g} min on this machine, "
        f"{passes} of the {epochs} times through the data that would be usual"
        f" ({steps:,} steps; --train.max_steps {steps} for all)",
        f"受时间限制：本机约 {minutes:g} 分钟，可过数据 "
        f"{passes} 遍；通常应过 {epochs} 遍（共 {steps:,} "
        f"步，用 --train.max_steps {steps} 跑完）",
    )


def seconds_a_step(train: TrainConfig, learner: Learner, data: Examples) -> float:
    """Return what a step takes, measured on a few rows here and scaled to the batch.

    Weights, gradients and random state stay as they were.
    """
    state = loop.start(learner, train)
    counts = threads.choices(state, threads.most(train))
    with timing.preserved(state):
        return timing.time_step(state, data, counts).seconds


def _precision(device: str) -> tuple[str, str]:
    chosen = processes.pick_device(device)
    if chosen.type == "cuda" and torch.cuda.is_bf16_supported():
        return "bfloat16", say("this GPU has it", "该 GPU 支持")
    return "float32", say(
        "exact, and as fast on this device", "精确，且在该设备上同样快"
    )
