"""Resuming with other settings: what makes another model is refused with the command
for it; what is allowed stands in the manifest; no report is overwritten.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engines.small import small_bundle

from miaobi import cli
from miaobi.core import bundle
from miaobi.core.config import read_yaml
from miaobi.core.errors import BadInput
from miaobi.train.loop import Interrupted
from miaobi.train.run import Run
from miaobi.verbs import finetune as tuning
from miaobi.verbs import train as training
from miaobi.verbs.finetune import Tuned, finetune
from miaobi.verbs.train import Trained

STEPS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A run that no test changes."""
    return tuned(base, tmp_path_factory.mktemp("finished"))


def texts(path: Path, first: int) -> Path:
    rows = [
        json.dumps({"text": f"春江花月夜 {at}，海上明月生 {at}。"}, ensure_ascii=False)
        for at in range(first, first + 40)
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def tuned(base: Path, folder: Path) -> Tuned:
    return finetune(
        {"task": "causal", "train": {"trackers": []}},
        base=str(base),
        data=texts(folder / "old.jsonl", 0),
        method="lora",
        name="sea",
        settings={
            "train.max_steps": STEPS,
            "train.batch_size": 4,
            "train.learning_rate": 0.01,
            "train.checkpoint_every": 2,
            "report.forgetting": False,
            "report.memorisation": False,
            "report.limit": 2,
        },
        runs=folder / "runs",
        quiet=True,
    )


def files_of(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"train.learning_rate": 0.5},
        {"train.batch_size": 2},
        {"tune.lora_rank": 2},
        {"data.max_length": 16},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_finished_run_with_other_settings_is_refused_with_the_right_command(
    finished: Tuned, settings: Mapping[str, Any]
) -> None:
    """The command that the error names begins a new run with these settings."""
    before = files_of(finished.run)
    [(key, value)] = settings.items()
    with pytest.raises(BadInput, match="has ended with other settings") as refused:
        tuning.resume(finished.run, settings=settings, quiet=True)
    assert files_of(finished.run) == before
    argv = shlex.split(refused.value.remedy.partition(": ")[2])
    assert argv[:2] == ["miaobi", "finetune"]
    new = cli.call("finetune", [*argv[2:], "--print-config"])
    section, _, name = key.partition(".")
    assert new.settings[section][name] == value
    old = read_yaml(finished.run / "config.yaml")
    assert new.settings == {**old, section: {**old[section], name: value}}


def test_a_finished_run_with_other_data_is_refused_with_the_right_command(
    base: Path, tmp_path: Path
) -> None:
    done = tuned(base, tmp_path)
    new = texts(tmp_path / "new.jsonl", 100)
    before = files_of(done.run)
    with pytest.raises(BadInput, match="data is not what sea-.* began with") as refused:
        tuning.resume(done.run, settings={"data": str(new)}, quiet=True)
    assert f"miaobi finetune --continue sea --data.path {new}" in refused.value.remedy
    assert files_of(done.run) == before
    shutil.copy(new, tmp_path / "old.jsonl")
    with pytest.raises(BadInput, match="data is not what sea-.* began with"):
        tuning.resume(done.run, quiet=True)
    assert files_of(done.run) == before


def test_data_may_move_between_a_stop_and_a_resume(base: Path, tmp_path: Path) -> None:
    done = tuned(base, tmp_path)
    moved = (tmp_path / "old.jsonl").rename(tmp_path / "moved.jsonl")
    resumed = tuning.resume(done.run, settings={"data": str(moved)}, quiet=True)
    assert bundle.read(resumed.bundle).data["source"] == str(moved)


def test_a_longer_run_keeps_the_report_of_the_first_version(
    base: Path, tmp_path: Path
) -> None:
    """And the manifest says from which step on it was longer."""
    done = tuned(base, tmp_path)
    first = (done.run / "report.html").read_bytes()
    settings = {"train.max_steps": 2 * STEPS}
    longer = tuning.resume(done.run, settings=settings, quiet=True)
    assert (longer.model, longer.step) == ("sea@2", 2 * STEPS)
    assert (done.run / "report-sea@1.html").read_bytes() == first
    content = json.loads((done.run / "report.json").read_text(encoding="utf-8"))
    assert content["model"] == "sea@2"
    assert bundle.read(done.bundle).resumed == []
    assert bundle.read(longer.bundle).resumed == [
        {"step": STEPS, "changed": {"train.max_steps": [STEPS, 2 * STEPS]}}
    ]
    with pytest.raises(BadInput, match="the run has taken 8 steps"):
        tuning.resume(done.run, settings={"train.max_steps": 6}, quiet=True)


def halt_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    hooks = Run._hooks

    def stopping(self: Run, *arguments: Any) -> Any:
        def stop(state: Any) -> None:
            if state.step == step:
                raise Interrupted

        return [*hooks(self, *arguments), (1, stop)]

    monkeypatch.setattr(Run, "_hooks", stopping)


def test_a_stopped_run_may_learn_more_slowly_and_says_since_when(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the error for a loss that is no number advises."""
    with monkeypatch.context() as patch:
        halt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            tuned(base, tmp_path)
    [run] = (tmp_path / "runs").iterdir()
    with pytest.raises(BadInput, match="has begun with other settings"):
        tuning.resume(run, settings={"train.batch_size": 2}, quiet=True)
    done = tuning.resume(run, settings={"train.learning_rate": 0.001}, quiet=True)
    assert done.step == STEPS
    assert bundle.read(done.bundle).resumed == [
        {"step": 3, "changed": {"train.learning_rate": [0.01, 0.001]}}
    ]


def trained(folder: Path) -> Trained:
    recipe = {
        "family": "gpt",
        "name": "tiny",
        "data": {
            "path": str(texts(folder / "old.jsonl", 0)),
            "context_length": 16,
            "tokenizer": "char",
        },
        "model": {"num_layers": 1, "hidden_size": 32},
        "train": {
            "max_steps": STEPS,
            "batch_size": 2,
            "trackers": [],
            "validate_every": 1,
        },
    }
    return training.train(recipe, runs=folder / "runs", quiet=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run from scratch that no test changes."""
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize(
    "settings",
    [{"train.learning_rate": 0.5}, {"train.batch_size": 4}, {"model.hidden_size": 64}],
    ids=lambda settings: next(iter(settings)),
)
def test_training_from_scratch_is_refused_alike(
    done: Trained, settings: Mapping[str, Any]
) -> None:
    before = files_of(done.run)
    with pytest.raises(BadInput, match="has ended with other settings") as refused:
        training.resume(done.run, settings=settings, quiet=True)
    assert f"miaobi train {done.run}/config.yaml --" in refused.value.remedy
    assert files_of(done.run) == before


def test_training_from_scratch_on_other_data_is_refused(
    done: Trained, tmp_path: Path
) -> None:
    before = files_of(done.run)
    new = texts(tmp_path / "new.jsonl", 100)
    with pytest.raises(BadInput, match="data is not what tiny-.* began with"):
        training.resume(done.run, settings={"data.path": str(new)}, quiet=True)
    assert files_of(done.run) == before


def test_a_run_that_stopped_early_goes_on_with_more_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer alone, it would take no step under the settings that it would name."""
    validate = Run._validate

    def never_better(self: Run, state: Any, *arguments: Any) -> None:
        state.best = -1.0
        validate(
            replace(self, config=replace(self.config, patience=2)), state, *arguments
        )

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_validate", never_better)
        done = trained(tmp_path)
    assert done.step == 2
    path = done.run / "config.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("patience: 0", "patience: 2")
    )
    assert read_yaml(path)["train"]["patience"] == 2
    with pytest.raises(BadInput, match="stopped at step 2"):
        training.resume(done.run, settings={"train.max_steps": 6}, quiet=True)
    longer = training.resume(done.run, settings={"train.patience": 9}, quiet=True)
    assert longer.step == STEPS
