"""What every job that makes a model does, around the training itself.

The run's log becomes events, its sample pictures files, its checkpoints the places from
which the next process goes on. The model and the file of results are there once, however
often the process is killed on the way.
"""

from __future__ import annotations

import csv
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from miaobi.core import bundle, config
from miaobi.core.language import in_each, say
from miaobi.core.store import Store
from miaobi.provenance.label import NOTICE
from miaobi.serve.jobs import Lost
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.train.tracking import read_log

POLL_SECONDS = 1.0
ALL_EVENTS = 1_000_000
SAMPLE_CHARACTERS = 2000
COLUMNS = ("step", "train_loss", "valid_loss", "learning_rate", "seen", "seconds")
METRIC_NAMES = {"loss": "train_loss", "validation": "valid_loss"}
"""The log's names -> those of OpenAI's clients."""

Row = Mapping[str, Any]


def make_model(
    task: Task,
    field: str,
    begin: Callable[[Task, str, Path], None],
    resume: Callable[..., object],
) -> Outcome:
    """Make the model that the job promised, unless an earlier process made it.

    Args:
        task: the job and its folder.
        field: the field of the request that holds the model's name.
        begin: begins a run: `begin(task, name, runs)`, where `runs` is its folder.
        resume: goes on with a run: `resume(run, runs=..., quiet=True)`.
    """
    name = str(task.job.request[field])
    if not Store().versions(name):
        try:
            with follow_run(task):
                _train(task, name, begin, resume)
            task.record_event(
                say(f"The model is in the store as {name}.", f"模型已存为 {name}。")
            )
        except Lost:
            # Cancelled after the model was made.
            if Store().versions(name):
                Store().remove(name)
            raise
    return _conclude(task, field, name)


def _train(
    task: Task,
    name: str,
    begin: Callable[[Task, str, Path], None],
    resume: Callable[..., object],
) -> None:
    runs = task.folder / "runs"
    configs = sorted(runs.glob("*/config.yaml"))
    if configs:
        resume(configs[-1].parent, runs=runs, quiet=True)
    else:
        begin(task, name, runs)


def estimate_outcome(plan: Any) -> Outcome:
    """The end of an estimate's job, from the plan of a dry run."""
    estimate = plan.estimate
    message = in_each(lambda: str(estimate))
    return Outcome(
        message,
        {
            "message": message,
            "seconds": estimate.seconds,
            "memory_bytes": estimate.memory,
            "disk_bytes": estimate.disk,
            "settings": config.plain(plan.settings["train"]),
        },
    )


@contextmanager
def follow_run(task: Task) -> Iterator[None]:
    """Record the events of the task's run while the block makes it, from a thread."""
    stop = threading.Event()
    follower = Follower(task)

    def poll() -> None:
        try:
            while not stop.wait(POLL_SECONDS):
                follower.record_news()
        except Lost:  # the supervisor knows, and stops this process
            return

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    follower.record_news()


class Follower:
    """Records what a run writes, each thing once, also where a restart repeats steps."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.step = 0
        kinds = ("metrics", "checkpoint", "message")
        events = task.queue.events(task.job.id, kinds, limit=ALL_EVENTS)
        self.recorded = {
            (event.data["step"], event.data["what"])
            for event in events
            if "what" in event.data
        }

    def record_news(self) -> None:
        """Record what the run has written since the last call. Raise Lost."""
        for run in sorted((self.task.folder / "runs").glob("*")):
            # Listed before the log is read: what the log says of a step is written before
            # the step's checkpoint and samples.
            checkpoints = sorted(run.glob("checkpoints/step-*"))
            samples = sorted(run.glob("samples/step-*"))
            rows = read_log(run)
            for row in rows:
                self._record_row(row)
            if rows:
                self._record_progress(run, int(rows[-1]["step"]))
            for path in checkpoints:
                self._record_checkpoint(_step_of(path.name), rows)
            for path in samples:
                self._record_samples(path)

    def _record_progress(self, run: Path, step: int) -> None:
        """Store at which step it is, of how many."""
        if step > self.step:
            self.step = step
            settings = config.read_yaml(run / "config.yaml")
            self.task.progress(step=step, steps=settings["train"]["max_steps"])

    def _is_new(self, step: int, what: str) -> bool:
        """Whether it is not recorded yet; from now on it counts as recorded."""
        is_new = (step, what) not in self.recorded
        self.recorded.add((step, what))
        return is_new

    def _record_row(self, row: Row) -> None:
        step = int(row["step"])
        metrics = metrics_of(row)
        texts = {key: value for key, value in row.items() if isinstance(value, str)}
        if metrics:
            what = "valid" if "valid_loss" in metrics else "train"
            if self._is_new(step, what):
                self._record_metrics(step, what, metrics)
        elif texts and self._is_new(step, "sample"):
            sample = "\n".join(f"{key}: {value}" for key, value in texts.items())
            self.task.record_event(
                f"{NOTICE}: {sample[:SAMPLE_CHARACTERS]}",
                "message",
                {"step": step, "what": "sample"},
            )

    def _record_metrics(self, step: int, what: str, metrics: Row) -> None:
        losses = ", ".join(
            f"{name} {value:.4g}"
            for name, value in metrics.items()
            if name.endswith("loss")
        )
        self.task.record_event(
            say(f"Step {step}: {losses}", f"第 {step} 步：{losses}"),
            "metrics",
            {"step": step, "what": what, **metrics},
        )

    def _record_checkpoint(self, step: int, rows: Sequence[Row]) -> None:
        if not self._is_new(step, "checkpoint"):
            return
        self.task.record_event(
            say(f"Checkpoint at step {step}.", f"第 {step} 步的检查点。"),
            "checkpoint",
            {"step": step, "what": "checkpoint", "metrics": metrics_at(step, rows)},
        )

    def _record_samples(self, path: Path) -> None:
        """Store the samples of a step as a file, except texts: these stand in the log.

        The file's id comes from the job and the step, so that a restart makes no second
        one.
        """
        step = _step_of(path.stem)
        if (step, "sample") in self.recorded or not self._is_new(step, "picture"):
            return
        job = self.task.job
        digest = hashlib.sha256(f"{job.id} {step}".encode()).hexdigest()
        file_id = f"file-{digest[:28]}"
        self.task.files.put(path, file_id, job.key_id, path.name, "training-samples")
        self.task.record_event(
            f"{NOTICE}: " + say(f"samples of step {step}", f"第 {step} 步的样本"),
            "message",
            {"step": step, "what": "picture", "file": file_id},
        )


def metrics_of(row: Row) -> dict[str, Any]:
    """Return the numbers of a row of the log, without its step, under OpenAI's names."""
    return {
        METRIC_NAMES.get(key, key): value
        for key, value in row.items()
        if isinstance(value, int | float) and key != "step"
    }


def metrics_at(step: int, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the last value of each metric up to `step`, and the step of the last row."""
    metrics = dict[str, Any]()
    for row in rows:
        if row["step"] <= step and metrics_of(row):
            metrics |= {**metrics_of(row), "step": int(row["step"])}
    return metrics


def _step_of(name: str) -> int:
    """ "step-00000020" -> 20."""
    return int(name.removeprefix("step-"))


def _conclude(task: Task, field: str, name: str) -> Outcome:
    """Write the metrics of all steps as a file of results, and end the job."""
    events = task.queue.events(task.job.id, ("metrics",), limit=ALL_EVENTS)
    rows = dict[int, dict[str, Any]]()
    for event in events:
        rows.setdefault(event.data["step"], {}).update(event.data)
    path = task.folder / "results.csv"
    _write_table(path, [rows[step] for step in sorted(rows)])
    file_id = task.job.request["result_file_id"]
    task.files.put(
        path, file_id, task.job.key_id, "step_metrics.csv", "fine-tune-results"
    )
    version = Store().resolve(name)
    tokens = [int(row["seen"]) for row in rows.values() if "seen" in row]
    return Outcome(
        say(f"Done: {name} answers now.", f"完成：{name} 现在可以使用。"),
        {
            field: name,
            "result_files": [file_id],
            "metrics": dict(bundle.read(version.location).metrics),
            "trained_tokens": max(tokens, default=None),
        },
    )


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, COLUMNS, extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
