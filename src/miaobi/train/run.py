"""A run in its folder: settings, log, trackers, checkpoints and progress; what all
verbs that train have in common.

runs/poet-20261121-221500/
  config.yaml       the resolved settings; resuming needs nothing else
  log.jsonl         every figure, by step
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

from miaobi.core.errors import NotFound, nearest
from miaobi.core.files import explain_refusal, write_text
from miaobi.core.language import say
from miaobi.data.dataset import Dataset
from miaobi.train import checkpoint, loop, processes
from miaobi.train.config import TrainConfig
from miaobi.train.estimate import Estimate
from miaobi.train.loop import State
from miaobi.train.schedules import multiplier
from miaobi.train.tracking import Log, Tracker, open_trackers
from miaobi.train.view import View


@dataclass(frozen=True)
class Run:
    folder: Path
    config: TrainConfig
    values: Mapping[str, Any]
    """The resolved settings, nested and plain."""
    verb: str
    """"train" or "finetune": how a stopped run is taken up again."""
    sample: Callable[[State, Sequence[Tracker]], None]
    """Try the model; called along the way by the first process, with averaged weights at rest."""
    watch: Callable[[State], float] | None = None
    """What early stopping goes by, lower is better; None for the validation loss."""
    report: Callable[[int, float], None] | None = None
    """Told (step, what early stopping goes by) after every validation; what it raises
    ends the run.
    """

    def train(
        self, state: State, dataset: Dataset, known: Estimate, quiet: bool
    ) -> float:
        """Train to the end, or until Ctrl-C, which leaves a checkpoint. The seconds it took."""
        first = processes.rank() == 0
        if first:
            write_text(
                self.folder / "config.yaml",
                yaml.safe_dump(dict(self.values), allow_unicode=True, sort_keys=False),
            )
        view = View(state, quiet)
        view.say(f"{self.folder}\n{known}")
        if state.step:
            view.say(
                say(f"Going on from step {state.step}.", f"从第 {state.step} 步继续。")
            )
        outputs = (
            [
                Log(self.folder, state.step),
                *open_trackers(self.config.trackers, self.folder, self.values),
            ]
            if first
            else []
        )
        began = time.monotonic()
        try:
            loop.run(state, dataset, self._hooks(dataset, outputs, view))
        except KeyboardInterrupt as stop:
            if isinstance(stop, loop.Interrupted) and first:
                checkpoint.save(state, self.folder / "checkpoints", self.config.keep)
            view.say(
                say(
                    f"Stopped at step {state.step}. Go on with: miaobi {self.verb} --resume {self.folder}",
                    f"已在第 {state.step} 步停止。继续：miaobi {self.verb} --resume {self.folder}",
                )
            )
            raise
        finally:
            view.close()
            for output in outputs:
                output.close()
        return time.monotonic() - began

    def _hooks(
        self, dataset: Dataset, outputs: Sequence[Tracker], view: View
    ) -> list[loop.Hook]:
        """What happens between steps, with its interval."""
        config = self.config

        def log(state: State) -> None:
            loop.check_finite(state)
            for output in outputs:
                output.log_metrics(
                    state.step,
                    {
                        **state.train,
                        "seen": state.seen,
                        "seconds": round(state.seconds, 3),
                        "learning_rate": config.learning_rate
                        * multiplier(config, state.step - 1),
                    },
                )

        def judge(state: State) -> None:
            last = state.step == config.max_steps
            state.validation = loop.validate(
                state, dataset, 0 if last else config.glance
            )
            watched = self.watch(state) if self.watch else state.validation
            state.stale += 1
            if watched < state.best:
                state.best, state.best_step, state.stale = watched, state.step, 0
                if processes.rank() == 0 and config.patience:
                    checkpoint.write(state, self.folder / "checkpoints" / "best")
            state.finished = bool(config.patience) and state.stale >= config.patience
            for output in outputs:
                output.log_metrics(
                    state.step,
                    {
                        "validation": state.validation,
                        "seconds": round(state.seconds, 3),
                        **({"watched": watched} if self.watch else {}),
                    },
                )
            if self.report:
                self.report(state.step, watched)

        def keep(state: State) -> None:
            if processes.rank() == 0:
                checkpoint.save(state, self.folder / "checkpoints", config.keep)

        def sample(state: State) -> None:
            with loop.averaged(state):
                self.sample(state, outputs)

        hooks: list[loop.Hook] = [
            (config.log_every, log),
            (config.every("validate_every", 10), judge),
        ]
        if processes.rank() == 0:
            hooks.append((config.every("sample_every", 4), sample))
        return [*hooks, (config.every("checkpoint_every", 10), keep), (1, view)]

    def conclude(self, state: State, dataset: Dataset) -> None:
        """Back to the best weights, where early stopping kept them, and a validation
        loss over the whole set.
        """
        best = self.folder / "checkpoints" / "best"
        if best.exists() and state.best_step < state.step:
            checkpoint.restore(state, best)
        if (
            state.step < self.config.max_steps
        ):  # ended early, so the whole validation set was never seen
            state.validation = loop.validate(state, dataset)


def new_folder(runs: Path, name: str) -> Path:
    """A folder of its own for a run that begins now, made at once so that no other run
    takes it; the same in all processes.

    Raises BadInput where one may not write, DoesNotFit on a full disk.
    """

    def folder(second: int) -> Path:
        return runs / f"{name}-{datetime.fromtimestamp(second):%Y%m%d-%H%M%S}"

    began = int(time.time())
    if processes.rank() == 0:
        with explain_refusal(runs):
            runs.mkdir(parents=True, exist_ok=True)
            while not _made(
                folder(began)
            ):  # another run of this name began in this second
                began += 1
    return folder(processes.broadcast_int(began))


def _made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def restore_newest(state: State, folder: Path) -> None:
    """Bring `state` to the newest checkpoint of a run, if it has one."""
    resumed = checkpoint.list_checkpoints(folder / "checkpoints")
    if resumed:
        checkpoint.restore(state, resumed[-1])


def find_run(name: str, runs: Path) -> Path:
    """A run by its folder, its name, or the start of its name (the newest that fits).
    Raises NotFound with the nearest.
    """
    if (Path(name) / "config.yaml").exists():
        return Path(name)
    known = sorted(
        (path.parent for path in runs.glob("*/config.yaml")),
        key=lambda path: path.stat().st_mtime,
    )
    found = [path for path in known if path.name.startswith(name)]
    if not found:
        raise NotFound(
            say(
                f"There is no run {name!r} under {runs}.",
                f"{runs} 下没有名为 {name!r} 的训练记录。",
            ),
            nearest(name, [path.name for path in known]),
        )
    return found[-1]
