"""Fine-tuning by `miaobi finetune`, in this process: the job's fields become its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaobi.core import bundle, config
from miaobi.core.language import say
from miaobi.core.store import Store
from miaobi.data.splitting import check_shares
from miaobi.models.tuned import FAMILY
from miaobi.serve import lines
from miaobi.serve.jobs.work.making import costs, made
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.tune.defaults import whole_batch
from miaobi.verbs import finetune


def run(task: Task) -> Outcome:
    return made(task, "fine_tuned_model", _tune, finetune.resume)


def estimate(task: Task) -> Outcome:
    """What a job would cost: the data is read, the model opened, a few rows are timed."""
    return costs(_plan(task, _settings(task)))


def _tune(task: Task, name: str, runs: Path) -> None:
    settings = _settings(task)
    multiplier = task.job.asked["hyperparameters"]["learning_rate_multiplier"]
    if multiplier != "auto" and "train.learning_rate" not in settings:
        plan: Any = _plan(task, settings)
        settings["train.learning_rate"] = (
            plan.settings["train"]["learning_rate"] * multiplier
        )
    task.tell(
        say("Reading the data and opening the model.", "正在读取数据并打开模型。")
    )
    data, model = _data(task, "training_file"), task.job.asked["model"]
    if _was_tuned(model):
        finetune.again(
            model,
            argv=["--data", str(data), "--name", name, *config.as_argv(settings)],
            runs=runs,
            quiet=True,
        )
    else:
        finetune.finetune(
            base=model, data=data, name=name, settings=settings, runs=runs, quiet=True
        )


def _plan(task: Task, settings: Mapping[str, Any]) -> Any:
    argv = ["--data", str(_data(task, "training_file")), *config.as_argv(settings)]
    model, runs = task.job.asked["model"], task.folder / "runs"
    if _was_tuned(model):
        return finetune.again(model, argv=argv, runs=runs, dry_run=True, quiet=True)
    return finetune.command("--base", model, *argv, "--runs", str(runs), "--dry-run")


def _was_tuned(model: str) -> bool:
    """Whether it goes on from a tuned model, under that one's recipe, with some of its old data."""
    store = Store()
    return (
        bool(store.versions(model.partition("@")[0]))
        and bundle.read(store.resolve(model).path).family == FAMILY
    )


def _data(task: Task, which: str) -> Path:
    """The uploaded examples under a name that says what they are; preferences in
    OpenAI's shape put into ours.
    """
    target = task.folder / f"{which}.jsonl"
    if not target.exists():
        draft = target.with_suffix(".part")
        with draft.open("w", encoding="utf-8") as file:
            for _, record in lines.objects(task.files.path(task.job.asked[which])):
                file.write(json.dumps(_ours(record), ensure_ascii=False) + "\n")
        draft.rename(target)
    return target


def _ours(record: Mapping[str, Any]) -> Mapping[str, Any]:
    if not {
        "input",
        "preferred_output",
        "non_preferred_output",
    } <= record.keys() or not isinstance(record["input"], dict):
        return record
    return {
        "prompt": record["input"].get("messages"),
        "chosen": record["preferred_output"],
        "rejected": record["non_preferred_output"],
    }


def _settings(task: Task) -> dict[str, Any]:
    """The job's fields as settings of `miaobi finetune`; what the caller set under
    `miaobi` comes last.
    """
    asked, given = task.job.asked, task.job.asked["miaobi"] or {}
    found: dict[str, Any] = {"train.trackers": [], "train.seed": asked["seed"]}
    if asked["kind"] == "dpo":
        found |= {"task": "preference", "head.loss": "dpo"}
    if asked["validation_file"] is not None:
        found["data.validation_path"] = str(_data(task, "validation_file"))
    chosen = asked["hyperparameters"]
    if chosen.get("beta", "auto") != "auto":
        found["head.beta"] = chosen["beta"]
    if chosen["batch_size"] != "auto":
        found |= {"train.batch_size": chosen["batch_size"], "train.accumulation": 1}
    if chosen["n_epochs"] != "auto":
        found["train.max_steps"] = _steps(task, chosen, given)
    return {**found, **given}


def _steps(task: Task, chosen: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """Steps of so many times through the examples that are trained on."""
    validation, test = given.get("data.validation", 0.1), given.get("data.test", 0.1)
    check_shares(validation, test)
    held = test + (0.0 if task.job.asked["validation_file"] is not None else validation)
    count = max(
        int(sum(1 for _ in lines.objects(_data(task, "training_file"))) * (1 - held)), 1
    )
    whole = (
        chosen["batch_size"]
        if chosen["batch_size"] != "auto"
        else whole_batch(count)[0]
    )
    return int(-(-count * chosen["n_epochs"] // whole))
