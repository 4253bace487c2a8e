"""The command that does what a job does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import join
from typing import Any

Json = Mapping[str, Any]

FILE = "FILE"
"""Stands for a file that was uploaded: its path is on the visitor's machine."""
DEFAULT_DTYPE = "f16"
"""Of `miaobi export`."""


def command(job: Json, recipes: Mapping[str, Json]) -> str:
    """Return the command for a job's object; files that were uploaded stand as FILE.

    Args:
        job: of /v1/training, /v1/fine_tuning, /v1/exports or /v1/batches.
        recipes: of /v1/training/recipes, by id.
    """
    kind = job["object"]
    if kind == "training.job":
        return _training(job, recipes[job["recipe"]])
    if kind == "fine_tuning.job":
        return _tuning(job)
    if kind == "export.job":
        return join(_export(job))
    return f"miaobi batch {FILE}"


def _training(job: Json, recipe: Json) -> str:
    argv = list(_name_and_seed(job))
    if job["training_file"] is not None:
        if recipe["data"]:
            argv += ["--data.pack", ""]
        argv += ["--data.path", FILE]
    argv += _settings(job)
    return f"{recipe['command']} {join(argv)}"


def _tuning(job: Json) -> str:
    argv = ["miaobi", "finetune", "--base", job["model"]]
    argv += ["--data", FILE]
    argv += _name_and_seed(job)
    if job["method"]["type"] == "dpo":
        argv += ["--task", "preference"]
        argv += ["--head.loss", "dpo"]
    if job["validation_file"] is not None:
        argv += ["--data.validation_path", FILE]
    argv += _settings(job)
    return join(argv)


def _name_and_seed(job: Json) -> Iterator[str]:
    yield "--name"
    yield job["miaobi"]["will_be_called"]
    yield "--train.seed"
    yield str(job["seed"])


def _settings(job: Json) -> Iterator[str]:
    """The settings that the request has beside the recipe's."""
    settings = job["miaobi"]["settings"] or {}
    for name, value in settings.items():
        yield f"--{name}"
        text = str(value)
        yield text.lower() if isinstance(value, bool) else text


def _export(job: Json) -> Iterator[str]:
    yield from ("miaobi", "export", job["model"])
    yield from ("--to", job["to"])
    dtype = job["dtype"]
    if dtype not in (None, DEFAULT_DTYPE):
        yield from ("--dtype", dtype)
    if job["merge"]:
        yield "--merge"
