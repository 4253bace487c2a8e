"""Fine-tuning by `miaobi finetune`, in this process: the job's request becomes its
settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaobi.core import bundle
from miaobi.core.language import say
from miaobi.core.store import Store
from miaobi.data.splitting import check_shares
from miaobi.models.tuned import FAMILY
from miaobi.serve import lines
from miaobi.serve.jobs.work.making import estimate_outcome, make_model
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.tune.defaults import whole_batch
from miaobi.verbs import finetune
from miaobi.verbs.train import Plan

AUTO = "auto"
"""A hyperparameter that miaobi chooses."""
DPO_FIELDS = {"input", "preferred_output", "non_preferred_output"}
SHARE = 0.1
"""Of the examples for validation, and for the test, unless the request says otherwise."""


def run(task: Task) -> Outcome:
    return make_model(task, "fine_tuned_model", _tune, finetune.resume)


def estimate(task: Task) -> Outcome:
    """What a job would cost: the data is read, the model opened, a few rows are timed."""
    return estimate_outcome(_plan(task, _settings(task)))


def _tune(task: Task, name: str, runs: Path) -> None:
    settings = _settings(task)
    multiplier = task.job.request["hyperparameters"]["learning_rate_multiplier"]
    if multiplier != AUTO and "train.learning_rate" not in settings:
        plan = _plan(task, settings)
        learning_rate = plan.settings["train"]["learning_rate"]
        settings["train.learning_rate"] = learning_rate * multiplier
    task.record_event(
        say("Reading the data and opening the model.", "正在读取数据并打开模型。")
    )
    data = _examples(task, "training_file")
    model = task.job.request["model"]
    if not _is_tuned(model):
        finetune.finetune(
            base=model, data=data, name=name, settings=settings, runs=runs, quiet=True
        )
        return
    finetune.again(
        model,
        settings={"data": data, "name": name, **settings},
        runs=runs,
        quiet=True,
    )


def _plan(task: Task, settings: Mapping[str, Any]) -> Plan:
    data = _examples(task, "training_file")
    model = task.job.request["model"]
    runs = task.folder / "runs"
    if not _is_tuned(model):
        return finetune.plan(base=model, data=data, settings=settings, runs=runs)
    plan = finetune.again(
        model,
        settings={"data": data, **settings},
        runs=runs,
        dry_run=True,
        quiet=True,
    )
    assert isinstance(plan, Plan)
    return plan


def _is_tuned(model: str) -> bool:
    """Whether `model` was tuned here: the job then goes on from it, under its recipe and
    with some of its old data.
    """
    store = Store()
    if not store.versions(model.partition("@")[0]):
        return False
    return bundle.read(store.resolve(model).location).family == FAMILY


def _examples(task: Task, field: str) -> Path:
    """Return a copy of the uploaded file that `field` of the request names, with records
    as `miaobi finetune` reads them.
    """
    target = task.folder / f"{field}.jsonl"
    if not target.exists():
        source = task.files.path(task.job.request[field])
        draft = target.with_suffix(".part")
        last = 0
        with draft.open("w", encoding="utf-8") as file:
            for number, record in lines.objects(source):
                # A record stays on its line, so that errors name it; half a character
                # cannot be written but escaped.
                file.write("\n" * (number - last - 1))
                file.write(json.dumps(_convert(record)) + "\n")
                last = number
        draft.rename(target)
    return target


def _convert(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a preference in OpenAI's fields in ours, any other record as it is."""
    if not record.keys() >= DPO_FIELDS or not isinstance(record["input"], dict):
        return record
    return {
        "prompt": record["input"].get("messages"),
        "chosen": record["preferred_output"],
        "rejected": record["non_preferred_output"],
    }


def _settings(task: Task) -> dict[str, Any]:
    """Return the settings of `miaobi finetune`; those that the request has under
    `miaobi` come last.
    """
    request = task.job.request
    overrides = request["miaobi"] or {}
    hyperparameters = request["hyperparameters"]
    settings: dict[str, Any] = {"train.trackers": [], "train.seed": request["seed"]}
    if request["kind"] == "dpo":
        settings["task"] = "preference"
        settings["head.loss"] = "dpo"
    if request["validation_file"] is not None:
        settings["data.validation_path"] = str(_examples(task, "validation_file"))
    if hyperparameters.get("beta", AUTO) != AUTO:
        settings["head.beta"] = hyperparameters["beta"]
    if hyperparameters["batch_size"] != AUTO:
        settings["train.batch_size"] = hyperparameters["batch_size"]
        settings["train.microbatches"] = 1
    if hyperparameters["n_epochs"] != AUTO:
        settings["train.max_steps"] = _max_steps(task, overrides)
    return {**settings, **overrides}


def _max_steps(task: Task, overrides: Mapping[str, Any]) -> int:
    """Return the steps of n_epochs through the examples that are trained on."""
    validation = overrides.get("data.validation", SHARE)
    test = overrides.get("data.test", SHARE)
    check_shares(validation, test)
    held_out = test
    if task.job.request["validation_file"] is None:
        held_out += validation
    examples = sum(1 for _ in lines.objects(_examples(task, "training_file")))
    count = max(int(examples * (1 - held_out)), 1)
    hyperparameters = task.job.request["hyperparameters"]
    batch_size = hyperparameters["batch_size"]
    if batch_size == AUTO:
        batch_size, _ = whole_batch(count)
    return int(-(-count * hyperparameters["n_epochs"] // batch_size))
