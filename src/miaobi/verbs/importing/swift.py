"""ms-swift's YAML (github.com/modelscope/ms-swift, command-line parameters)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.verbs.importing.llamafactory import ALL
from miaobi.verbs.importing.tokens import take_tokens
from miaobi.verbs.importing.translation import (
    Translation,
    located,
    take_common,
    take_name,
)

OWN = {"model", "model_id_or_path", "train_type", "tuner_type", "sft_type", "rlhf_type"}
METHODS = {"lora": "lora", "full": "full", "adalora": "adalora"}
TOO_LONG = {"delete": "drop", "left": "truncate", "right": "truncate", "split": "split"}
COLUMNS = {"query": "instruction", "response": "output"}


def is_own(settings: Mapping[str, Any]) -> bool:
    return bool(OWN & settings.keys())


def take(translation: Translation, folder: Path) -> None:
    """Take the settings of a YAML file in `folder`."""
    for key in ("model", "model_id_or_path"):
        if translation.get(key):
            translation.take(key, "base", translation.get(key))
    for key in ("train_type", "tuner_type", "sft_type"):
        method = translation.get(key)
        if method in METHODS:
            translation.take(key, "tune.method", METHODS[method])
        elif method is not None:
            translation.refuse(key, f"there is no {method} here", f"没有 {method}")
    _take_task(translation)
    take_common(translation)
    take_tokens(translation, folder)
    if translation.get("max_length"):
        translation.take("max_length", "data.max_length", translation.get("max_length"))
    strategy = translation.get("truncation_strategy")
    if strategy in TOO_LONG:
        translation.take("truncation_strategy", "data.too_long", TOO_LONG[strategy])
    if translation.get("split_dataset_ratio") is not None:
        share = float(translation.get("split_dataset_ratio"))
        translation.take("split_dataset_ratio", "data.validation", share)
    take_name(translation)
    if translation.get("system"):
        translation.refuse("system", "put it into the records", "请写入记录的 system")
    _take_datasets(translation, folder)


def _take_task(translation: Translation) -> None:
    kind = translation.get("rlhf_type")
    if kind in ("dpo", "kto", "orpo"):
        translation.take("rlhf_type", "head.loss", kind)
        translation.recipe["task"] = "preference"
    elif kind is not None:
        translation.refuse("rlhf_type", f"there is no {kind} here", f"没有 {kind}")
    if translation.get("beta") is not None and kind is not None:
        translation.take("beta", "head.beta", translation.get("beta"))


def _take_datasets(translation: Translation, folder: Path) -> None:
    names = _names(translation.get("dataset"))
    for number, name in enumerate(names):
        path, count = _source(name, folder)
        if number == 0:
            translation.take("dataset", "data.path", path)
        else:
            mix = translation.recipe["data"].setdefault("mix", {})
            mix[f"source{number}"] = {"path": path, "share": ALL}
            translation.notes["dataset"] += f", data.mix.source{number}"
        if count and number == 0:
            translation.take("dataset (#)", "data.max_examples", count)
        elif count:
            _refuse_count(translation, name)
    if names:
        _take_columns(translation)
    held_out = _names(translation.get("val_dataset"))
    if len(held_out) == 1:
        path, count = _source(held_out[0], folder)
        translation.take("val_dataset", "data.validation_path", path)
        if count:
            _refuse_count(translation, held_out[0])


def _names(value: Any) -> list[str]:
    """Return the names of a list, or of a text with blanks between them."""
    if isinstance(value, str):
        return value.split()
    return [str(name) for name in value or ()]


def _refuse_count(translation: Translation, name: str) -> None:
    translation.refuse(
        name,
        "a count of other data than the first; all of it is used",
        "只有第一个数据集可限定条数；其余全部使用",
    )


def _take_columns(translation: Translation) -> None:
    """Take its columns, which stand as theirs by ours."""
    columns = translation.get("columns")
    if isinstance(columns, str):
        columns = json.loads(columns)
    if columns:
        ours = {COLUMNS.get(theirs, theirs): own for own, theirs in columns.items()}
        translation.take("columns", "data.columns", ours)


def _source(name: str, folder: Path) -> tuple[str, int]:
    """Return (path, number of examples or 0) of a data set written as path#number.

    Raises BadInput for one that is not here.
    """
    path, _, count = name.partition("#")
    file = located(path, folder)
    if file is not None:
        limit = int(count) if count.isdigit() else 0
        return str(file), limit
    raise BadInput(
        say(
            f"dataset: {path} is no file here; data of a hub is not read.",
            f"dataset：此处没有文件 {path}；不读取远程仓库的数据。",
        ),
        say("Fetch it, and give its path.", "请先下载，并写上路径。"),
    )
