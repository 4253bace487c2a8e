"""The fields of a training job: a recipe that comes in a package, data of the caller's
own, and those settings that a job may change.

The recipe's name alone decides what is trained. No field is a path, and a setting that
is not in SETTINGS does not reach the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator

from miaobi.core import config
from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.core.recipes import RecipeFolder
from miaobi.core.recipes import recipes as packaged
from miaobi.serve.errors import ApiError
from miaobi.serve.files import plain_name
from miaobi.serve.jobs import tuning
from miaobi.serve.jobs.tuning import (
    ID_LETTERS,
    Fields,
    Seed,
    Suffix,
    check_settings,
    count,
    number,
)
from miaobi.serve.pages import Metadata

NAME_LETTERS = 20
"""Of the recipe's name, in the model's."""

SETTINGS: dict[str, TypeAdapter[Any]] = {
    **{key: kind for key, kind in tuning.SETTINGS.items() if key.startswith("train.")},
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
"""Keys of a recipe that a job may set, with their types. No family has all of them."""


@dataclass(frozen=True)
class Recipe:
    id: str
    path: Path
    family: str
    folder: RecipeFolder
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
    miaobi: Annotated[dict[str, Any], Field(max_length=len(SETTINGS))] | None = None

    @field_validator("miaobi")
    @classmethod
    def _settings(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return check_settings(value, SETTINGS)


@cache
def recipes() -> dict[str, Recipe]:
    """Return the recipes of all packages that train from nothing, by name."""
    by_name = dict[str, Recipe]()
    for folder_name in (*packaged.built_in(), *packaged.added()):
        folder = packaged.get(folder_name)
        for path in folder.files():
            values = config.read_yaml(path)
            if "family" not in values:
                continue
            name = values.get("name") or path.stem
            if name in by_name:  # no other package replaces a built-in one
                continue
            by_name[name] = Recipe(
                id=name,
                path=path,
                family=values["family"],
                folder=folder,
                pack=values.get("data", {}).get("pack") or "",
                about=_about(path),
            )
    return by_name


def _about(path: Path) -> str:
    """Return the first paragraph of the comment at the recipe's head."""
    paragraph = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        paragraph.append(text)
    return " ".join(paragraph)


def find_recipe(name: str) -> Recipe:
    """Return a recipe. Raise ApiError 404 with the nearest names."""
    if name not in recipes():
        raise ApiError(
            404,
            say(f"There is no recipe {name!r}. ", f"没有配方 {name!r}。")
            + nearest(name, recipes()),
            code="recipe_not_found",
            param="recipe",
        )
    return recipes()[name]


def data_suffix(filename: str, allowed: Sequence[str]) -> str:
    """Return the suffix by which an uploaded file is read. Raise ApiError 400."""
    name = filename.lower()
    suffixes = [suffix for suffix in allowed if name.endswith(suffix)]
    if not suffixes:
        raise ApiError(
            400,
            say(
                f"{plain_name(filename)!r} cannot be trained on; upload a file "
                f"that ends in {', '.join(allowed)}.",
                f"无法用 {plain_name(filename)!r} 训练；请上传以 {'、'.join(allowed)} 结尾的文件。",
            ),
            param="training_file",
        )
    return max(suffixes, key=len)


def trained_name(name: str, suffix: str | None, job_id: str) -> str:
    """Return the name of the model. A job has one name, so that a job that is run again
    after a crash makes no second model.
    """
    parts = (name[:NAME_LETTERS], suffix, job_id[-ID_LETTERS:])
    return "-".join(part for part in parts if part)
