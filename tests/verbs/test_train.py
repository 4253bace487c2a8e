from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from miaobi import cli
from miaobi.core import bundle, config
from miaobi.core.config import command_line, read_recipe, read_yaml
from miaobi.core.errors import BadInput, DoesNotFit, MiaobiError, NotFound
from miaobi.core.store import Store
from miaobi.verbs import train


def command(*argv: str) -> Any:
    """Return the result of `miaobi train` with these arguments."""
    return cli.call("train", argv)


ROOT = Path(__file__).parents[2]
VERSES = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
    "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",
    "千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。",
]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    path = tmp_path / "verses.jsonl"
    path.write_text(
        "".join(
            json.dumps({"text": f"{verse}{number}"}, ensure_ascii=False) + "\n"
            for number in range(60)
            for verse in VERSES
        ),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def recipe(corpus: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "family": "gpt",
                "data": {"path": str(corpus), "context_length": 32},
                "model": {"num_layers": 1, "hidden_size": 32, "dropout": 0.1},
                "train": {
                    "max_steps": 40,
                    "batch_size": 4,
                    "learning_rate": 3e-3,
                    "checkpoint_every": 5,
                    "trackers": [],
                    "ema": 0.1,
                },
                "sample": {"prompts": ["春"], "max_new_tokens": 8},
            },
            allow_unicode=True,
        )
    )
    return path


def shell(*argv: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "miaobi.cli", "train", *argv],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("family", ["gpt", "lstm"])
def test_from_recipe_to_store(recipe: Path, tmp_path: Path, family: str) -> None:
    settings = (
        {"family": family, "train.trackers": ["tensorboard"]}
        if family == "gpt"
        else {"family": family, "model": {"hidden_size": 32}}
    )
    trained = train.train(
        recipe, name="tiny", settings=settings, runs=tmp_path / "runs", quiet=True
    )
    assert trained.model == "tiny@1"
    manifest = bundle.read(Store().resolve("tiny").path)
    assert manifest.family == family
    assert manifest.metrics["validation_loss"] == trained.validation_loss
    assert manifest.recipe["train"]["max_steps"] == 40
    assert manifest.hashes["tokenizer.json"]
    rows = [
        json.loads(line)
        for line in (trained.run / "log.jsonl").read_text().splitlines()
    ]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert len([row for row in rows if "validation" in row]) == 10
    memory = [row["memory_bytes"] for row in rows if "loss" in row]
    assert 0 < memory[0] <= memory[-1]
    assert (
        (trained.run / "samples" / "step-00000040.txt")
        .read_text(encoding="utf-8")
        .startswith("春")
    )
    assert (
        list((trained.run / "tensorboard").glob("events*")) if family == "gpt" else True
    )


def test_a_killed_run_resumes_to_the_very_same_bits(
    recipe: Path, tmp_path: Path
) -> None:
    whole = shell(str(recipe), "--name", "whole", "--runs", "whole", cwd=tmp_path)
    _, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors
    broken = shell(str(recipe), "--name", "broken", "--runs", "broken", cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("broken/*/checkpoints/step-00000010")):
        assert broken.poll() is None, broken.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    resumed = shell(
        "--resume",
        "tiny-" if list(tmp_path.glob("broken/tiny-*")) else "broken",
        "--runs",
        "broken",
        cwd=tmp_path,
    )
    _, errors = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, errors
    assert "Resuming from step" in errors
    one, other = (
        load_file(next(tmp_path.glob(f"{name}/*/bundle/model.safetensors")))
        for name in ("whole", "broken")
    )
    assert all(one[name].equal(other[name]) for name in one)
    logs = [
        [
            {
                key: value
                for key, value in json.loads(line).items()
                if key not in ("seconds", "memory_bytes")  # of the machine
            }
            for line in next(tmp_path.glob(f"{name}/*/log.jsonl"))
            .read_text()
            .splitlines()
        ]
        for name in ("whole", "broken")
    ]
    assert logs[0] == logs[1]
    assert not list(tmp_path.rglob("*.part"))


def test_ctrl_c_keeps_what_was_learned(recipe: Path, tmp_path: Path) -> None:
    run = shell(
        str(recipe),
        "--train.max_steps",
        "100000",
        "--train.checkpoint_every",
        "50000",
        "--train.validate_every",
        "50000",
        "--train.sample_every",
        "50000",
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 200
    while (
        not list(tmp_path.glob("runs/*/log.jsonl"))
        or not next(tmp_path.glob("runs/*/log.jsonl")).read_text()
    ):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=100)
    assert run.returncode == 130
    assert "miaobi train --resume" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.glob("runs/*/checkpoints/step-*/state.json"))
    assert Store(tmp_path / "home" / "models").names() == []


def test_early_stopping_keeps_the_best(recipe: Path, tmp_path: Path) -> None:
    settings = {
        "train.patience": 2,
        "train.validate_every": 5,
        "train.learning_rate": 3.0,
        "train.max_steps": 400,
        "train.clip": 0,
        "train.warmup": 0.5,
        "train.ema": 0.0,
    }
    trained = train.train(recipe, settings=settings, runs=tmp_path / "runs", quiet=True)
    assert trained.step < 400
    rows = [
        json.loads(line)
        for line in (trained.run / "log.jsonl").read_text().splitlines()
    ]
    best = min((row["validation"], row["step"]) for row in rows if "validation" in row)
    assert trained.step == best[1]
    assert trained.validation_loss == pytest.approx(
        best[0], rel=0.05
    )  # that glance saw a part of the set


def test_dry_run_and_refusals(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "none"
    plan = command(str(recipe), "--dry-run", "--runs", str(runs))
    assert "Expected" in str(plan)
    assert plan.estimate.parameters > 0
    assert not runs.exists()
    with pytest.raises(DoesNotFit, match="max_minutes") as caught:
        command(
            str(recipe),
            "--train.max_steps",
            "100000000",
            "--train.max_minutes",
            "1",
            "--runs",
            str(runs),
        )
    assert "--train.max_steps" in caught.value.remedy
    from miaobi.train import estimate

    monkeypatch.setattr(estimate, "_free_memory", lambda state: 1000)
    with pytest.raises(DoesNotFit, match="GB of memory"):
        command(str(recipe), "--train.batch_size", "4096", "--runs", str(runs))
    monkeypatch.undo()
    monkeypatch.setattr(estimate, "_free_disk", lambda folder: 10)
    with pytest.raises(DoesNotFit, match="disk"):
        command(str(recipe), "--runs", str(runs))


def test_python_parses_no_command_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a typed setting was parsed")

    monkeypatch.setattr(command_line, "parse", parse)
    monkeypatch.setattr(config, "parse", parse)
    plan = train.plan(recipe, settings={"train.max_steps": 3}, runs=tmp_path)
    assert plan.settings["train"]["max_steps"] == 3
    with pytest.raises(BadInput, match=r"train\.max_steps is 0"):
        train.plan(recipe, settings={"train.max_steps": 0}, runs=tmp_path)


def test_print_config_is_a_recipe(recipe: Path, tmp_path: Path) -> None:
    printed = str(
        command(str(recipe), "--print-config", "--train.learning_rate", "1e-4")
    )
    again = tmp_path / "again.yaml"
    again.write_text(printed, encoding="utf-8")
    assert str(command(str(again), "--print-config")) == printed
    assert yaml.safe_load(printed)["train"]["learning_rate"] == 1e-4


@pytest.mark.parametrize("processes", [1, 2])
def test_accumulation_of_a_process_is_printed_as_microbatches_of_all(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    printed = str(command(str(recipe), "--print-config", "--train.accumulation", "3"))
    settings = yaml.safe_load(printed)["train"]
    assert settings["microbatches"] == 3 * processes
    assert "accumulation" not in settings
    content = yaml.safe_load(recipe.read_text())
    content["train"]["accumulation"] = 2
    recipe.write_text(yaml.safe_dump(content))
    assert train.settle(read_yaml(recipe)).train.microbatches == 2 * processes


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train.lerning_rate", "1"], "learning_rate"),
        (["--model.layers", "2"], "num_layers"),
        (["--family", "gtp"], "gpt"),
        (["--train.schedule", "cosin"], "cosine"),
        (["--data.path", "/nowhere/at/all.txt"], "/nowhere/at/all.txt"),
        (["--train.batch_size", "0"], "batch_size"),
        (["--name", "Bad Name"], "Bad Name"),
    ],
)
def test_mistakes(recipe: Path, argv: list[str], message: str) -> None:
    with pytest.raises(MiaobiError) as caught:
        command(str(recipe), *argv)
    assert message in str(caught.value)


def test_mistakes_in_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("family: gpt\ntrian: {max_steps: 2}\n")
    with pytest.raises(BadInput, match="'trian'") as caught:
        command(str(path))
    assert "train" in caught.value.remedy
    path.write_text("model: {}\n")
    with pytest.raises(BadInput, match="which family"):
        command(str(path))
    with pytest.raises(NotFound, match="no run 'ghost'"):
        command("--resume", "ghost", "--runs", str(tmp_path))


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for path in (ROOT / "recipes").rglob("*.yaml")
        if path.parent.name != "tune"
    ),
    ids=lambda path: path.name,
)
def test_every_recipe_resolves(path: Path) -> None:
    settings = train.settle(read_yaml(path), origin=str(path))
    assert settings.values["family"] == settings.family.NAME


@pytest.mark.parametrize("delay", [0.15, 0.5, 1.1, 1.9, 2.7, 3.6])
def test_ctrl_c_at_any_moment(recipe: Path, tmp_path: Path, delay: float) -> None:
    """Whatever was going on (imports, preparation, estimate, a step, the bundle): a
    word, no traceback, nothing half-written.
    """
    run = shell(
        str(recipe), "--name", "stopped", "--train.checkpoint_every", "3", cwd=tmp_path
    )
    time.sleep(delay)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=100)
    # Death by SIGINT is what a shell calls 130: CPython ends so when the interrupt
    # passed through an exec() on its way. 0: it had finished.
    assert run.returncode in (130, -signal.SIGINT, 0), errors
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob("*.part"))
    for version in Store(tmp_path / "home" / "models").versions("stopped"):
        assert bundle.read(version.path).family == "gpt"
    for state in tmp_path.glob("runs/*/checkpoints/*/state.json"):
        assert json.loads(state.read_text())["step"] >= 3


def test_recipes_come_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no folder of that name, as after pip install; a file of one's own
    comes first.
    """
    monkeypatch.chdir(tmp_path)
    assert read_recipe("recipes/text/poet_gpt.yaml")["name"] == "poet"
    (tmp_path / "recipes" / "text").mkdir(parents=True)
    (tmp_path / "recipes" / "text" / "poet_gpt.yaml").write_text("name: mine\n")
    assert read_recipe("recipes/text/poet_gpt.yaml")["name"] == "mine"
    for missing in ("recipes/text/poet.yaml", "poet_gpt.yaml"):
        with pytest.raises(NotFound):
            read_recipe(missing)
