"""Training from nothing by `miaobi train`, in this process: a recipe of miaobi's own,
on its data or on an uploaded file.
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
from miaobi.serve.jobs.training import find_recipe
from miaobi.serve.jobs.work.making import estimate_outcome, make_model
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.verbs import train

UNPACKED = 4
"""An archive may unpack to so many times the bytes of an upload."""


def run(task: Task) -> Outcome:
    return make_model(task, "trained_model", _train, train.resume)


def estimate(task: Task) -> Outcome:
    """What a job would cost: the data is read, the model built, a few steps are timed."""
    plan = train.plan(_recipe(task), settings=_settings(task), runs=task.folder)
    return estimate_outcome(plan)


def _train(task: Task, name: str, runs: Path) -> None:
    task.record_event(say("Reading the data.", "正在读取数据。"))
    train.train(
        _recipe(task), name=name, settings=_settings(task), runs=runs, quiet=True
    )


def _recipe(task: Task) -> Mapping[str, Any]:
    """Return the recipe's content, so that no error names the path of a file here."""
    return config.read_yaml(find_recipe(task.job.request["recipe"]).path)


def _settings(task: Task) -> dict[str, Any]:
    """Return the settings of the recipe; those that the request has under `miaobi` come
    last.
    """
    request = task.job.request
    settings: dict[str, Any] = {"train.trackers": [], "train.seed": request["seed"]}
    if request["training_file"] is not None:
        if find_recipe(request["recipe"]).pack:
            settings["data.pack"] = ""
        settings["data.path"] = str(_data(task))
    return {**settings, **(request["miaobi"] or {})}


def _data(task: Task) -> Path:
    """Return the uploaded file under a name that fits its kind, or the folder that it
    unpacks to. Relative to the job's folder, where its processes work: the record of
    the model holds no path of the server.
    """
    source = task.files.path(task.job.request["training_file"])
    suffix = task.job.request["ending"]
    if suffix == ".zip":
        max_bytes = UNPACKED * task.settings.limits.upload_bytes
        return unpack_pictures(source, Path("pictures"), max_bytes)
    target = Path(f"data{suffix}")
    if not target.exists():
        with write_beside(target) as draft:
            shutil.copyfile(source, draft)
    return target
