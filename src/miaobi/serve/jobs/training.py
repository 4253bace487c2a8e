"""The fields of a training job: a recipe that comes in a package, data of the caller's
own, and those settings that a job may change.

The recipe's name alone decides what is trained. No field is a path, and a setting that
is not in NAMES does not reach the trainer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.core.recipes import RecipeFolder
from miaobi.core.recipes import recipes as packaged
from miaobi.data.image.config import Config as PictureConfig
from miaobi.data.text.config import Config as TextConfig
from miaobi.families.config import CONFIGS
from miaobi.models.weights import command_of_recipe
from miaobi.nn.sample import PictureSample, TextSample
from miaobi.serve.errors import ApiError
from miaobi.serve.files import plain_name
from miaobi.serve.jobs.tuning import (
    ID_LETTERS,
    TRAIN_NAMES,
    Fields,
    Seed,
    Suffix,
    check_settings,
    describe_settings,
    select,
)
from miaobi.serve.pages import Metadata
from miaobi.train.config import TrainConfig

NAME_LETTERS = 20
"""Of the recipe's name, in the model's."""

NAMES = (
    *TRAIN_NAMES,
    "train.ema",
    "train.matrix_learning_rate",
    "train.momentum",
    "model.num_layers",
    "model.hidden_size",
    "model.width",
    "model.latent_size",
    "model.dropout",
    "model.gamma",
    "model.conditional",
    "data.context_length",
    "data.tokenizer",
    "data.vocab_size",
    "data.image_size",
    "data.validation",
    "data.max_documents",
    "data.max_pictures",
    "sample.max_new_tokens",
    "sample.pictures",
)
"""Keys of a recipe that a job may set. Which of them a family has, the family says."""
TIME = re.compile(r"(?:(\d+) min )?(\d+) s in all")
MEMORY = re.compile(r"(\d+(?:\.\d+)?) GB of memory")
TOKENIZERS = Literal["char", "bpe"]
"""Those that a job may name: any other is a path."""


@cache
def allowed_settings() -> dict[str, Option]:
    """Return the settings that a job may set; types and bounds are the configs' own."""
    settings = [
        *config.options(TrainConfig, "train."),
        *config.options(TextSample, "sample."),
        *config.options(PictureSample, "sample."),
        *config.options(TextConfig, "data."),
        *config.options(PictureConfig, "data."),
    ]
    for family in CONFIGS:
        settings += config.options(family, "model.")
    selected = select(settings, NAMES)
    tokenizer = selected["data.tokenizer"]
    selected["data.tokenizer"] = replace(tokenizer, type=TOKENIZERS)
    return selected


@dataclass(frozen=True)
class Recipe:
    id: str
    path: Path
    family: str
    folder: RecipeFolder
    pack: str
    """The data it is written for; empty where the caller has to bring some."""
    about: str
    seconds: float | None
    """What it took where it was measured; None where its head does not say."""
    memory_bytes: float | None
    steps: int
    command: str
    """What does the same on the command line."""


class Create(Fields):
    """A training job: a model from nothing."""

    recipe: Annotated[str, Field(max_length=64)]
    training_file: str | None = None
    suffix: Suffix = None
    seed: Seed | None = None
    metadata: Metadata | None = None
    miaobi: Annotated[dict[str, Any] | None, describe_settings(allowed_settings)] = None

    @field_validator("miaobi")
    @classmethod
    def _settings(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        check_settings(value or {}, allowed_settings())
        return value


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
                **_measured(path),
                steps=values.get("train", {}).get("max_steps", TrainConfig.max_steps),
                command=command_of_recipe(name),
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


def _measured(path: Path) -> dict[str, float | None]:
    """Return the costs that the recipe's head tells: "5 min 49 s in all, 1.05 GB of
    memory".
    """
    head = path.read_text(encoding="utf-8").partition("\nname:")[0]
    text = " ".join(line.removeprefix("#").strip() for line in head.splitlines())
    time = TIME.search(text)
    memory = MEMORY.search(text)
    return {
        "seconds": 60.0 * int(time[1] or 0) + int(time[2]) if time else None,
        "memory_bytes": float(memory[1]) * 1e9 if memory else None,
    }


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
