"""LLaMA-Factory's YAML and dataset_info.json
(github.com/hiyouga/LLaMA-Factory, src/llamafactory/hparams and data/README.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import say
from miaobi.verbs.importing.tokens import take_tokens
from miaobi.verbs.importing.translation import (
    Translation,
    located,
    take_common,
    take_name,
)

DATASETS = "dataset_info.json"
ALL = 1000.0
"""A share that no source has so many examples for: all of it."""
TASKS = {"sft": "chat", "pt": "causal", "dpo": "preference", "kto": "preference"}
METHODS = {"lora": "lora", "full": "full", "freeze": "frozen"}
LOSSES = {"sigmoid": "dpo", "orpo": "orpo"}
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
"""Its names of columns that are others here."""


def is_own(settings: Mapping[str, Any]) -> bool:
    return bool({"model_name_or_path", "finetuning_type", "stage"} & settings.keys())


def take(translation: Translation, folder: Path) -> None:
    """Take the settings of a YAML file in `folder`."""
    if translation.get("model_name_or_path"):
        translation.take(
            "model_name_or_path", "base", translation.get("model_name_or_path")
        )
    _take_stage(translation)
    method = translation.get("finetuning_type")
    if method in METHODS:
        translation.take("finetuning_type", "tune.method", METHODS[method])
    elif method is not None:
        translation.refuse(
            "finetuning_type", f"there is no {method} here", f"没有 {method}"
        )
    take_common(translation)
    take_tokens(translation, folder)
    if translation.get("cutoff_len"):
        translation.take("cutoff_len", "data.max_length", translation.get("cutoff_len"))
    if translation.get("max_samples"):
        translation.take(
            "max_samples", "data.max_examples", translation.get("max_samples")
        )
    size = translation.get("val_size")
    if size is not None and 0 <= size < 1:
        translation.take("val_size", "data.validation", float(size))
    elif size is not None:
        translation.refuse("val_size", "a number of examples", "按条数给出")
    if translation.get("template"):
        translation.note(
            "template",
            "not taken: the base's own chat template is used",
            "未采用：使用基础模型自带的对话模板",
        )
    take_name(translation)
    _take_datasets(translation, folder)


def _take_stage(translation: Translation) -> None:
    stage = translation.get("stage")
    if stage in TASKS:
        translation.take("stage", "task", TASKS[stage])
    elif stage is not None:
        translation.refuse("stage", f"there is no {stage} here", f"没有 {stage}")
    if stage == "kto":
        translation.recipe["head"] = {"loss": "kto"}
    loss = translation.get("pref_loss")
    if loss in LOSSES:
        translation.take("pref_loss", "head.loss", LOSSES[loss])
    elif loss is not None:
        translation.refuse("pref_loss", f"there is no {loss} here", f"没有 {loss}")
    if translation.get("pref_beta") is not None:
        translation.take("pref_beta", "head.beta", translation.get("pref_beta"))


def _take_datasets(translation: Translation, folder: Path) -> None:
    names = _names(translation.get("dataset"))
    if not names:
        return
    parent = _folder_of_data(translation, folder)
    entries = datasets(parent / DATASETS)
    first, *others = [_entry(name, entries, parent) for name in names]
    path, columns = _source(translation, names[0], first, parent)
    translation.take("dataset", "data.path", path)
    if columns:
        translation.recipe["data"]["columns"] = columns
    for name, entry in zip(names[1:], others, strict=True):
        path, columns = _source(translation, name, entry, parent)
        source = {
            "path": path,
            "share": ALL,
            "columns": columns,
        }
        translation.recipe["data"].setdefault("mix", {})[name] = source
        translation.notes["dataset"] += say(f", data.mix.{name}", f"、data.mix.{name}")
    held = _names(translation.get("eval_dataset"))
    if len(held) == 1:
        path, _ = _source(
            translation, held[0], _entry(held[0], entries, parent), parent
        )
        translation.take("eval_dataset", "data.validation_path", path)


def _names(value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else list(value or ())
    return [str(name).strip() for name in names if str(name).strip()]


def _folder_of_data(translation: Translation, folder: Path) -> Path:
    """Return dataset_dir: from where one stands, beside the file, or above it."""
    name = str(translation.get("dataset_dir") or "data")
    file = located(f"{name}/{DATASETS}", folder)
    if file is None:
        raise NotFound(
            say(f"There is no {DATASETS} in {name}.", f"{name} 中没有 {DATASETS}。"),
            say("Set dataset_dir in the file.", "请在文件中设置 dataset_dir。"),
        )
    if "dataset_dir" in translation.settings:
        translation.note(
            "dataset_dir", f"taken: {file.parent}", f"已采用：{file.parent}"
        )
    return file.parent


def datasets(path: Path) -> dict[str, Any]:
    """Return the entries of a dataset_info.json. Raises BadInput with the place."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(
            say(f"{path} is not JSON: {error}.", f"{path} 不是 JSON：{error}。"),
            say("Mend that line.", "请修正该行。"),
        ) from None
    if isinstance(entries, dict):
        return entries
    raise BadInput(
        say(f"{path} names no data sets.", f"{path} 中没有数据集。"),
        '{"NAME": {"file_name": "NAME.json"}}',
    )


def _entry(name: str, entries: Mapping[str, Any], parent: Path) -> Mapping[str, Any]:
    entry = entries.get(name)
    if isinstance(entry, Mapping):
        return entry
    raise BadInput(
        say(
            f"{parent / DATASETS} has no data set {name!r}.",
            f"{parent / DATASETS} 中没有数据集 {name!r}。",
        ),
        nearest(name, entries),
    )


def _source(
    translation: Translation, name: str, entry: Mapping[str, Any], parent: Path
) -> tuple[str, dict[str, str]]:
    """Return (path, our columns by their own names) of a data set.

    Raises BadInput for one that is not a file.
    """
    if not entry.get("file_name"):
        raise BadInput(
            say(
                f"{DATASETS}: {name} is not a file but on a hub, which is not read here.",
                f"{DATASETS}：{name} 不是文件而在远程仓库中，此处无法读取。",
            ),
            say("Fetch it, and give its file_name.", "请先下载，并写上 file_name。"),
        )
    columns = dict[str, str]()
    for key, own in (entry.get("columns") or {}).items():
        ours = COLUMNS.get(key, key)
        is_turns = key == "messages" and own in ("conversations", "conversation")
        if own and own != ours and not is_turns:
            columns[ours] = own
    for key, value in entry.items():
        _note_entry(translation, f"{name}.{key}", key, value, columns)
    if entry.get("ranking") and "task" not in translation.recipe:
        translation.recipe["task"] = "preference"
    return str(parent / str(entry["file_name"])), columns


READ = {"file_name", "formatting", "ranking"}
USUAL_TAGS = {"from", "value", "role", "content", "human", "gpt", "user", "assistant"}
USUAL_TAGS |= {"system", "observation", "function_call", "tool", "function"}


def _note_entry(
    translation: Translation,
    label: str,
    key: str,
    value: Any,
    columns: Mapping[str, str],
) -> None:
    if key in READ:
        translation.note(label, "taken", "已采用")
    elif key == "columns":
        names = ", ".join(f"{ours}: {own}" for ours, own in columns.items())
        translation.note(
            label,
            f"taken as data.columns {{{names}}}" if names else "taken: the usual names",
            f"写为 data.columns {{{names}}}" if names else "已采用：通用列名",
        )
    elif key == "tags":
        odd = sorted({str(tag) for tag in value.values()} - USUAL_TAGS)
        if odd:
            named = ", ".join(odd)
            translation.refuse(
                label, f"rename {named} in the records", f"请在记录中改名：{named}"
            )
        else:
            translation.note(
                label, "taken: recognised in the records", "已采用：按记录识别"
            )
    else:
        translation.refuse(label, "there is no such setting here", "此处没有这项设置")
