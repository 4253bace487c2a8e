"""Search over settings: a space, a study in SQLite that several processes share, and
the rule by which it ends.

Tree-structured Parzen estimators propose (Bergstra et al. 2011; multivariate as in
Falkner et al. 2018, arXiv:1807.01774), the median rule stops hopeless trials early
(Golovin et al. 2017), functional ANOVA says what mattered (Hutter et al. 2014). All of
it is Optuna's.
Knows neither recipes nor models: the caller turns chosen values into a run.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from miaobi.core.language import in_each, say

Value = str | int | float | bool | None
STARTUP = 10
"""Trials that are drawn at random before the estimator proposes; a third of a short
search.
"""
FEWEST = 4
"""Trials that the median needs before it stops one."""
WARMUP = 25
"""Percent of a trial that pass before it may be stopped."""
MARGIN = 0.02
"""A gain smaller than this share of the distance from the median of the first trials to
the best is no improvement: chance makes such gains.
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
    """Chosen only where these other settings have one of these values."""

    def __post_init__(self) -> None:
        if self.choices or (self.low < self.high and (self.low > 0 or not self.log)):
            return
        scale = say(", logarithmic", "（对数）") if self.log else ""
        raise BadInput(
            in_each(
                lambda: say(
                    f"search: {self.key} goes from {self.low:g} to {self.high:g}{scale}.",
                    f"search：{self.key} 的范围是 {self.low:g} 到 {self.high:g}{scale}。",
                )
            ),
            say(
                "Give low < high, above 0 where log is true.",
                "请使 low < high；log 为 true 时两者都应大于 0。",
            ),
        )

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Return whether its condition holds among these settings."""
        return all(values.get(key) in allowed for key, allowed in self.when.items())

    def suggest(self, trial: optuna.Trial) -> Value:
        """Return a value that Optuna proposes for the trial."""
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
        """Return whether it can take this value."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            text = _alternatives(self.choices)
        else:
            text = f"{self.low:g} – {self.high:g}"
            if self.log:
                text += say(", logarithmic", "，对数")
        if self.when:
            conditions = [
                f"{key} = {_alternatives(allowed)}"
                for key, allowed in self.when.items()
            ]
            text += say("  where ", "  当 ") + ", ".join(conditions)
        return text


def _alternatives(values: Sequence[Value]) -> str:
    return " | ".join(map(str, values))


Space = Sequence[Dimension]


def ordered(space: Space) -> list[Dimension]:
    """Return the dimensions, each after those of its condition. Raises BadInput for a circle."""
    rest = list(space)
    done = list[Dimension]()
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
    """How a search proposes and when it ends."""

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
    """The name of its run; an interrupted trial goes on there."""
    handle: optuna.Trial
    reported: set[int] = field(default_factory=set)
    """Percents of the trial that have an intermediate value."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What its report says beside the values."""

    def report(self, percent: int, value: float) -> None:
        """Record an intermediate value. Raises optuna.TrialPruned when most trials were
        better at this point.
        """
        if percent in self.reported:  # a continued trial repeats itself
            return
        self.reported.add(percent)
        self.handle.report(value, percent)
        if percent < 100 and self.handle.should_prune():
            raise optuna.TrialPruned


class Search:
    """A study in `folder`/study.db, on which any number of processes may work at once.

    A trial whose process died is continued by another process.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        fixed: Mapping[str, Any],
        rules: Rules,
        name: str,
    ) -> None:
        """Open the study, or create it.

        Args:
            folder: where study.db lies; made where it is missing.
            space: what is searched.
            fixed: the recipe's own settings, which conditions may depend on.
            rules: how to propose and when to end.
            name: of the study; trials are called NAME-000, NAME-001, ...
        """
        self.folder = folder
        self.space = ordered(space)
        self.fixed = fixed
        self.rules = rules
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            self.storage = optuna.storages.RDBStorage(
                "sqlite://",
                engine_kwargs={
                    "creator": partial(_connect, folder / "study.db"),
                    "poolclass": QueuePool,
                },
            )
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=name,
                direction=rules.direction,
                pruner=_pruner(rules),
                load_if_exists=True,
            )
            if not self.trials:
                self._enqueue_recipe()

    def close(self) -> None:
        self.storage.remove_session()
        self.storage.engine.dispose()

    def _enqueue_recipe(self) -> None:
        """Make the recipe itself the first trial, as far as the space holds it: the
        search has to beat it.
        """
        values = dict[str, Any]()
        for item in self.space:
            if item.key not in self.fixed or not item.applies(self.fixed):
                continue
            if item.holds(self.fixed[item.key]):
                values[item.key] = self.fixed[item.key]
        self.study.enqueue_trial(values)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number, without those that another one continues."""
        everything = self.study.get_trials(deepcopy=False)
        continued = {trial.user_attrs.get("continues") for trial in everything}
        return [trial for trial in everything if trial.number not in continued]

    def ask(self) -> Trial | None:
        """Return the next trial; None when the search has ended."""
        with locked(self.folder):
            self._requeue_dead()
            earlier = {
                trial.number: trial for trial in self.study.get_trials(deepcopy=False)
            }
            if self.end_reason():
                return None
            # Seeded anew for every trial by its number: a search that was stopped goes
            # on as the unbroken one would have.
            self.study.sampler = sampler(self.rules, len(self.trials))
            handle = self.study.ask()
            process = [os.getpid(), psutil.Process().create_time()]
            handle.set_user_attr("process", process)
            values = self._suggest(handle)
            continued = earlier.get(handle.user_attrs.get("continues", -1))
            default = f"{self.name}-{handle.number:03d}"
            folder = handle.user_attrs.get("run") or default
            handle.set_user_attr("run", folder)
        reports = dict[int, float]()
        if continued is not None:
            reports = continued.intermediate_values
        for percent, value in reports.items():
            handle.report(value, percent)
        return Trial(handle.number, values, folder, handle, set(reports))

    def _suggest(self, handle: optuna.Trial) -> dict[str, Value]:
        """A value for every dimension that applies, each after those of its condition."""
        settings = dict(self.fixed)
        values = dict[str, Value]()
        for item in self.space:
            if item.applies(settings):
                values[item.key] = item.suggest(handle)
                settings[item.key] = values[item.key]
        return values

    def finish(self, trial: Trial, value: float) -> None:
        self._record(trial, TrialState.COMPLETE, value)

    def prune(self, trial: Trial) -> None:
        self._record(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, why: str) -> None:
        trial.facts["error"] = why
        self._record(trial, TrialState.FAIL)

    def _record(
        self, trial: Trial, state: TrialState, value: float | None = None
    ) -> None:
        for key, fact in trial.facts.items():
            trial.handle.set_user_attr(key, fact)
        self.study.tell(trial.handle, value, state=state)

    def give_back(self, trial: Trial) -> None:
        """Let the next process continue a trial that was interrupted."""
        with locked(self.folder):
            self._requeue(self.study.tell(trial.handle, state=TrialState.FAIL))

    def _requeue_dead(self) -> None:
        """Queue the trials whose processes have died."""
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not _alive(trial.user_attrs.get("process")):
                self.study.tell(trial.number, state=TrialState.FAIL)
                self._requeue(trial)

    def _requeue(self, trial: FrozenTrial) -> None:
        self.study.enqueue_trial(
            trial.params,
            user_attrs={"continues": trial.number, "run": trial.user_attrs.get("run")},
        )

    def end_reason(self) -> str:
        """Return why the search has ended; empty while it goes on."""
        trials = self.trials
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        if len(begun) >= self.rules.trials and len(begun) == len(trials):
            return say(
                f"all {self.rules.trials} trials were made",
                f"{self.rules.trials} 次试验全部完成",
            )
        stale = since_improvement(trials, self.rules.direction)
        if stale >= self.rules.patience:
            return say(
                f"the last {stale} trials brought no improvement",
                f"最近 {stale} 次试验没有改进",
            )
        return ""


@contextmanager
def open_search(
    folder: Path, space: Space, fixed: Mapping[str, Any], rules: Rules, name: str
) -> Iterator[Search]:
    """Within: a search (see `Search`), closed afterwards."""
    search = Search(folder, space, fixed, rules, name)
    try:
        yield search
    finally:
        search.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Open the study's database with a write-ahead journal.

    A search commits a dozen times a trial, and a disk takes long to confirm each. A
    power cut may cost the last commits, never the study.
    """
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _pruner(rules: Rules) -> optuna.pruners.BasePruner:
    if not rules.prune:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=FEWEST, n_warmup_steps=WARMUP)


def sampler(rules: Rules, drawn: int) -> optuna.samplers.BaseSampler:
    """Return what proposes the next trial, after `drawn` trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=rules.seed * 100_003 + drawn,
            multivariate=True,
            group=True,
            n_startup_trials=min(STARTUP, max(FEWEST, rules.trials // 3)),
        )


def _alive(process: Sequence[float] | None) -> bool:
    """Whether the process [number, time of creation] that began a trial still runs; the
    time distinguishes it from a later one of the same number.
    """
    if process is None:
        return False
    number, created = process
    try:
        return abs(psutil.Process(int(number)).create_time() - created) < 1
    except psutil.NoSuchProcess:
        return False


def _by_end(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Trials in the order in which they ended."""
    return sorted(trials, key=lambda trial: (trial.datetime_complete, trial.number))


def _value(trial: FrozenTrial, direction: str) -> float:
    """The value of a finished trial, with the sign by which lower is better."""
    assert trial.value is not None, "only finished trials have a value"
    return trial.value if direction == "minimize" else -trial.value


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that have a value, in the order in which they ended."""
    return _by_end(trial for trial in trials if trial.state == TrialState.COMPLETE)


def best(trials: Sequence[FrozenTrial], direction: str) -> FrozenTrial | None:
    """Return the finished trial with the best value, the first of equals."""
    return min(
        finished(trials),
        key=lambda trial: (_value(trial, direction), trial.number),
        default=None,
    )


def since_improvement(trials: Sequence[FrozenTrial], direction: str) -> int:
    """Return how many trials ended since the best value last improved.

    An improvement is more than MARGIN of the distance from the median of the first
    STARTUP values to the best. Trials that were stopped early or failed count.
    """
    values = [_value(trial, direction) for trial in finished(trials)]
    if not values:
        return 0
    margin = MARGIN * (statistics.median(values[:STARTUP]) - min(values))
    leading = float("inf")
    count = 0
    for trial in _by_end(trial for trial in trials if trial.state.is_finished()):
        count += 1
        if trial.state != TrialState.COMPLETE:
            continue
        value = _value(trial, direction)
        if value < leading - margin:
            leading = value
            count = 0
    return count


def importances(study: optuna.Study, space: Space) -> dict[str, float]:
    """Return the share of the values' variance that each setting explains, the greatest
    first; of a conditional setting among the trials that have it.

    Functional ANOVA over a random forest where scikit-learn is there, PED-ANOVA
    (Watanabe et al. 2023, arXiv:2304.10255) otherwise. Empty for fewer than FEWEST
    finished trials, or where all values are equal.
    """
    trials = finished(study.get_trials(deepcopy=False))
    if not _comparable(trials):
        return {}
    everywhere = [
        item.key for item in space if all(item.key in trial.params for trial in trials)
    ]
    shares = _importances(study, everywhere) if everywhere else {}
    for item in space:
        if item.key in everywhere:
            continue
        if _comparable([trial for trial in trials if item.key in trial.params]):
            shares[item.key] = _importances(study, [*everywhere, item.key])[item.key]
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _comparable(trials: Sequence[FrozenTrial]) -> bool:
    """Whether there are enough trials, with different values."""
    return len(trials) >= FEWEST and len({trial.value for trial in trials}) > 1


def _importances(study: optuna.Study, keys: list[str]) -> dict[str, float]:
    from importlib.util import find_spec

    evaluator: optuna.importance.BaseImportanceEvaluator
    if find_spec("sklearn"):
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    else:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(
        study, evaluator=evaluator, params=keys
    )
    return {key: float(share) for key, share in shares.items()}
