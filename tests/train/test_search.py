"""The search on a function with a known optimum: what it draws, what it stops, when it
ends, how it survives.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from miaobi.core.errors import BadInput
from miaobi.train.search import (
    Dimension,
    Rules,
    Search,
    Trial,
    best,
    importances,
    open_search,
    ordered,
    since_improvement,
)

RATE = Dimension("rate", (), 1e-4, 1.0, log=True)
KIND = Dimension("kind", ("plain", "ranked"))
RANK = Dimension("rank", (4, 8, 16), when={"kind": ("ranked",)})
OWN = {"rate": 0.01, "kind": "plain", "rank": 8}
RULES = Rules(trials=12, direction="minimize", patience=100)


@contextmanager
def search(folder: Path, *space: Dimension, rules: Rules = RULES) -> Iterator[Search]:
    with open_search(folder, space or (RATE, KIND, RANK), OWN, rules, "toy") as study:
        yield study


def objective(values: Any) -> float:
    """The value of a trial: lowest at rate 0.1, kind ranked, rank 16."""
    penalties = {None: 0.6, 4: 0.4, 8: 0.2, 16: 0.0}
    distance = math.log10(values["rate"]) + 1
    return distance**2 + penalties[values.get("rank")]


def carry_out(
    study: Search, value: Callable[[Any], float] = objective, most: int = 1000
) -> list[Trial]:
    """Finish trials until the search ends, `most` of them at most."""
    trials = list[Trial]()
    while len(trials) < most:
        trial = study.ask()
        if trial is None:
            break
        study.finish(trial, value(trial.values))
        trials.append(trial)
    return trials


def ask(study: Search) -> Trial:
    """Return the next trial of a search that has not ended."""
    trial = study.ask()
    assert trial is not None
    return trial


def test_the_first_trial_is_the_recipe_and_conditions_hold(tmp_path: Path) -> None:
    with search(tmp_path) as study:
        trials = carry_out(study)
        reason = study.end_reason()
        winner = best(study.trials, "minimize")
    assert trials[0].values == {"rate": 0.01, "kind": "plain"}
    assert len(trials) == 12
    assert {trial.values["kind"] for trial in trials} == {"plain", "ranked"}
    for trial in trials:
        assert ("rank" in trial.values) == (trial.values["kind"] == "ranked")
    assert "12 trials" in reason
    assert winner is not None
    assert winner.value == min(objective(trial.values) for trial in trials)
    assert winner.value < objective(OWN)


def test_it_draws_by_what_it_saw(tmp_path: Path) -> None:
    """After the start, more than half of the proposals are near the optimum, where a
    fifth would be by chance.
    """
    with search(tmp_path, rules=Rules(40, "minimize", 100)) as study:
        rates = [trial.values["rate"] for trial in carry_out(study)[10:]]
    near = [rate for rate in rates if 0.04 < rate < 0.25]
    assert len(near) > len(rates) / 2


def test_the_same_seed_draws_the_same_and_a_stopped_search_goes_on_as_the_unbroken_one(
    tmp_path: Path,
) -> None:
    with search(tmp_path / "whole") as study:
        whole = [trial.values for trial in carry_out(study)]
    with search(tmp_path / "parts") as study:
        parts = [trial.values for trial in carry_out(study, most=5)]
    with search(tmp_path / "parts") as study:
        parts += [trial.values for trial in carry_out(study)]
    assert parts == whole
    with search(tmp_path / "other", rules=Rules(12, "minimize", 100, seed=1)) as study:
        assert [trial.values for trial in carry_out(study)][1:] != whole[1:]


def test_the_median_stops_what_is_worse_and_spares_what_is_better(
    tmp_path: Path,
) -> None:
    with search(tmp_path) as study:
        for value in (1.0, 2.0, 3.0, 4.0):
            trial = ask(study)
            for percent in (20, 40, 60, 80, 100):
                trial.report(percent, value)
            study.finish(trial, value)
        good = ask(study)
        good.report(40, 2.4)  # the median of 1, 2, 3, 4 is 2.5
        bad = ask(study)
        bad.report(20, 9.0)  # too early to tell
        with pytest.raises(optuna.TrialPruned):
            bad.report(40, 2.6)
        late = ask(study)
        late.report(100, 9.0)  # it is over anyway, and its value is of use


def test_without_pruning_nothing_is_stopped(tmp_path: Path) -> None:
    with search(tmp_path, rules=Rules(12, "minimize", 100, prune=False)) as study:
        for value in (1.0, 1.0, 1.0, 1.0, 99.0):
            trial = ask(study)
            trial.report(60, value)
            study.finish(trial, value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], 0),
        ([5.0, 4.0, 3.0], 0),
        ([3.0, 4.0, 5.0], 2),
        ([5.0, 3.0, 4.0, 4.0], 2),
        # 0.02 is less than a fiftieth of the distance from 8 to 4.98.
        ([10.0, 9.0, 8.0, 5.0, 4.99, 4.98, 9.0], 3),
        # Small gains add up: 0.04 is more than a fiftieth of 1.56.
        ([10.0, 9.0, 8.0, 5.0, 4.98, 4.96, 4.94, 8.0], 2),
    ],
)
def test_what_counts_as_an_improvement(
    tmp_path: Path, values: list[float], expected: int
) -> None:
    with search(tmp_path) as study:
        rest = iter(values)
        carry_out(study, lambda _: next(rest), most=len(values))
        assert since_improvement(study.trials, "minimize") == expected
    with search(tmp_path / "mirrored", rules=Rules(12, "maximize", 100)) as study:
        rest = iter(values)
        carry_out(study, lambda _: -next(rest), most=len(values))
        assert since_improvement(study.trials, "maximize") == expected


def test_without_improvement_it_stops(tmp_path: Path) -> None:
    with search(tmp_path, rules=Rules(50, "minimize", patience=4)) as study:
        rest = iter([3.0, 1.0, *[2.0] * 50])
        assert len(carry_out(study, lambda _: next(rest))) == 6
        assert "no improvement" in study.end_reason()


def test_importance_is_what_the_value_depends_on(tmp_path: Path) -> None:
    idle = Dimension("idle", (), 0.0, 1.0)
    with search(
        tmp_path, RATE, idle, KIND, RANK, rules=Rules(30, "minimize", 100)
    ) as study:
        carry_out(study, lambda values: objective({"rate": values["rate"]}))
        shares = importances(study.study, study.space)
    assert next(iter(shares)) == "rate"
    assert shares["rate"] > 0.8 > 0.2 > shares["idle"]
    assert shares.keys() == {"rate", "idle", "kind", "rank"}
    unconditional = shares["rate"] + shares["idle"] + shares["kind"]
    assert unconditional == pytest.approx(1)


def test_too_few_trials_have_no_importances(tmp_path: Path) -> None:
    with search(tmp_path) as study:
        carry_out(study, most=3)
        assert importances(study.study, study.space) == {}


def test_an_interrupted_trial_is_continued(tmp_path: Path) -> None:
    with search(tmp_path) as study:
        carry_out(study, most=2)
        trial = ask(study)
        trial.report(20, 7.0)
        study.give_back(trial)
    with search(tmp_path) as study:
        again = ask(study)
        assert (again.values, again.folder) == (trial.values, trial.folder)
        again.report(20, 7.0)  # a repetition changes nothing
        study.finish(again, 1.0)
        assert study.trials[-1].intermediate_values == {20: 7.0}
        assert len(study.trials) == 3
        assert len(carry_out(study)) == 9


WORKER = """
import os, sys, time
from pathlib import Path
from tests.train.test_search import OWN, RATE, KIND, RANK, RULES, objective
from miaobi.train.search import open_search
with open_search(Path(sys.argv[1]), (RATE, KIND, RANK), OWN, RULES, "toy") as study:
    while (trial := study.ask()) is not None:
        if sys.argv[2] == "dies":
            os._exit(9)
        time.sleep(0.02)
        study.finish(trial, objective(trial.values))
"""


def worker(folder: Path, what: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), what],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def test_the_trial_of_a_dead_process_is_continued(tmp_path: Path) -> None:
    assert worker(tmp_path, "dies").wait(60) == 9
    with search(tmp_path) as study:
        trials = carry_out(study)
    assert trials[0].values == {"rate": 0.01, "kind": "plain"}
    assert trials[0].folder == "toy-000"
    assert len(trials) == 12


def test_processes_share_a_search_without_repeating_each_other(tmp_path: Path) -> None:
    workers = [worker(tmp_path, "works") for _ in range(2)]
    assert [process.wait(100) for process in workers] == [0, 0]
    with search(tmp_path) as study:
        trials = study.trials
    assert len(trials) == 12
    assert len({trial.params["rate"] for trial in trials}) == 12
    assert len({trial.user_attrs["process"][0] for trial in trials}) == 2


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"low": 1.0, "high": 0.1}, "low < high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "above 0"),
        ({}, "low < high"),
    ],
)
def test_impossible_ranges_are_refused(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(BadInput) as caught:
        Dimension("x", **settings)
    assert remedy in str(caught.value)


def test_dimensions_follow_those_of_their_conditions_and_circles_are_refused() -> None:
    keys = [item.key for item in ordered([RANK, KIND, RATE])]
    assert keys == ["kind", "rate", "rank"]
    with pytest.raises(BadInput, match="wait for each other"):
        ordered([RANK, Dimension("kind", ("plain",), when={"rank": (4,)})])
