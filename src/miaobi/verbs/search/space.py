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
WHEN: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "tune.lora_rank": {"tune.method": LORA},
    "tune.lora_alpha": {"tune.method": LORA},
    "tune.lora_dropout": {"tune.method": LORA},
    "tune.virtual_tokens": {"tune.method": ("prompt", "prefix", "p-tuning")},
    "tune.bottleneck_size": {"tune.method": ("bottleneck",)},
    **{
        f"tune.{name}": {"tune.method": ("frozen",)}
        for name in (
            "freeze_layers",
            "freeze_embeddings",
            "freeze_pattern",
            "gradual_unfreezing",
        )
    },
    "train.matrix_learning_rate": {"train.optimizer": ("muon",)},
    "train.momentum": {"train.optimizer": ("muon", "sgd")},
    "train.decay": {"train.schedule": ("wsd",)},
}
"""Settings that mean something only beside others."""
GIVEN = (
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
"""What belongs to the search itself, not to its space."""
TRAINED_ON = {
    "train": ("data.augment",),
    "finetune": ("data.max_examples", "data.too_long", "data.max_length", "data.mix.*"),
}
"""Settings of data that leave what trials are compared on as it is."""
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
    section: Mapping[str, Any], known: Mapping[str, Option], kind: str, metric: str
) -> list[Dimension]:
    """The space of a recipe's `search` section. known: settings by key. Raises
    BadInput, naming what is wrong.
    """
    return [
        _dimension(key, spelled, known, kind, metric)
        for key, spelled in _entries(section, known)
    ]


def _entries(
    section: Mapping[str, Any], known: Mapping[str, Option], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted keys, whether they were written so or nested."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        if (
            isinstance(value, Mapping)
            and key not in known
            and any(other.startswith(f"{key}.") for other in known)
        ):
            yield from _entries(value, known, f"{key}.")
        else:
            yield key, value


def _dimension(
    key: str, spelled: Any, known: Mapping[str, Option], kind: str, metric: str
) -> Dimension:
    if key not in known:
        raise BadInput(
            say(
                f"search: there is no setting {key!r}.",
                f"search：没有名为 {key!r} 的设置。",
            ),
            nearest(key, known),
        )
    _comparable(key, kind, metric)
    option = known[key]
    fields = dict(spelled) if isinstance(spelled, Mapping) else {"choices": spelled}
    unknown = fields.keys() - {"choices", "low", "high", "log", "step", "when"}
    if unknown or ("choices" in fields) == ("low" in fields and "high" in fields):
        raise BadInput(
            say(
                f"search: {key} is {spelled!r}.", f"search：{key} 的值为 {spelled!r}。"
            ),
            say(
                "Give a list of values, or {low: ..., high: ..., log: true}.",
                "请给出取值列表，或 {low: ..., high: ..., log: true}。",
            ),
        )
    when = {
        name: tuple(allowed if isinstance(allowed, list | tuple) else [allowed])
        for name, allowed in _entries(fields.get("when") or WHEN.get(key, {}), known)
    }
    if "choices" in fields:
        return Dimension(key, _choices(key, fields["choices"], option), when=when)
    low, high = (
        option.convert(_number(key, fields[name]), "search") for name in ("low", "high")
    )
    whole = isinstance(low, int) and not isinstance(low, bool)
    return Dimension(
        key, (), low, high, bool(fields.get("log")), whole, fields.get("step"), when
    )


def _number(key: str, value: Any) -> float:
    """YAML reads 1e-5 as text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadInput(
            say(
                f"search: {key} has the limit {value!r}.",
                f"search：{key} 的边界为 {value!r}。",
            ),
            say("Give a number.", "请给出数字。"),
        ) from None
    return int(number) if number.is_integer() and abs(number) >= 1 else number


def _choices(key: str, values: Any, option: Option) -> tuple[Any, ...]:
    found = tuple(
        option.convert(value, "search")
        for value in (values if isinstance(values, list) else [values])
    )
    if not found or any(
        not isinstance(value, str | int | float | bool | type(None)) for value in found
    ):
        raise BadInput(
            say(
                f"search: {key} cannot be chosen from {values!r}.",
                f"search：{key} 不能从 {values!r} 中选择。",
            ),
            say("Give a list of plain values.", "请给出由简单取值组成的列表。"),
        )
    return found


def _comparable(key: str, kind: str, metric: str) -> None:
    """Raise BadInput for what would make the trials' figures incomparable."""
    section, _, leaf = key.partition(".")
    if key in GIVEN or section in ("sample", "report"):
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
    if section == "data" and not any(
        fnmatchcase(key, pattern) for pattern in TRAINED_ON[kind]
    ):
        raise BadInput(
            say(
                f"search: with another {key} the trials would be compared on different data.",
                f"search：改变 {key} 会使各次试验在不同数据上比较。",
            ),
            say(
                f"Of the data may vary: {', '.join(TRAINED_ON[kind])}.",
                f"数据方面可以变化的有：{'、'.join(TRAINED_ON[kind])}。",
            ),
        )
    if metric == "validation" and (
        section == "head" or (section == "model" and leaf in LOSSES)
    ):
        raise BadInput(
            say(
                f"search: {key} is part of the loss, so losses with different ones cannot be compared.",
                f"search：{key} 是损失函数的一部分，取值不同的损失无法比较。",
            ),
            say(
                "Search the other settings, or by a figure of the task (--metric).",
                "请搜索其他设置，或改用任务指标（--metric）。",
            ),
        )


def default_finetune(
    values: Mapping[str, Any], given: frozenset[str], known: Mapping[str, Option]
) -> list[Dimension]:
    """Learning rate, method and rank, dropout, weight decay, batch size. values: the
    settled recipe with what was derived.
    """
    rate, method, batch = (
        values["train.learning_rate"],
        values["tune.method"],
        values["train.batch_size"],
    )
    # A base in fewer bits does not move; a method out of the ordinary was chosen on
    # purpose.
    fixed = values["tune.quantise"] != "none" or (
        "tune.method" in given and method not in ("lora", "full")
    )
    methods = (method,) if fixed else ("lora", "full")
    # Adapters want some ten times the rate of full tuning, so the range must hold both
    # optima.
    found = [
        Dimension(
            "train.learning_rate",
            (),
            rate / 20 if "full" in methods else rate / 8,
            rate * 8,
            log=True,
        )
    ]
    if len(methods) > 1:
        found.append(Dimension("tune.method", methods))
    if set(methods) & set(LORA):
        found += [
            Dimension(
                "tune.lora_rank",
                _around(values["tune.lora_rank"], (4, 8, 16)),
                when=WHEN["tune.lora_rank"],
            ),
            Dimension(
                "tune.lora_dropout",
                _around(values["tune.lora_dropout"], (0.0, 0.1)),
                when=WHEN["tune.lora_dropout"],
            ),
        ]
    if "head.dropout" in known and values["head.dropout"] is not None:
        found.append(
            Dimension("head.dropout", _around(values["head.dropout"], (0.0, 0.1, 0.2)))
        )
    found.append(
        Dimension(
            "train.weight_decay",
            _around(values["train.weight_decay"], (0.0, 0.01, 0.1)),
        )
    )
    return [
        *found,
        Dimension("train.batch_size", _around(batch, (max(batch // 2, 1), batch * 2))),
    ]


def default_train(
    values: Mapping[str, Any], known: Mapping[str, Option]
) -> list[Dimension]:
    """Learning rate, optimiser, width, depth, dropout, as far as the family has them."""
    rate, matrix = values["train.learning_rate"], values["train.matrix_learning_rate"]
    found = [
        Dimension("train.learning_rate", (), rate / 5, rate * 5, log=True),
        Dimension(
            "train.optimizer",
            tuple(dict.fromkeys([values["train.optimizer"], "adamw", "muon"])),
        ),
        Dimension(
            "train.matrix_learning_rate",
            (),
            matrix / 4,
            matrix * 4,
            log=True,
            when=WHEN["train.matrix_learning_rate"],
        ),
    ]
    for width in ("model.hidden_size", "model.width"):
        if width in known:
            own = values[width]
            found.append(
                Dimension(
                    width,
                    _around(own, (max(own // 64, 1) * 32, -(-own * 3 // 64) * 32)),
                )
            )
    if "model.num_layers" in known:
        own = values["model.num_layers"]
        found.append(
            Dimension(
                "model.num_layers", tuple(sorted({max(own - 2, 1), own, own + 2}))
            )
        )
    if "model.dropout" in known:
        found.append(
            Dimension("model.dropout", _around(values["model.dropout"], (0.0, 0.1)))
        )
    return found


def _around(own: Any, usual: Sequence[Any]) -> tuple[Any, ...]:
    """The usual values with the recipe's own among them."""
    return tuple(sorted({own, *usual}))


def conditions(space: Space, having: Mapping[str, Sequence[str]]) -> list[Dimension]:
    """Where families are searched, a setting that only some have is asked for with
    those. having: families by key.
    """
    families = next(
        (set(item.choices) for item in space if item.key == "family"), set()
    )
    return [
        item
        if item.key not in having or families <= set(having[item.key])
        else replace(item, when={**item.when, "family": tuple(having[item.key])})
        for item in space
    ]


def settled(space: Space, fixed: Mapping[str, Any]) -> list[Dimension]:
    """Conditions on what cannot happen left out, those on what always holds too. Raises
    BadInput for a setting that no trial would have.
    """
    choices = {item.key: item.choices or (fixed.get(item.key),) for item in space}
    found = list[Dimension]()
    for item in space:
        when = {
            key: tuple(
                value
                for value in allowed
                if value in choices.get(key, (fixed.get(key),))
            )
            for key, allowed in item.when.items()
        }
        never = next((key for key, allowed in when.items() if not allowed), None)
        if never is not None:
            raise BadInput(
                say(
                    f"search: {item.key} means something only where {never} is "
                    f"{' or '.join(map(str, item.when[never]))}, and it never "
                    "is.",
                    f"search：{item.key} 只在 {never} 为 "
                    f"{' 或 '.join(map(str, item.when[never]))} 时有意义，"
                    "而这不会发生。",
                ),
                say(
                    f"Leave it out, or let {never} vary as well.",
                    f"请去掉它，或让 {never} 也参与搜索。",
                ),
            )
        found.append(
            replace(
                item,
                when={
                    key: allowed
                    for key, allowed in when.items()
                    if set(allowed) != set(choices.get(key, (fixed.get(key),)))
                },
            )
        )
    return found


def set_in(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a recipe in place."""
    *folders, leaf = key.split(".")
    branch = tree
    for folder in folders:
        branch[folder] = branch = dict(branch.get(folder) or {})
    branch[leaf] = config.plain(value)
