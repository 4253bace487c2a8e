"""Search over settings: a space, a study in SQLite that several processes share, and
the rule by which it ends.

Tree-structured Parzen estimators propose (Bergstra et al. 2011; multivariate as in
Falkner et al. 2018, arXiv:1807.01774), the median rule stops hopeless trials early
(Golovin et al. 2017), functional ANOVA says what mattered (Hutter et al. 2014). All of
it is Optuna's.
Knows neither recipes nor models: whoever calls it turns chosen values into a run.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.pool import QueuePool

from miaobi.core.errors import BadInput
from miaobi.core.files import locked
from miaobi.core.language import say

Value = str | int | float | bool | None
STARTUP = 10
"""Trials that are drawn at random before the estimator has something to go by; a third
of a short search.
"""
FEWEST = 4
"""Trials that the median needs before it stops one."""
WARMUP = 25
"""Percent of a trial that pass before it may be stopped."""
MARGIN = 0.02
"""A gain smaller than this share of the way from the median of the first trials to the
best is no improvement: chance makes such gains.
"""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Dimension:
    """One setting and the values it may take: `choices`, or all from `low` to `high`."""

    key: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Integers only."""
    step: float | None = None
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """Asked for only where these other settings have one of these values."""

    def __post_init__(self) -> None:
        if not self.choices and not (
            self.low < self.high and (self.low > 0 or not self.log)
        ):
            raise BadInput(
                say(
                    f"search: {self.key} goes from {self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}.",
                    f"search：{self.key} 的范围是 {self.low:g} 到 {self.high:g}{'（对数）' if self.log else ''}。",
                ),
                say(
                    "Give low < high, above 0 where log is true.",
                    "请使 low < high；log 为 true 时两者都应大于 0。",
                ),
            )

    def applies(self, values: Mapping[str, Any]) -> bool:
        return all(values.get(key) in allowed for key, allowed in self.when.items())

    def suggest(self, trial: optuna.Trial) -> Value:
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.key, self.choices)
            return chosen
        if self.whole:
            return trial.suggest_int(
                self.key,
                int(self.low),
                int(self.high),
                log=self.log,
                step=int(self.step or 1),
            )
        return trial.suggest_float(
            self.key, self.low, self.high, log=self.log, step=self.step
        )

    def holds(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            shown = " | ".join(map(str, self.choices))
        else:
            shown = f"{self.low:g} – {self.high:g}" + (
                say(", logarithmic", "，对数") if self.log else ""
            )
        named = [
            f"{key} = {' | '.join(map(str, allowed))}"
            for key, allowed in self.when.items()
        ]
        return shown + (say("  where ", "  当 ") + ", ".join(named) if named else "")


Space = Sequence[Dimension]


def ordered(space: Space) -> list[Dimension]:
    """Each dimension after those its condition asks about. Raises BadInput for a circle."""
    rest, done = list(space), list[Dimension]()
    while rest:
        waiting = {item.key for item in rest}
        ready = [item for item in rest if not waiting & item.when.keys()]
        if not ready:
            raise BadInput(
                say(
                    f"search: {', '.join(sorted(waiting))} wait for each other.",
                    f"search：{'、'.join(sorted(waiting))} 互为条件。",
                ),
                say("Mend their `when`.", "请修正它们的 when。"),
            )
        done += ready
        rest = [item for item in rest if item not in ready]
    return done


@dataclass(frozen=True)
class Rules:
    """How a search goes."""

    trials: int
    direction: Literal["minimize", "maximize"]
    patience: int
    """Ends after so many finished trials without an improvement."""
    prune: bool = True
    seed: int = 0


@dataclass
class Trial:
    """A trial that this process is to carry out."""

    number: int
    values: Mapping[str, Value]
    folder: str
    """Of its run; one that was interrupted is taken up again there."""
    told: optuna.Trial
    reported: set[int] = field(default_factory=set)
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known of it so far, for the report."""

    def report(self, percent: int, value: float) -> None:
        """An intermediate figure. Raises optuna.TrialPruned when most trials were
        better at this point.
        """
        if (
            percent in self.reported
        ):  # a trial that was killed says again what it said before
            return
        self.reported.add(percent)
        self.told.report(value, percent)
        if percent < 100 and self.told.should_prune():
            raise optuna.TrialPruned


class Search:
    """A study in `folder`/study.db. Any number of processes may work on it at once; a
    trial whose process died is taken up again.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        fixed: Mapping[str, Any],
        rules: Rules,
        name: str,
    ) -> None:
        self.folder, self.space, self.fixed, self.rules, self.name = (
            folder,
            ordered(space),
            fixed,
            rules,
            name,
        )
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            self.storage = optuna.storages.RDBStorage(
                "sqlite://",
                engine_kwargs={
                    "creator": partial(_connected, folder / "study.db"),
                    "poolclass": QueuePool,
                },
            )
            pruner = (
                optuna.pruners.MedianPruner(
                    n_startup_trials=FEWEST, n_warmup_steps=WARMUP
                )
                if rules.prune
                else optuna.pruners.NopPruner()
            )
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=name,
                direction=rules.direction,
                pruner=pruner,
                load_if_exists=True,
            )
            if not self.trials:
                self._enqueue_recipe()

    def close(self) -> None:
        self.storage.remove_session()
        self.storage.engine.dispose()

    def _enqueue_recipe(self) -> None:
        """The first trial is the recipe as it stands, as far as the space holds it:
        what the search has to beat.
        """
        own = {
            item.key: self.fixed[item.key]
            for item in self.space
            if item.applies(self.fixed)
            and item.key in self.fixed
            and item.holds(self.fixed[item.key])
        }
        self.study.enqueue_trial(own)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All but those that another one took up again, by number."""
        everything = self.study.get_trials(deepcopy=False)
        continued = {
            trial.user_attrs["continues"]
            for trial in everything
            if "continues" in trial.user_attrs
        }
        return [trial for trial in everything if trial.number not in continued]

    def ask(self) -> Trial | None:
        """The next trial; None when the search has ended."""
        with locked(self.folder):
            self._take_back()
            known = self.study.get_trials(deepcopy=False)
            if self.ended():
                return None
            # Drawn anew for every trial, from the seed and its number: so a search that
            # was stopped goes on as the unbroken one would have.
            self.study.sampler = sampler(self.rules, len(self.trials))
            told = self.study.ask()
            told.set_user_attr("process", [os.getpid(), psutil.Process().create_time()])
            chosen = self._chosen(told)
            before = next(
                (
                    trial
                    for trial in known
                    if trial.number == told.user_attrs.get("continues")
                ),
                None,
            )
            folder = told.user_attrs.get("run") or f"{self.name}-{told.number:03d}"
            told.set_user_attr("run", folder)
        said = before.intermediate_values if before else {}
        for percent, value in said.items():
            told.report(value, percent)
        return Trial(told.number, chosen, folder, told, set(said))

    def _chosen(self, told: optuna.Trial) -> dict[str, Value]:
        """A value for every dimension that applies, each decided after those its
        condition asks about.
        """
        values, chosen = dict(self.fixed), dict[str, Value]()
        for item in self.space:
            if item.applies(values):
                chosen[item.key] = values[item.key] = item.suggest(told)
        return chosen

    def finish(self, trial: Trial, value: float) -> None:
        self._tell(trial, TrialState.COMPLETE, value)

    def prune(self, trial: Trial) -> None:
        self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, why: str) -> None:
        trial.facts["error"] = why
        self._tell(trial, TrialState.FAIL)

    def _tell(
        self, trial: Trial, state: TrialState, value: float | None = None
    ) -> None:
        for key, fact in trial.facts.items():
            trial.told.set_user_attr(key, fact)
        self.study.tell(trial.told, value, state=state)

    def give_back(self, trial: Trial) -> None:
        """For a trial that was interrupted: the next process takes it up."""
        with locked(self.folder):
            self._again(self.study.tell(trial.told, state=TrialState.FAIL))

    def _take_back(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not _alive(trial.user_attrs.get("process")):
                self.study.tell(trial.number, state=TrialState.FAIL)
                self._again(trial)

    def _again(self, trial: FrozenTrial) -> None:
        self.study.enqueue_trial(
            trial.params,
            user_attrs={"continues": trial.number, "run": trial.user_attrs.get("run")},
        )

    def ended(self) -> str:
        """Why the search has ended; empty while it goes on."""
        trials = self.trials
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        if len(begun) >= self.rules.trials and len(begun) == len(trials):
            return say(
                f"all {self.rules.trials} trials were made",
                f"{self.rules.trials} 次试验全部完成",
            )
        without = since_improvement(trials, self.rules.direction)
        if without >= self.rules.patience:
            return say(
                f"the last {without} trials brought no improvement",
                f"最近 {without} 次试验没有改进",
            )
        return ""


def _connected(path: Path) -> sqlite3.Connection:
    """With a journal written ahead: a search commits a dozen times a trial, and a disk
    takes long to be sure each time. A power cut may cost the last of them, never the
    study.
    """
    made = sqlite3.connect(path, timeout=60, check_same_thread=False)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("PRAGMA synchronous=NORMAL")
    return made


def sampler(rules: Rules, drawn: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=rules.seed * 100_003 + drawn,
            multivariate=True,
            group=True,
            n_startup_trials=min(STARTUP, max(FEWEST, rules.trials // 3)),
        )


def _alive(process: Sequence[float] | None) -> bool:
    """Whether the process that began a trial still runs; its time of birth tells it
    from a later one of the same number.
    """
    if process is None:
        return False
    try:
        return abs(psutil.Process(int(process[0])).create_time() - process[1]) < 1
    except psutil.NoSuchProcess:
        return False


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that came to a figure, by the time they ended."""
    return sorted(
        (trial for trial in trials if trial.state == TrialState.COMPLETE),
        key=lambda trial: (trial.datetime_complete, trial.number),
    )


def best(trials: Sequence[FrozenTrial], direction: str) -> FrozenTrial | None:
    sign = 1 if direction == "minimize" else -1
    return min(
        finished(trials),
        key=lambda trial: (sign * trial.value, trial.number),
        default=None,
    )


def since_improvement(trials: Sequence[FrozenTrial], direction: str) -> int:
    """Trials that ended (with a figure, stopped early, or failed) since the best figure
    last improved by more than MARGIN of the way from the median of the first STARTUP to
    the best.
    """
    sign = 1 if direction == "minimize" else -1
    over = sorted(
        (trial for trial in trials if trial.state.is_finished()),
        key=lambda trial: (trial.datetime_complete, trial.number),
    )
    values = [
        sign * trial.value for trial in over if trial.state == TrialState.COMPLETE
    ]
    if not values:
        return 0
    margin = MARGIN * (statistics.median(values[:STARTUP]) - min(values))
    found, count = float("inf"), 0
    for trial in over:
        improved = (
            trial.state == TrialState.COMPLETE and sign * trial.value < found - margin
        )
        found, count = (sign * trial.value, 0) if improved else (found, count + 1)
    return count


def importances(study: optuna.Study, space: Space) -> dict[str, float]:
    """Share of the figure's variance that each setting explains, the greatest first; of
    a conditional one among the trials that have it.

    Functional ANOVA over a random forest where scikit-learn is there, PED-ANOVA
    (Watanabe et al. 2023, arXiv:2304.10255) otherwise. Empty for fewer than FEWEST
    finished trials: there is nothing to tell apart.
    """
    over = finished(study.get_trials(deepcopy=False))
    if len(over) < FEWEST or len({trial.value for trial in over}) < 2:
        return {}
    everywhere = [
        item.key for item in space if all(item.key in trial.params for trial in over)
    ]
    found = _importances(study, everywhere) if everywhere else {}
    for item in space:
        having = [trial for trial in over if item.key in trial.params]
        if (
            item.key not in everywhere
            and len(having) >= FEWEST
            and len({trial.value for trial in having}) > 1
        ):
            found[item.key] = _importances(study, [*everywhere, item.key])[item.key]
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _importances(study: optuna.Study, keys: list[str]) -> dict[str, float]:
    from importlib.util import find_spec

    evaluator: Any = (
        optuna.importance.FanovaImportanceEvaluator(seed=0)
        if find_spec("sklearn")
        else optuna.importance.PedAnovaImportanceEvaluator()
    )
    return {
        key: float(value)
        for key, value in optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=keys
        ).items()
    }


@contextmanager
def open_search(*arguments: Any) -> Iterator[Search]:
    search = Search(*arguments)
    try:
        yield search
    finally:
        search.close()
