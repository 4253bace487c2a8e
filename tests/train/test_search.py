"""The search itself, on figures that can be worked out: what it draws, what it stops,
when it ends, how it survives.
"""

from __future__ import annotations

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
    with open_search(folder, space or (RATE, KIND, RANK), OWN, rules, "toy") as made:
        yield made


def figure(values: Any) -> float:
    """Best at rate 0.1, ranked, 16."""
    import math

    return (math.log10(values["rate"]) + 1) ** 2 + {4: 0.4, 8: 0.2, 16: 0.0}.get(
        values.get("rank"), 0.6
    )


def carried_out(
    study: Search, value: Callable[[Any], float] = figure, most: int = 1000
) -> list[Trial]:
    done = list[Trial]()
    while len(done) < most and (trial := study.ask()) is not None:
        study.finish(trial, value(trial.values))
        done.append(trial)
    return done


def test_the_first_trial_is_the_recipe_and_conditions_hold(tmp_path: Path) -> None:
    with search(tmp_path) as study:
        done = carried_out(study)
        assert done[0].values == {"rate": 0.01, "kind": "plain"}
        assert len(done) == 12
        assert all(
            ("rank" in trial.values) == (trial.values["kind"] == "ranked")
            for trial in done
        )
        assert {trial.values["kind"] for trial in done} == {"plain", "ranked"}
        assert "12 trials" in study.end_reason()
        found = best(study.trials, "minimize")
        assert found is not None and found.value == min(
            figure(trial.values) for trial in done
        ) < figure(OWN)


def test_it_draws_by_what_it_saw(tmp_path: Path) -> None:
    """After the start proposals gather about the optimum: more than half fall where a
    fifth would by chance.
    """
    with search(tmp_path, rules=Rules(40, "minimize", 100)) as study:
        later = carried_out(study)[10:]
    assert sum(0.04 < trial.values["rate"] < 0.25 for trial in later) > len(later) / 2


def test_the_same_seed_draws_the_same_and_a_stopped_search_goes_on_as_the_unbroken_one(
    tmp_path: Path,
) -> None:
    with search(tmp_path / "whole") as study:
        whole = [trial.values for trial in carried_out(study)]
    with search(tmp_path / "parts") as study:
        parts = [trial.values for trial in carried_out(study, most=5)]
    with search(tmp_path / "parts") as study:
        parts += [trial.values for trial in carried_out(study)]
    assert parts == whole
    with search(tmp_path / "other", rules=Rules(12, "minimize", 100, seed=1)) as study:
        assert [trial.values for trial in carried_out(study)][1:] != whole[1:]


def test_the_median_stops_what_is_worse_and_spares_what_is_better(
    tmp_path: Path,
) -> None:
    with search(tmp_path) as study:
        for value in (1.0, 2.0, 3.0, 4.0):
            trial = study.ask()
            assert trial is not None
            for percent in (20, 40, 60, 80, 100):
                trial.report(percent, value)
            study.finish(trial, value)
        good = study.ask()
        assert good is not None
        good.report(40, 2.4)  # the median of 1, 2, 3, 4 is 2.5
        bad = study.ask()
        assert bad is not None
        bad.report(20, 9.0)  # too early to tell
        with pytest.raises(optuna.TrialPruned):
            bad.report(40, 2.6)
        late = study.ask()
        assert late is not None
        late.report(100, 9.0)  # it is over anyway: its figure is worth having


def test_without_pruning_nothing_is_stopped(tmp_path: Path) -> None:
    with search(tmp_path, rules=Rules(12, "minimize", 100, prune=False)) as study:
        for value in (1.0, 1.0, 1.0, 1.0, 99.0):
            trial = study.ask()
            assert trial is not None
            trial.report(60, value)
            study.finish(trial, value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], 0),
        ([5.0, 4.0, 3.0], 0),
        ([3.0, 4.0, 5.0], 2),
        ([5.0, 3.0, 4.0, 4.0], 2),
        (
            [10.0, 9.0, 8.0, 5.0, 4.99, 4.98, 9.0],
            3,
        ),  # 0.02 is less than a fiftieth of the way from 8 to 4.98
        ([10.0, 9.0, 8.0, 5.0, 4.98, 4.96, 4.94, 8.0], 2),
    ],
)  # small gains add up: 0.04 is more than a fiftieth of 1.56
def test_what_counts_as_an_improvement(
    tmp_path: Path, values: list[float], expected: int
) -> None:
    with search(tmp_path) as study:
        rest = iter(values)
        carried_out(study, lambda _: next(rest), most=len(values))
        assert since_improvement(study.trials, "minimize") == expected
    with search(tmp_path / "mirrored", rules=Rules(12, "maximize", 100)) as study:
        rest = iter(values)
        carried_out(study, lambda _: -next(rest), most=len(values))
        assert since_improvement(study.trials, "maximize") == expected


def test_it_ends_when_improvement_has_ceased(tmp_path: Path) -> None:
    with search(tmp_path, rules=Rules(50, "minimize", patience=4)) as study:
        rest = iter([3.0, 1.0, *[2.0] * 50])
        assert len(carried_out(study, lambda _: next(rest))) == 6
        assert "no improvement" in study.end_reason()


def test_importance_is_where_the_figure_comes_from(tmp_path: Path) -> None:
    idle = Dimension("idle", (), 0.0, 1.0)
    with search(
        tmp_path, RATE, idle, KIND, RANK, rules=Rules(30, "minimize", 100)
    ) as study:
        carried_out(study, lambda values: figure({"rate": values["rate"]}))
        shares = importances(study.study, study.space)
    assert next(iter(shares)) == "rate"
    assert shares["rate"] > 0.8 > 0.2 > shares["idle"]
    assert shares.keys() == {"rate", "idle", "kind", "rank"}
    assert sum(
        value for key, value in shares.items() if key != "rank"
    ) == pytest.approx(1)


def test_too_few_trials_tell_nothing(tmp_path: Path) -> None:
    with search(tmp_path) as study:
        carried_out(study, most=3)
        assert importances(study.study, study.space) == {}


def test_an_interrupted_trial_is_taken_up_again_where_it_was(tmp_path: Path) -> None:
    with search(tmp_path) as study:
        carried_out(study, most=2)
        trial = study.ask()
        assert trial is not None
        trial.report(20, 7.0)
        study.give_back(trial)
    with search(tmp_path) as study:
        again = study.ask()
        assert again is not None
        assert (again.values, again.folder) == (trial.values, trial.folder)
        again.report(20, 7.0)  # said before: no matter
        study.finish(again, 1.0)
        assert study.trials[-1].intermediate_values == {20: 7.0}
        assert len(study.trials) == 3
        assert len(carried_out(study)) == 9


WORKER = """
import os, sys, time
from pathlib import Path
from tests.train.test_search import OWN, RATE, KIND, RANK, RULES, figure
from miaobi.train.search import open_search
with open_search(Path(sys.argv[1]), (RATE, KIND, RANK), OWN, RULES, "toy") as study:
    while (trial := study.ask()) is not None:
        if sys.argv[2] == "dies":
            os._exit(9)
        time.sleep(0.02)
        study.finish(trial, figure(trial.values))
"""


def worker(folder: Path, what: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), what],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def test_the_trial_of_a_dead_process_is_taken_up_again(tmp_path: Path) -> None:
    assert worker(tmp_path, "dies").wait(60) == 9
    with search(tmp_path) as study:
        done = carried_out(study)
        assert done[0].values == {"rate": 0.01, "kind": "plain"}
        assert done[0].folder == "toy-000"
        assert len(done) == 12


def test_processes_share_a_search_without_repeating_each_other(tmp_path: Path) -> None:
    workers = [worker(tmp_path, "works") for _ in range(2)]
    assert [process.wait(100) for process in workers] == [0, 0]
    with search(tmp_path) as study:
        trials = study.trials
    assert len(trials) == 12
    assert len({trial.params["rate"] for trial in trials}) == 12
    assert len({trial.user_attrs["process"][0] for trial in trials}) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"low": 1.0, "high": 0.1}, "low < high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "above 0"),
        ({}, "low < high"),
    ],
)
def test_impossible_ranges_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        Dimension("x", **settings)
    assert words in str(caught.value)


def test_conditions_come_after_what_they_ask_about_and_circles_are_refused() -> None:
    assert [item.key for item in ordered([RANK, KIND, RATE])] == [
        "kind",
        "rate",
        "rank",
    ]
    with pytest.raises(BadInput, match="wait for each other"):
        ordered([RANK, Dimension("kind", ("plain",), when={"rank": (4,)})])
