"""What a training job may ask for: one of the recipes that come with miaobi, data of
the caller's own, and settings on a list.

What is trained is told by the recipe's name alone; nothing here is a path, and what is
not on the list does not reach the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator

from miaobi.core import config
from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.serve.errors import ApiError
from miaobi.serve.files import plain_name
from miaobi.serve.jobs.tuning import (
    ID_LETTERS,
    SETTINGS,
    Fields,
    Seed,
    Suffix,
    count,
    number,
    on_the_list,
)
from miaobi.serve.pages import Metadata

SHAPES = {
    "text": (
        ".txt",
        ".jsonl",
        ".json",
        ".csv",
        ".parquet",
        ".txt.gz",
        ".jsonl.gz",
        ".json.gz",
        ".csv.gz",
    ),
    "image": (".zip", ".parquet"),
}
"""Endings of files that can be trained on, by what the model will make."""
NAME_LETTERS = 20
"""Of the recipe's name, in the model's."""

LISTED: dict[str, TypeAdapter[Any]] = {
    **{key: kind for key, kind in SETTINGS.items() if key.startswith("train.")},
    "train.ema": number(ge=0, lt=1),
    "train.matrix_learning_rate": number(gt=0, le=1),
    "train.momentum": number(ge=0, lt=1),
    "model.num_layers": count(ge=1, le=256),
    "model.hidden_size": count(ge=8, le=16384),
    "model.width": count(ge=4, le=1024),
    "model.latent_size": count(ge=1, le=4096),
    "model.dropout": number(ge=0, lt=1),
    "model.gamma": number(gt=0, le=1000),
    "model.conditional": TypeAdapter(Annotated[bool, Field(strict=True)]),
    "data.context_length": count(ge=8, le=1 << 16),
    "data.tokenizer": TypeAdapter(Literal["char", "bpe"]),
    "data.vocab_size": count(ge=256, le=1 << 18),
    "data.image_size": count(ge=8, le=1024),
    "data.validation": number(ge=0, lt=1),
    "data.max_documents": count(ge=0, le=1 << 31),
    "data.max_pictures": count(ge=0, le=1 << 31),
    "sample.max_new_tokens": count(ge=1, le=4096),
    "sample.pictures": count(ge=1, le=256),
}
"""Keys of a recipe that a job may set, with their types. Which of them a family has,
the family says.
"""


@dataclass(frozen=True)
class Recipe:
    id: str
    path: Path
    family: str
    modality: str
    pack: str
    """The data it is written for; empty where the caller has to bring some."""
    about: str


class Create(Fields):
    """A training job: a model from nothing."""

    recipe: Annotated[str, Field(max_length=64)]
    training_file: str | None = None
    suffix: Suffix = None
    seed: Seed | None = None
    metadata: Metadata | None = None
    miaobi: Annotated[dict[str, Any], Field(max_length=len(LISTED))] | None = None

    @field_validator("miaobi")
    @classmethod
    def _settings(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return on_the_list(value, LISTED)


@cache
def recipes() -> dict[str, Recipe]:
    """Those that train from nothing, by name."""
    recipes_by_name = {}
    for path in sorted(config.RECIPES.glob("*/*.yaml")):
        values = config.read_yaml(path)
        if "family" in values:
            recipes_by_name[values["name"]] = Recipe(
                values["name"],
                path,
                values["family"],
                path.parent.name,
                values["data"].get("pack") or "",
                _about(path),
            )
    return recipes_by_name


def _about(path: Path) -> str:
    """The first paragraph of the comment at its head."""
    sentences = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not (text := line.removeprefix("#").strip()) or not line.startswith("#"):
            break
        sentences.append(text)
    return " ".join(sentences)


def find_recipe(name: str) -> Recipe:
    """Raises ApiError 404 with the nearest name."""
    if name not in recipes():
        raise ApiError(
            404,
            say(f"There is no recipe {name!r}. ", f"没有配方 {name!r}。")
            + nearest(name, recipes()),
            code="recipe_not_found",
            param="recipe",
        )
    return recipes()[name]


def shape(filename: str, modality: str) -> str:
    """The ending that tells how to read an uploaded file. Raises ApiError 400."""
    fitting = [end for end in SHAPES[modality] if filename.lower().endswith(end)]
    if not fitting:
        raise ApiError(
            400,
            say(
                f"{plain_name(filename)!r} cannot be trained on; upload a file "
                f"that ends in {', '.join(SHAPES[modality])}.",
                f"无法用 {plain_name(filename)!r} 训练；请上传以 {'、'.join(SHAPES[modality])} 结尾的文件。",
            ),
            param="training_file",
        )
    return max(fitting, key=len)


def trained_name(name: str, suffix: str | None, job_id: str) -> str:
    """What the model will answer to: one name a job, so that a job that is run again
    after a crash makes no second model.
    """
    return "-".join(
        part for part in (name[:NAME_LETTERS], suffix, job_id[-ID_LETTERS:]) if part
    )
