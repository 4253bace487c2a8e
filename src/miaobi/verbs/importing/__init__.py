"""Read another program's configuration of fine-tuning and write a recipe of it.

translation   keys that both programs share, and what became of each
tokens        new tokens of the vocabulary
llamafactory  LLaMA-Factory's YAML and dataset_info.json
swift         ms-swift's YAML
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from miaobi.core.config import plain, read_yaml
from miaobi.core.errors import BadInput, Conflict, MiaobiError
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.verbs.importing import llamafactory, swift
from miaobi.verbs.importing.translation import Translation, note_the_rest, take_epochs

PROGRAMS = {"LLaMA-Factory": llamafactory, "ms-swift": swift}


@dataclass(frozen=True)
class Imported:
    """A recipe that was made of another program's configuration."""

    program: str
    recipe: Path
    notes: Mapping[str, str]
    """By their key: what it was taken as, or why it was not."""

    def __str__(self) -> str:
        width = max(map(len, self.notes), default=0)
        lines = [f"  {key:<{width}}  {note}" for key, note in self.notes.items()]
        written = say(
            f"{self.recipe}: written from {self.program}.",
            f"{self.recipe}：由 {self.program} 的设置写成。",
        )
        following = say("next", "接下来")
        lines += [written, f"  {following}: miaobi finetune {self.recipe} --dry-run"]
        return "\n".join(lines)


def import_recipe(
    file: Path, *, dataset: str | None = None, out: Path | None = None
) -> Imported:
    """Write a recipe of LLaMA-Factory's or ms-swift's configuration, and say what was not taken.

    Args:
        file: Their YAML, or LLaMA-Factory's dataset_info.json.
        dataset: With dataset_info.json: the data set.
        out: The recipe; by default NAME.recipe.yaml here, where NAME is the file's.
    """
    if file.suffix == ".json":
        program, translation = _of_datasets(file, dataset)
    else:
        program, translation = _of_settings(file)
    take_epochs(translation, _count(translation.recipe))
    note_the_rest(translation)
    target = out or Path(f"{file.stem}.recipe.yaml")
    if target.exists():
        raise Conflict(
            say(f"{target} is there already.", f"{target} 已存在。"),
            say("Name another file with --out.", "请用 --out 指定其他文件。"),
        )
    header = f"# {program}: {file}\n"
    text = yaml.safe_dump(
        plain(translation.recipe), allow_unicode=True, sort_keys=False
    )
    write_text(target, header + text)
    return Imported(program, target, translation.notes)


def _of_settings(file: Path) -> tuple[str, Translation]:
    settings = read_yaml(file)
    for name, module in PROGRAMS.items():
        if module.is_own(settings):
            translation = Translation(settings)
            module.take(translation, file.parent)
            return name, translation
    raise BadInput(
        say(
            f"{file} is neither LLaMA-Factory's nor ms-swift's: it names no model.",
            f"{file} 既不是 LLaMA-Factory 也不是 ms-swift 的设置：没有指定模型。",
        ),
        say(
            "It has model_name_or_path (LLaMA-Factory) or model (ms-swift).",
            "应有 model_name_or_path（LLaMA-Factory）或 model（ms-swift）。",
        ),
    )


def _of_datasets(file: Path, dataset: str | None) -> tuple[str, Translation]:
    names = llamafactory.datasets(file)
    if dataset is None:
        raise BadInput(
            say(f"Which data set of {file}?", f"{file} 中的哪个数据集？"),
            f"--dataset {next(iter(names), 'NAME')}",
        )
    settings: dict[str, Any] = {"dataset": dataset, "dataset_dir": str(file.parent)}
    translation = Translation(settings)
    llamafactory.take(translation, file.parent)
    return "LLaMA-Factory", translation


def _count(recipe: Mapping[str, Any]) -> int | None:
    """Return how many records the recipe's data has; None where it cannot be read."""
    from miaobi.data.labelled.texts import texts

    data = recipe.get("data", {})
    paths = [data.get("path"), *(item["path"] for item in data.get("mix", {}).values())]
    try:
        count = sum(1 for path in paths if path for _ in texts(path, ""))
    except MiaobiError:
        return None
    limit = data.get("max_examples") or count
    return min(count, limit)
