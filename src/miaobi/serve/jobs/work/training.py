"""Training from nothing by `miaobi train`, in this process: a recipe that comes with
miaobi, on its data or on an uploaded file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaobi.core import config
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.data.archives import unpack_pictures
from miaobi.serve.jobs.training import recipe
from miaobi.serve.jobs.work.making import costs, made
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.verbs import train

UNPACKED = 4
"""An archive may unpack to so many times what an upload may have."""


def run(task: Task) -> Outcome:
    return made(task, "trained_model", _train, train.resume)


def estimate(task: Task) -> Outcome:
    """What a job would cost: the data is read, the model built, a few steps are timed."""
    return costs(train.plan(_recipe(task), settings=_settings(task), runs=task.folder))


def _train(task: Task, name: str, runs: Path) -> None:
    task.tell(say("Reading the data.", "正在读取数据。"))
    train.train(
        _recipe(task), name=name, settings=_settings(task), runs=runs, quiet=True
    )


def _recipe(task: Task) -> Mapping[str, Any]:
    """Its content: what is refused is told without the path of a file here."""
    return config.read_yaml(recipe(task.job.asked["recipe"]).path)


def _settings(task: Task) -> dict[str, Any]:
    """The job's fields as settings of the recipe; what the caller set under `miaobi` comes last."""
    asked = task.job.asked
    found: dict[str, Any] = {"train.trackers": [], "train.seed": asked["seed"]}
    if asked["training_file"] is not None:
        found |= {"data.pack": "", "data.path": str(_data(task))}
    return {**found, **(asked["miaobi"] or {})}


def _data(task: Task) -> Path:
    """The uploaded file under a name that says what it is, or what it unpacks to.
    Within the job's folder, where its processes work: the model's record tells no path
    of the server.
    """
    source, ending = (
        task.files.path(task.job.asked["training_file"]),
        task.job.asked["ending"],
    )
    if ending == ".zip":
        return unpack_pictures(
            source, Path("pictures"), UNPACKED * task.settings.limits.upload_bytes
        )
    target = Path(f"data{ending}")
    if not target.exists():
        with write_beside(target) as draft:
            shutil.copyfile(source, draft)
    return target
