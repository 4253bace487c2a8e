"""The command that does what a job does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import join
from typing import Any

Json = Mapping[str, Any]


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
    return "miaobi batch FILE"


def _training(job: Json, recipe: Json) -> str:
    argv = ["--name", job["miaobi"]["will_be_called"], "--train.seed", str(job["seed"])]
    if job["training_file"] is not None:
        if recipe["data"]:
            argv += ["--data.pack", ""]
        argv += ["--data.path", "FILE"]
    return f"{recipe['command']} {join([*argv, *_settings(job)])}"


def _tuning(job: Json) -> str:
    argv = ["miaobi", "finetune", "--base", job["model"], "--data", "FILE"]
    argv += ["--name", job["miaobi"]["will_be_called"]]
    if job["method"]["type"] == "dpo":
        argv += ["--task", "preference", "--head.loss", "dpo"]
    if job["validation_file"] is not None:
        argv += ["--data.validation_path", "FILE"]
    return join([*argv, "--train.seed", str(job["seed"]), *_settings(job)])


def _settings(job: Json) -> Iterator[str]:
    for name, value in (job["miaobi"]["settings"] or {}).items():
        yield f"--{name}"
        yield str(value).lower() if isinstance(value, bool) else str(value)


def _export(job: Json) -> Iterator[str]:
    yield from ("miaobi", "export", job["model"], "--to", job["to"])
    if job["dtype"] and not (job["to"] == "gguf" and job["dtype"] == "f16"):
        yield from ("--dtype", job["dtype"])
    if job["merge"]:
        yield "--merge"
