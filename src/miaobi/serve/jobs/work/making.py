"""What every job does that makes a model: its run's figures become events, its
checkpoints what the next process goes on from, and its model, figures and file of
results are there once, however often it is killed on the way.
"""

from __future__ import annotations

import csv
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from miaobi.core import bundle, config
from miaobi.core.language import say
from miaobi.core.store import Store
from miaobi.provenance.label import NOTICE
from miaobi.serve.jobs import Lost
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.train.tracking import read_log

LOOK_SECONDS = 1.0
COLUMNS = ("step", "train_loss", "valid_loss", "learning_rate", "seen", "seconds")
NAMES = {"loss": "train_loss", "validation": "valid_loss"}
"""The log's words, as OpenAI's clients know them."""


def made(
    task: Task,
    field: str,
    begin: Callable[[Task, str, Path], None],
    resume: Callable[..., object],
) -> Outcome:
    """The model that the job's field `field` names, unless it is there: from the run
    that an earlier process began, by `resume(run, runs=..., quiet=True)`, or from a new
    one by `begin(task, name, runs)`, where `runs` is the folder for it.
    """
    name = str(task.job.asked[field])
    if not Store().versions(name):  # else only this process's last words were lost
        try:
            with followed(task):
                runs = task.folder / "runs"
                if begun := sorted(runs.glob("*/config.yaml")):
                    resume(begun[-1].parent, runs=runs, quiet=True)
                else:
                    begin(task, name, runs)
            task.tell(
                say(f"The model is in the store as {name}.", f"模型已存为 {name}。")
            )
        except Lost:  # cancelled in the last moment
            if Store().versions(name):
                Store().remove(name)
            raise
    return _conclude(task, field, name)


def costs(plan: Any) -> Outcome:
    """What a dry run said, as the end of an estimate's job."""
    known = plan.estimate
    return Outcome(
        str(known),
        {
            "message": str(known),
            "seconds": known.seconds,
            "memory_bytes": known.memory,
            "disk_bytes": known.disk,
            "settings": config.plain(plan.settings["train"]),
        },
    )


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
        before = task.queue.events(
            task.job.id, ("metrics", "checkpoint", "message"), limit=1_000_000
        )
        self.told = {
            (event.data["step"], event.data["what"])
            for event in before
            if "what" in event.data
        }
        self.last = dict[str, Any]()

    def look(self) -> None:
        for run in sorted((self.task.folder / "runs").glob("*")):
            for row in read_log(run):
                self._row(row)
            for path in sorted(run.glob("checkpoints/step-*")):
                step = int(path.name.removeprefix("step-"))
                if self._new(step, "checkpoint"):
                    self.task.tell(
                        say(f"Checkpoint at step {step}.", f"第 {step} 步的检查点。"),
                        "checkpoint",
                        {
                            "step": step,
                            "what": "checkpoint",
                            "metrics": dict(self.last),
                        },
                    )
                    self.task.progress(step=step)
            for path in sorted(run.glob("samples/step-*.png")):
                self._picture(path)

    def _new(self, step: int, what: str) -> bool:
        fresh = (step, what) not in self.told
        self.told.add((step, what))
        return fresh

    def _row(self, row: Mapping[str, Any]) -> None:
        step = int(row["step"])
        figures = {
            NAMES.get(key, key): value
            for key, value in row.items()
            if isinstance(value, int | float) and key != "step"
        }
        texts = {key: value for key, value in row.items() if isinstance(value, str)}
        what = "valid" if "valid_loss" in figures else "train" if figures else "sample"
        if figures:
            self.last = {**self.last, **figures, "step": step}
        if not (figures or texts) or not self._new(step, what):
            return
        if figures:
            told = ", ".join(
                f"{key} {value:.4g}"
                for key, value in figures.items()
                if key.endswith("loss")
            )
            self.task.tell(
                say(f"Step {step}: {told}", f"第 {step} 步：{told}"),
                "metrics",
                {"step": step, "what": what, **figures},
            )
        else:
            sample = "\n".join(f"{key}: {value}" for key, value in texts.items())[:2000]
            self.task.tell(
                f"{NOTICE}: {sample}", "message", {"step": step, "what": what}
            )

    def _picture(self, path: Path) -> None:
        """A sheet of samples becomes a file, whose id tells of the job and the step
        alone: it is made once.
        """
        step = int(path.stem.removeprefix("step-"))
        if self._new(step, "picture"):
            id = (
                "file-"
                + hashlib.sha256(f"{self.task.job.id} {step}".encode()).hexdigest()[:28]
            )
            self.task.files.put(
                path, id, self.task.job.key_id, path.name, "training-samples"
            )
            self.task.tell(
                f"{NOTICE}: " + say(f"pictures of step {step}", f"第 {step} 步的图片"),
                "message",
                {"step": step, "what": "picture", "file": id},
            )


def _conclude(task: Task, field: str, name: str) -> Outcome:
    """The figures as a file of results, once, whoever comes here first."""
    version = Store().resolve(name)
    events = task.queue.events(task.job.id, ("metrics",), limit=1_000_000)
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        rows.setdefault(event.data["step"], {}).update(event.data)
    path = task.folder / "results.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, COLUMNS, extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))
    id = task.job.asked["result_file_id"]
    task.files.put(path, id, task.job.key_id, "step_metrics.csv", "fine-tune-results")
    metrics = dict(bundle.read(version.path).metrics)
    seen = max(
        (int(row["seen"]) for row in rows.values() if "seen" in row), default=None
    )
    return Outcome(
        say(f"Done: {name} answers now.", f"完成：{name} 现在可以使用。"),
        {field: name, "result_files": [id], "metrics": metrics, "trained_tokens": seen},
    )
