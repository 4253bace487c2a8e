"""ms-swift's YAML (github.com/modelscope/ms-swift, command-line parameters)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.verbs.importing.llamafactory import ALL
from miaobi.verbs.importing.taken import Taken, located, take_common
from miaobi.verbs.importing.tokens import take_tokens

OWN = {"model", "model_id_or_path", "train_type", "tuner_type", "sft_type", "rlhf_type"}
METHODS = {"lora": "lora", "full": "full", "adalora": "adalora"}
TOO_LONG = {"delete": "drop", "left": "truncate", "right": "truncate", "split": "split"}
COLUMNS = {"query": "instruction", "response": "output"}


def is_own(settings: Mapping[str, Any]) -> bool:
    return bool(OWN & settings.keys())


def take(taken: Taken, folder: Path) -> None:
    """Take the settings of a YAML file in `folder`."""
    for key in ("model", "model_id_or_path"):
        if taken.get(key):
            taken.take(key, "base", taken.get(key))
    for key in ("train_type", "tuner_type", "sft_type"):
        method = taken.get(key)
        if method in METHODS:
            taken.take(key, "tune.method", METHODS[method])
        elif method is not None:
            taken.refuse(key, f"there is no {method} here", f"没有 {method}")
    _take_task(taken)
    take_common(taken)
    take_tokens(taken, folder)
    if taken.get("max_length"):
        taken.take("max_length", "data.max_length", taken.get("max_length"))
    strategy = taken.get("truncation_strategy")
    if strategy in TOO_LONG:
        taken.take("truncation_strategy", "data.too_long", TOO_LONG[strategy])
    if taken.get("split_dataset_ratio") is not None:
        share = float(taken.get("split_dataset_ratio"))
        taken.take("split_dataset_ratio", "data.validation", share)
    if taken.get("output_dir"):
        name = Path(str(taken.get("output_dir"))).name
        taken.take("output_dir", "name", name.replace("_", "-").lower())
    if taken.get("system"):
        taken.refuse("system", "put it into the records", "请写入记录的 system")
    _take_datasets(taken, folder)


def _take_task(taken: Taken) -> None:
    kind = taken.get("rlhf_type")
    if kind in ("dpo", "kto", "orpo"):
        taken.take("rlhf_type", "head.loss", kind)
        taken.recipe["task"] = "preference"
    elif kind is not None:
        taken.refuse("rlhf_type", f"there is no {kind} here", f"没有 {kind}")
    if taken.get("beta") is not None and kind is not None:
        taken.take("beta", "head.beta", taken.get("beta"))


def _take_datasets(taken: Taken, folder: Path) -> None:
    value = taken.get("dataset")
    names = value.split() if isinstance(value, str) else list(value or ())
    for number, name in enumerate(names):
        path, count = _source(str(name), folder)
        if number == 0:
            taken.take("dataset", "data.path", path)
            if count:
                taken.take("dataset (#)", "data.max_examples", count)
            continue
        mix = taken.recipe["data"].setdefault("mix", {})
        mix[f"source{number}"] = {"path": path, "share": ALL}
        taken.notes["dataset"] += f", data.mix.source{number}"
    columns = taken.get("columns")
    if columns and names:
        given = json.loads(columns) if isinstance(columns, str) else columns
        ours = {COLUMNS.get(theirs, theirs): own for own, theirs in given.items()}
        taken.take("columns", "data.columns", ours)
    held = taken.get("val_dataset")
    held_names = held.split() if isinstance(held, str) else list(held or ())
    if len(held_names) == 1:
        path, _ = _source(str(held_names[0]), folder)
        taken.take("val_dataset", "data.validation_path", path)


def _source(name: str, folder: Path) -> tuple[str, int]:
    """Return (path, number of examples or 0) of a data set written as path#number.

    Raises BadInput for one that is not here.
    """
    path, _, count = name.partition("#")
    place = located(path, folder)
    if place is not None:
        return str(place), int(count) if count.isdigit() else 0
    raise BadInput(
        say(
            f"dataset: {path} is no file here; data of a hub is not read.",
            f"dataset：此处没有文件 {path}；不读取远程仓库的数据。",
        ),
        say("Fetch it, and give its path.", "请先下载，并写上路径。"),
    )
