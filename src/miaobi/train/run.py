"""A run in its folder: settings, log, trackers, checkpoints and progress; what all
verbs that train have in common.

runs/poet-20261121-221500/
  config.yaml       the resolved settings; resuming needs nothing else
  log.jsonl         every metric, by step; memory_bytes is the most that the process held
  checkpoints/      the last ones and the best
  tensorboard/
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from miaobi.core import config, machine, storage
from miaobi.core.errors import NotFound, nearest
from miaobi.core.files import explain_refusal, write_text
from miaobi.core.language import say
from miaobi.core.storage import Location, Url
from miaobi.data.dataset import Dataset
from miaobi.train import checkpoint, elsewhere, loop, processes, resuming
from miaobi.train.config import TrainConfig
from miaobi.train.estimate import Estimate
from miaobi.train.loop import State
from miaobi.train.schedules import multiplier
from miaobi.train.threads import Threads
from miaobi.train.tracking import Log, Tracker, open_trackers
from miaobi.train.view import View


@dataclass(frozen=True)
class Run:
    """One training run and its folder."""

    folder: Path
    config: TrainConfig
    values: Mapping[str, Any]
    """The resolved settings, nested and plain."""
    verb: str
    """"train" or "finetune": the verb that resumes a stopped run."""
    sample: Callable[[State, Sequence[Tracker]], None]
    """Try the model; called along the way by the first process, in evaluation mode with
    averaged weights.
    """
    watch: Callable[[State], float] | None = None
    """What early stopping goes by, lower is better; None for the validation loss."""
    report: Callable[[int, float], None] | None = None
    """Called with (step, what early stopping goes by) after every validation; what it
    raises ends the run.
    """

    def train(
        self, state: State, dataset: Dataset, estimate: Estimate, quiet: bool
    ) -> float:
        """Train to the end, or until Ctrl-C, which leaves a checkpoint.

        The number of threads stays as the run had it at last; see `threads.restored`.

        Args:
            state: new, or restored from a checkpoint.
            dataset: what it is trained on.
            estimate: shown before the first step.
            quiet: show nothing.

        Returns the seconds it took.
        """
        first = processes.rank() == 0
        trackers = self._open_trackers(state) if first else []
        validates = loop.has_validation(dataset)
        view = View(state, quiet, validates)
        where = elsewhere.origin(self.folder)
        view.say(f"{where}\n{estimate}")
        if not validates:
            view.say(describe_no_validation())
        if state.step:
            view.say(
                say(f"Resuming from step {state.step}.", f"从第 {state.step} 步继续。")
            )
        adapt_threads = Threads(
            state, dataset, estimate.threads, estimate.most_threads, view.say
        )
        hooks: list[loop.Hook] = [
            (1, adapt_threads),
            *self._hooks(dataset, trackers, view),
        ]
        began = time.monotonic()
        try:
            loop.run(state, dataset, hooks)
        except KeyboardInterrupt as stop:
            if isinstance(stop, loop.Interrupted):
                checkpoint.save(state, self.folder / "checkpoints", self.config.keep)
                self._push()
            view.say(
                say(
                    f"Stopped at step {state.step}. Resume with: miaobi {self.verb} --resume {where}",
                    f"已在第 {state.step} 步停止。继续：miaobi {self.verb} --resume {where}",
                )
            )
            raise
        finally:
            view.close()
            for tracker in trackers:
                tracker.close()
        return time.monotonic() - began

    def _open_trackers(self, state: State) -> list[Tracker]:
        """Write config.yaml, and what of it changed; open the log and the trackers."""
        path = self.folder / "config.yaml"
        if path.exists():
            before = dict(config.flatten(config.read_yaml(path), {}))
            after = dict(config.flatten(self.values, {}))
            resuming.note_changes(self.folder, state.step, before, after)
        write_text(
            path,
            yaml.safe_dump(dict(self.values), allow_unicode=True, sort_keys=False),
        )
        trackers = [
            Log(self.folder, state.step),
            *open_trackers(self.config.trackers, self.folder, self.values),
        ]
        self._push()
        return trackers

    def _push(self) -> None:
        """Copy the run to where it lies, if that is elsewhere."""
        if processes.rank() == 0:
            elsewhere.push(self.folder)

    def _hooks(
        self, dataset: Dataset, trackers: Sequence[Tracker], view: View
    ) -> list[loop.Hook]:
        """What happens between steps, each with its interval."""
        config = self.config

        def log(state: State) -> None:
            loop.check_finite(state)
            rate = config.learning_rate * multiplier(config, state.step - 1)
            metrics = {
                **state.train,
                "seen": state.seen,
                "seconds": round(state.seconds, 3),
                "memory_bytes": machine.peak_memory(),
                "learning_rate": rate,
            }
            for tracker in trackers:
                tracker.log_metrics(state.step, metrics)

        def validate(state: State) -> None:
            self._validate(state, dataset, trackers)

        def save(state: State) -> None:
            checkpoint.save(state, self.folder / "checkpoints", config.keep)
            self._push()

        def sample(state: State) -> None:
            with loop.averaged(state):
                self.sample(state, trackers)

        hooks = [
            (config.log_every, log),
            (config.every("validate_every", 10), validate),
        ]
        if processes.rank() == 0:
            hooks.append((config.every("sample_every", 4), sample))
        hooks.append((config.every("checkpoint_every", 10), save))
        return [*hooks, (1, view)]

    def _validate(
        self, state: State, dataset: Dataset, trackers: Sequence[Tracker]
    ) -> None:
        """Validate, write the best weights so far, and end the run when patience runs out."""
        config = self.config
        last = state.step == config.max_steps
        batches = 0 if last else config.batches_along_the_way
        state.validation = loop.validate(state, dataset, batches)
        if state.validation is None:
            return
        watched = self.watch(state) if self.watch else state.validation
        # One value, so that all processes save the best, and stop, together.
        watched = processes.broadcast_json(watched)
        state.stale += 1
        if watched < state.best:
            state.best = watched
            state.best_step = state.step
            state.stale = 0
            if config.patience:
                checkpoint.write(state, self.folder / "checkpoints" / "best")
                self._push()
        state.finished = bool(config.patience) and state.stale >= config.patience
        metrics = {"validation": state.validation, "seconds": round(state.seconds, 3)}
        if self.watch:
            metrics["watched"] = watched
        for tracker in trackers:
            tracker.log_metrics(state.step, metrics)
        if self.report:
            self.report(state.step, watched)

    def conclude(self, state: State, dataset: Dataset) -> None:
        """Restore the best weights, where early stopping wrote them, and compute the
        validation loss over the whole set. Without validation the last weights stay.
        """
        if not loop.has_validation(dataset):
            state.validation = None
            return
        best = self.folder / "checkpoints" / "best"
        if best.exists() and state.best_step < state.step:
            checkpoint.restore(state, best)
        if state.step < self.config.max_steps:
            # Ended early: no validation has seen the whole set.
            state.validation = loop.validate(state, dataset)


def describe_no_validation() -> str:
    """Return what a run without validation examples does, for people."""
    return say(
        "No validation: no example is held out for it. "
        "The run goes to its end and keeps the last weights; "
        "whether it learns more than its examples is not measured.",
        "无验证：没有留出验证样本。训练会跑完全程并保留最后的权重；是否只是记住了样本则无从衡量。",
    )


def new_folder(runs: Location, name: str) -> Path:
    """Make a folder for a new run, named by the present second; no other run can take it.
    For runs at a URL it is the folder in which the run works here.

    Returns the same path in all processes. Raises BadInput where one may not write,
    DoesNotFit on a full disk.
    """
    second = int(time.time())
    if processes.rank() == 0:
        folder = elsewhere.folder_of_runs(runs)
        with explain_refusal(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Another run of this name may have begun in this second.
            while not _make(runs, _name_of(name, second)):
                second += 1
    second = processes.broadcast_int(second)
    return elsewhere.folder_of_runs(runs) / _name_of(name, second)


def _name_of(name: str, second: int) -> str:
    return f"{name}-{datetime.fromtimestamp(second):%Y%m%d-%H%M%S}"


def _make(runs: Location, name: str) -> bool:
    """Make the folder of a run; return False where it is there already."""
    folder = runs / name
    if isinstance(folder, Url):
        return elsewhere.claim(folder) is not None
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def restore_newest(state: State, folder: Path) -> None:
    """Bring `state` to the newest checkpoint of a run, if it has one."""
    checkpoints = checkpoint.list_checkpoints(folder / "checkpoints")
    if checkpoints:
        checkpoint.restore(state, checkpoints[-1])
        # More patience than it ended with lets it go on.
        patience = state.config.patience
        state.finished = bool(patience) and state.stale >= patience


def find_run(name: str, runs: Location) -> Path:
    """Return a run's folder by its path or URL, its name, or the start of its name (the
    newest that fits). One at a URL is brought here. Raises NotFound with the nearest
    names.
    """
    run = storage.location(name)
    if storage.exists(run / "config.yaml"):
        return elsewhere.pull(run) if isinstance(run, Url) else Path(name)
    names = elsewhere.names(runs)
    matches = [run_name for run_name in names if run_name.startswith(name)]
    if not matches:
        raise NotFound(
            say(
                f"There is no run {name!r} under {runs}.",
                f"{runs} 下没有名为 {name!r} 的训练记录。",
            ),
            nearest(name, names),
        )
    run = runs / matches[-1]
    return elsewhere.pull(run) if isinstance(run, Url) else run
