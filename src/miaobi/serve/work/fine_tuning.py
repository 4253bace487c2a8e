"""Fine-tuning by `miaobi finetune`, in this process: its figures become events, its checkpoints what the next process goes on from."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from miaobi.core import bundle, config
from miaobi.core.language import say
from miaobi.core.store import Store
from miaobi.data.splitting import check_shares
from miaobi.provenance.publish import NOTICE
from miaobi.serve import lines
from miaobi.serve.jobs import Lost
from miaobi.serve.work.task import Outcome, Task
from miaobi.train.tracking import read_log
from miaobi.tune.defaults import whole_batch
from miaobi.tune.opening import FAMILY
from miaobi.verbs import finetune

LOOK_SECONDS = 1.0
COLUMNS = ("step", "train_loss", "valid_loss", "learning_rate", "seen", "seconds")
NAMES = {"loss": "train_loss", "validation": "valid_loss"}
"""The log's words, as OpenAI's clients know them."""


def run(task: Task) -> Outcome:
    name = str(task.job.asked["fine_tuned_model"])
    if not Store().versions(name):  # else only this process's last words were lost
        try:
            with followed(task):
                _tune(task, name)
            task.tell(say(f"The tuned model is in the store as {name}.", f"微调后的模型已存为 {name}。"))
        except Lost:  # cancelled in the last moment
            if Store().versions(name):
                Store().remove(name)
            raise
    return _conclude(task, name)


def estimate(task: Task) -> Outcome:
    """What a job would cost: the data is read, the model opened, a few rows are timed."""
    plan: Any = _plan(task, _settings(task))
    known = plan.estimate
    return Outcome(str(known), {"message": str(known), "seconds": known.seconds, "memory_bytes": known.memory, "disk_bytes": known.disk,
                                "settings": config.plain(plan.settings["train"])})


def _tune(task: Task, name: str) -> None:
    runs = task.folder / "runs"
    begun = sorted(runs.glob("*/config.yaml"))
    if begun:
        finetune.resume(begun[-1].parent, runs=runs, quiet=True)
        return
    settings = _settings(task)
    multiplier = task.job.asked["hyperparameters"]["learning_rate_multiplier"]
    if multiplier != "auto" and "train.learning_rate" not in settings:
        plan: Any = _plan(task, settings)
        settings["train.learning_rate"] = plan.settings["train"]["learning_rate"] * multiplier
    task.tell(say("Reading the data and opening the model.", "正在读取数据并打开模型。"))
    data, model = _data(task, "training_file"), task.job.asked["model"]
    if _was_tuned(model):
        finetune.again(model, words=["--data", str(data), "--name", name, *config.as_words(settings)], runs=runs, quiet=True)
    else:
        finetune.finetune(base=model, data=data, name=name, settings=settings, runs=runs, quiet=True)


def _plan(task: Task, settings: Mapping[str, Any]) -> Any:
    words = ["--data", str(_data(task, "training_file")), *config.as_words(settings)]
    model, runs = task.job.asked["model"], task.folder / "runs"
    if _was_tuned(model):
        return finetune.again(model, words=words, runs=runs, dry_run=True, quiet=True)
    return finetune.command("--base", model, *words, "--runs", str(runs), "--dry-run")


def _was_tuned(model: str) -> bool:
    """Whether it goes on from a tuned model, under that one's recipe, with some of its old data."""
    store = Store()
    return bool(store.versions(model.partition("@")[0])) and bundle.read(store.resolve(model).path).family == FAMILY


def _data(task: Task, which: str) -> Path:
    """The uploaded examples under a name that says what they are; preferences in OpenAI's shape put into ours."""
    target = task.folder / f"{which}.jsonl"
    if not target.exists():
        draft = target.with_suffix(".part")
        with draft.open("w", encoding="utf-8") as file:
            for _, record in lines.objects(task.files.path(task.job.asked[which])):
                file.write(json.dumps(_ours(record), ensure_ascii=False) + "\n")
        draft.rename(target)
    return target


def _ours(record: Mapping[str, Any]) -> Mapping[str, Any]:
    if not {"input", "preferred_output", "non_preferred_output"} <= record.keys() or not isinstance(record["input"], dict):
        return record
    return {"prompt": record["input"].get("messages"), "chosen": record["preferred_output"], "rejected": record["non_preferred_output"]}


def _settings(task: Task) -> dict[str, Any]:
    """The job's fields as settings of `miaobi finetune`; what the caller set under `miaobi` comes last."""
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
    count = max(int(sum(1 for _ in lines.objects(_data(task, "training_file"))) * (1 - held)), 1)
    whole = chosen["batch_size"] if chosen["batch_size"] != "auto" else whole_batch(count)[0]
    return int(-(-count * chosen["n_epochs"] // whole))


@contextmanager
def followed(task: Task) -> Iterator[None]:
    """While the run goes on, tell what its log says."""
    stop = threading.Event()
    follower = Follower(task)

    def follow() -> None:
        try:
            while not stop.wait(LOOK_SECONDS):
                follower.look()
        except Lost:  # the supervisor knows, and stops this process
            return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    follower.look()


class Follower:
    """Tells each line of the run's log once, also after a restart that repeats some steps."""

    def __init__(self, task: Task) -> None:
        self.task = task
        before = task.queue.events(task.job.id, ("metrics", "checkpoint", "message"), limit=1_000_000)
        self.told = {(event.data["step"], event.data["what"]) for event in before if "what" in event.data}
        self.last = dict[str, Any]()

    def look(self) -> None:
        for run in sorted((self.task.folder / "runs").glob("*")):
            for row in read_log(run):
                self._row(row)
            for path in sorted(run.glob("checkpoints/step-*")):
                step = int(path.name.removeprefix("step-"))
                if self._new(step, "checkpoint"):
                    self.task.tell(say(f"Checkpoint at step {step}.", f"第 {step} 步的检查点。"), "checkpoint", {"step": step, "what": "checkpoint", "metrics": dict(self.last)})
                    self.task.progress(step=step)

    def _new(self, step: int, what: str) -> bool:
        fresh = (step, what) not in self.told
        self.told.add((step, what))
        return fresh

    def _row(self, row: Mapping[str, Any]) -> None:
        step = int(row["step"])
        figures = {NAMES.get(key, key): value for key, value in row.items() if isinstance(value, int | float) and key != "step"}
        texts = {key: value for key, value in row.items() if isinstance(value, str)}
        what = "valid" if "valid_loss" in figures else "train" if figures else "sample"
        if figures:
            self.last = {**self.last, **figures, "step": step}
        if not (figures or texts) or not self._new(step, what):
            return
        if figures:
            told = ", ".join(f"{key} {value:.4g}" for key, value in figures.items() if key.endswith("loss"))
            self.task.tell(say(f"Step {step}: {told}", f"第 {step} 步：{told}"), "metrics", {"step": step, "what": what, **figures})
        else:
            sample = "\n".join(f"{key}: {value}" for key, value in texts.items())[:2000]
            self.task.tell(f"{NOTICE}: {sample}", "message", {"step": step, "what": what})


def _conclude(task: Task, name: str) -> Outcome:
    """The figures as a file of results, once, whoever comes here first."""
    version = Store().resolve(name)
    events = task.queue.events(task.job.id, ("metrics",), limit=1_000_000)
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        rows.setdefault(event.data["step"], {}).update(event.data)
    path = task.folder / "results.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))
    id = task.job.asked["result_file_id"]
    task.files.put(path, id, task.job.key_id, "step_metrics.csv", "fine-tune-results")
    metrics = dict(bundle.read(version.path).metrics)
    seen = max((int(row["seen"]) for row in rows.values() if "seen" in row), default=None)
    return Outcome(say(f"Done: {name} answers now.", f"完成：{name} 现在可以使用。"),
                   {"fine_tuned_model": name, "result_files": [id], "metrics": metrics, "trained_tokens": seen})
