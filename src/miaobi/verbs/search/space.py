"""What `miaobi search` may vary: the `search` section of a recipe, or what follows from
the recipe's kind.

search:
  train.learning_rate: {low: 1e-5, high: 1e-3, log: true}
  tune.method: [lora, dora, full]
  tune.lora_rank: {choices: [4, 8, 16], when: {tune.method: [lora, dora]}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.train.search import Dimension, Space

LORA = ("lora", "rslora", "dora", "adalora")
"""Methods that have a rank."""
FROZEN_SETTINGS = (
    "tune.freeze_layers",
    "tune.freeze_embeddings",
    "tune.freeze_pattern",
    "tune.gradual_unfreezing",
)
WHEN: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "tune.lora_rank": {"tune.method": LORA},
    "tune.lora_alpha": {"tune.method": LORA},
    "tune.lora_dropout": {"tune.method": LORA},
    "tune.virtual_tokens": {"tune.method": ("prompt", "prefix", "p-tuning")},
    "tune.bottleneck_size": {"tune.method": ("bottleneck",)},
    **{key: {"tune.method": ("frozen",)} for key in FROZEN_SETTINGS},
    "train.matrix_learning_rate": {"train.optimizer": ("muon",)},
    "train.momentum": {"train.optimizer": ("muon", "sgd")},
    "train.decay": {"train.schedule": ("wsd",)},
}
"""Settings that mean something only beside others."""
FIXED = (
    "name",
    "task",
    "search",
    "train.max_steps",
    "train.max_minutes",
    "train.device",
    "train.trackers",
    "train.watch",
    "train.validate_every",
)
"""Settings that belong to the search itself, not to its space."""
TRAINED_ON = {
    "train": ("data.augment",),
    "finetune": ("data.max_examples", "data.too_long", "data.max_length", "data.mix.*"),
}
"""Settings of data that leave the held-out examples as they are."""
LOSSES = (
    "beta",
    "likelihood",
    "free_bits",
    "commitment",
    "adversary",
    "adversary_begins",
    "gamma",
    "l1",
    "spread",
    "quantiser",
)
"""Settings of a model that are part of its loss: trials with different ones have losses
that cannot be compared.
"""


def read(
    section: Mapping[str, Any], options: Mapping[str, Option], kind: str, metric: str
) -> list[Dimension]:
    """Return the space of a recipe's `search` section.

    Args:
        section: keys, dotted or nested, with their values or limits
        options: every setting by its key
        kind: "train" or "finetune"
        metric: what trials are compared by

    Raises:
        BadInput: a key or a value is wrong, or makes trials incomparable
    """
    return [
        _dimension(key, values, options, kind, metric)
        for key, values in _entries(section, options)
    ]


def _entries(
    section: Mapping[str, Any], options: Mapping[str, Option], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value), whether keys are written dotted or nested."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        is_section = key not in options and any(
            other.startswith(f"{key}.") for other in options
        )
        if is_section and isinstance(value, Mapping):
            yield from _entries(value, options, f"{key}.")
        else:
            yield config.present_key(key, options), value


def _dimension(
    key: str, values: Any, options: Mapping[str, Option], kind: str, metric: str
) -> Dimension:
    if key not in options:
        raise BadInput(
            say(
                f"search: there is no setting {key!r}.",
                f"search：没有名为 {key!r} 的设置。",
            ),
            nearest(key, options),
        )
    _check_comparable(key, kind, metric)
    option = options[key]
    fields = dict(values) if isinstance(values, Mapping) else {"choices": values}
    _check_fields(key, values, fields)
    when = {
        name: tuple(allowed if isinstance(allowed, list | tuple) else [allowed])
        for name, allowed in _entries(fields.get("when") or WHEN.get(key, {}), options)
    }
    if "choices" in fields:
        return Dimension(key, _choices(key, fields["choices"], option), when=when)
    low = option.convert(_number(key, fields["low"]), "search")
    high = option.convert(_number(key, fields["high"]), "search")
    return Dimension(
        key,
        low=low,
        high=high,
        log=bool(fields.get("log")),
        whole=isinstance(low, int) and not isinstance(low, bool),
        step=fields.get("step"),
        when=when,
    )


def _check_fields(key: str, values: Any, fields: Mapping[str, Any]) -> None:
    """Raise BadInput for neither choices nor limits, for both, and for unknown fields."""
    unknown = fields.keys() - {"choices", "low", "high", "log", "step", "when"}
    has_limits = "low" in fields and "high" in fields
    if unknown or ("choices" in fields) == has_limits:
        raise BadInput(
            say(f"search: {key} is {values!r}.", f"search：{key} 的值为 {values!r}。"),
            say(
                "Write a list of values, or {low: ..., high: ..., log: true}.",
                "请给出取值列表，或 {low: ..., high: ..., log: true}。",
            ),
        )


def _number(key: str, value: Any) -> float:
    """Return a limit as a number; YAML reads 1e-5 as text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadInput(
            say(
                f"search: {key} has the limit {value!r}.",
                f"search：{key} 的边界为 {value!r}。",
            ),
            say("Write a number.", "请给出数字。"),
        ) from None
    return int(number) if number.is_integer() and abs(number) >= 1 else number


def _choices(key: str, values: Any, option: Option) -> tuple[Any, ...]:
    listed = values if isinstance(values, list) else [values]
    choices = tuple(option.convert(value, "search") for value in listed)
    scalars = (str, int, float, bool, type(None))
    if not choices or not all(isinstance(value, scalars) for value in choices):
        raise BadInput(
            say(
                f"search: {key} cannot be chosen from {values!r}.",
                f"search：{key} 不能从 {values!r} 中选择。",
            ),
            say("Write a list of plain values.", "请给出由简单取值组成的列表。"),
        )
    return choices


def _check_comparable(key: str, kind: str, metric: str) -> None:
    """Raise BadInput for a setting that would make trials incomparable."""
    section, _, leaf = key.partition(".")
    if key in FIXED or section in ("sample", "report"):
        raise BadInput(
            say(
                f"search: {key} is the search's own matter.",
                f"search：{key} 由搜索自身决定。",
            ),
            say(
                "A trial's length is set with --minutes or --train.max_steps.",
                "单次试验的长度用 --minutes 或 --train.max_steps 指定。",
            ),
        )
    allowed = TRAINED_ON[kind]
    if section == "data" and not any(fnmatchcase(key, pattern) for pattern in allowed):
        raise BadInput(
            say(
                f"search: with another {key} the trials would be compared on different data.",
                f"search：改变 {key} 会使各次试验在不同数据上比较。",
            ),
            say(
                f"Of the data may vary: {', '.join(allowed)}.",
                f"数据方面可以变化的有：{'、'.join(allowed)}。",
            ),
        )
    is_loss = section == "head" or (section == "model" and leaf in LOSSES)
    if metric == "validation" and is_loss:
        raise BadInput(
            say(
                f"search: {key} is part of the loss, so losses with different ones cannot be compared.",
                f"search：{key} 是损失函数的一部分，取值不同的损失无法比较。",
            ),
            say(
                "Search the other settings, or by a metric of the task (--metric).",
                "请搜索其他设置，或改用任务指标（--metric）。",
            ),
        )


def default_finetune(
    values: Mapping[str, Any], explicit: frozenset[str], options: Mapping[str, Option]
) -> list[Dimension]:
    """Return learning rate, method and rank, dropout, weight decay, batch size.

    Args:
        values: the resolved recipe with what was derived
        explicit: keys that the recipe sets
        options: every setting by its key
    """
    methods = _methods(values, explicit)
    rate = values["train.learning_rate"]
    batch_size = values["train.batch_size"]
    # Adapters want some ten times the rate of full tuning, so the range must hold both
    # optima.
    lowest_rate = rate / 20 if "full" in methods else rate / 8
    space = [Dimension("train.learning_rate", (), lowest_rate, rate * 8, log=True)]
    if len(methods) > 1:
        space.append(Dimension("tune.method", methods))
    if set(methods) & set(LORA):
        for key, usual in (
            ("tune.lora_rank", (4, 8, 16)),
            ("tune.lora_dropout", (0.0, 0.1)),
        ):
            space.append(Dimension(key, _around(values[key], usual), when=WHEN[key]))
    head_dropout = values.get("head.dropout")
    if "head.dropout" in options and head_dropout is not None:
        space.append(Dimension("head.dropout", _around(head_dropout, (0.0, 0.1, 0.2))))
    decay = values["train.weight_decay"]
    space.append(Dimension("train.weight_decay", _around(decay, (0.0, 0.01, 0.1))))
    batch_sizes = _around(batch_size, (max(batch_size // 2, 1), batch_size * 2))
    space.append(Dimension("train.batch_size", batch_sizes))
    return space


def _methods(values: Mapping[str, Any], explicit: frozenset[str]) -> tuple[str, ...]:
    """Return lora and full, or the recipe's method alone.

    A base in fewer bits is not trained itself; a method out of the ordinary was chosen
    on purpose.
    """
    method = values["tune.method"]
    on_purpose = "tune.method" in explicit and method not in ("lora", "full")
    if values["tune.quantise"] != "none" or on_purpose:
        return (method,)
    return ("lora", "full")


def default_train(
    values: Mapping[str, Any], options: Mapping[str, Option]
) -> list[Dimension]:
    """Return learning rates, optimiser, width, depth, dropout, as far as the family has them."""
    rate = values["train.learning_rate"]
    matrix_rate = values["train.matrix_learning_rate"]
    optimizers = dict.fromkeys([values["train.optimizer"], "adamw", "muon"])
    space = [
        Dimension("train.learning_rate", (), rate / 5, rate * 5, log=True),
        Dimension("train.optimizer", tuple(optimizers)),
        Dimension(
            "train.matrix_learning_rate",
            (),
            matrix_rate / 4,
            matrix_rate * 4,
            log=True,
            when=WHEN["train.matrix_learning_rate"],
        ),
    ]
    for key in ("model.hidden_size", "model.width"):
        if key in options:
            width = values[key]
            half = max(width // 64, 1) * 32
            one_and_a_half = -(-width * 3 // 64) * 32
            space.append(Dimension(key, _around(width, (half, one_and_a_half))))
    if "model.num_layers" in options:
        depth = values["model.num_layers"]
        depths = _around(depth, (max(depth - 2, 1), depth + 2))
        space.append(Dimension("model.num_layers", depths))
    if "model.dropout" in options:
        dropouts = _around(values["model.dropout"], (0.0, 0.1))
        space.append(Dimension("model.dropout", dropouts))
    return space


def _around(own: Any, usual: Sequence[Any]) -> tuple[Any, ...]:
    """Return the usual values with the recipe's own among them, in order."""
    return tuple(sorted({own, *usual}))


def with_families(
    space: Space, families_by_key: Mapping[str, Sequence[str]]
) -> list[Dimension]:
    """Return the space with settings that only some families have bound to those.

    Args:
        space: with the dimension "family"
        families_by_key: for each setting of a model, the families that have it
    """
    searched = set[Any]()
    for item in space:
        if item.key == "family":
            searched = set(item.choices)
    bound = list[Dimension]()
    for item in space:
        families = families_by_key.get(item.key)
        if families is not None and not searched <= set(families):
            item = replace(item, when={**item.when, "family": tuple(families)})
        bound.append(item)
    return bound


def checked(space: Space, fixed: Mapping[str, Any]) -> list[Dimension]:
    """Return the space with conditions that depend on the trial alone.

    Values that a condition allows but no trial has are left out, and so are conditions
    that always hold.

    Args:
        space: with conditions as they are written
        fixed: values of the settings that do not vary

    Raises:
        BadInput: a setting that no trial would have
    """
    choices = {item.key: item.choices or (fixed.get(item.key),) for item in space}
    dimensions = list[Dimension]()
    for item in space:
        when = dict[str, tuple[Any, ...]]()
        for key, allowed in item.when.items():
            possible = choices.get(key, (fixed.get(key),))
            values = tuple(value for value in allowed if value in possible)
            if not values:
                raise _never(item.key, key, allowed)
            if set(values) != set(possible):
                when[key] = values
        dimensions.append(replace(item, when=when))
    return dimensions


def _never(key: str, condition: str, allowed: Sequence[Any]) -> BadInput:
    values = " or ".join(map(str, allowed))
    return BadInput(
        say(
            f"search: {key} means something only where {condition} is {values}, and it never is.",
            f"search：{key} 只在 {condition} 为 {values} 时有意义，而这不会发生。",
        ),
        say(
            f"Leave it out, or let {condition} vary as well.",
            f"请去掉它，或让 {condition} 也参与搜索。",
        ),
    )


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a recipe in place, as YAML can hold it."""
    config.set_key(tree, key, config.plain(value))
