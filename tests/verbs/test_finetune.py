"""Fine-tuning from labelled examples to a model in the store: the whole way, its stops,
its second time, and what it refuses.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.engines.small import small_bundle

from miaobi import cli
from miaobi.core import bundle
from miaobi.core.config import read_yaml
from miaobi.core.errors import BadInput, NotFound, Unsupported
from miaobi.core.store import Store
from miaobi.tune.defaults import Derived
from miaobi.tune.examples import Lengths
from miaobi.tune.guess import guess
from miaobi.tune.learner import Evaluation, Example, Metric
from miaobi.verbs.finetune import Tuned, again, finetune, plan
from miaobi.verbs.finetune.outcome import Outcome
from miaobi.verbs.finetune.page import page
from miaobi.verbs.finetune.report import RunFacts, report
from miaobi.verbs.finetune.settings import settle

QUICK = {
    "train.max_steps": 12,
    "train.batch_size": 8,
    "train.learning_rate": 0.01,
    "train.trackers": [],
    "train.patience": 0,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="module")
def opinions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("data") / "opinions.jsonl", range(60))


def written(path: Path, numbers: range, **more: Any) -> Path:
    rows = [
        {
            "text": f"春江花月夜 {at}" if at % 2 else f"海上明月生 {at}",
            "label": "good" if at % 2 else "bad",
            **more,
        }
        for at in numbers
    ]
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


def tuned(
    base: Path, data: Path, runs: Path, name: str = "opinion", **settings: Any
) -> Tuned:
    return finetune(
        {"task": "text-classification", "train": {"trackers": []}},
        base=str(base),
        data=data,
        method="lora",
        name=name,
        settings={**QUICK, **settings},
        runs=runs,
        quiet=True,
    )


def test_from_examples_to_a_better_model_with_a_report(
    base: Path, opinions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tuned(base, opinions, tmp_path / "runs", **{"train.max_steps": 40})
    assert done.model == "opinion@1"
    assert done.differences[0].name == "accuracy"
    assert done.differences[0].value > 0
    content = json.loads((done.run / "report.json").read_text(encoding="utf-8"))
    assert [key for key in content if key[0].isdigit()] == [
        "1 base and data",
        "2 task and head",
        "3 how it is changed",
        "4 training",
        "5 test",
    ]
    assert content["finished"]
    assert content["1 base and data"]["data"]["splits"] == {
        "train": 48,
        "validation": 6,
        "test": 6,
    }
    assert content["2 task and head"]["spec"]["labels"] == ["bad", "good"]
    assert (
        0
        < content["3 how it is changed"]["trainable"]
        < content["1 base and data"]["parameters"] / 2
    )
    assert {item["key"] for item in content["3 how it is changed"]["derived"]} >= {
        "warmup",
        "schedule",
        "validate_every",
    }
    assert content["4 training"]["steps"] == 40
    before, after = (content["5 test"][side][0] for side in ("base", "tuned"))
    assert after["value"] > before["value"]
    assert after["low"] <= after["value"] <= after["high"]
    assert after["n"] == 6
    losses = [row["loss"] for row in content["5 test"]["answers"]]
    assert losses == sorted(losses, reverse=True)
    page = (done.run / "report.html").read_text(encoding="utf-8")
    assert (
        "opinion@1" in page
        and "5 · Test against the base" in page
        and "AI-generated" in page
    )
    size = sum(file.stat().st_size for file in done.bundle.rglob("*.safetensors"))
    assert size < 300_000  # the adapter and the head, not the base


def test_the_tuned_model_answers_under_its_own_name(
    base: Path, opinions: Path, tmp_path: Path
) -> None:
    import miaobi

    tuned(base, opinions, tmp_path / "runs", **{"train.max_steps": 40})
    with miaobi.load("opinion") as model:
        assert json.loads(model.generate("春江花月夜 77")[0].text)["label"] == "good"
        assert json.loads(model.generate("海上明月生 78")[0].text)["label"] == "bad"


def test_open_settings_are_derived_and_explicit_ones_stay(
    base: Path, opinions: Path, tmp_path: Path
) -> None:
    done = tuned(base, opinions, tmp_path / "runs", **{"train.warmup": 0.5})
    content = json.loads((done.run / "report.json").read_text(encoding="utf-8"))[
        "3 how it is changed"
    ]
    derived = {item["key"] for item in content["derived"]}
    assert not derived & {"max_steps", "batch_size", "learning_rate", "warmup"}
    assert content["train"]["warmup"] == 0.5
    assert all(item["reason"] for item in content["derived"])


def test_a_dry_run_shows_data_and_cost_and_leaves_nothing(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    opinions = written(tmp_path / "opinions.jsonl", range(60), shop="north")
    assert (
        cli.main(
            [
                "finetune",
                "--base",
                str(base),
                "--data",
                str(opinions),
                "--task",
                "text-classification",
                "--dry-run",
                "--train.max_steps",
                "20",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert re.search("海上明月生|春江花月夜", printed.err)
    assert "train.learning_rate = " in printed.err
    assert "keys not used: shop (60)" in printed.err
    assert "max_steps: 20" in printed.out
    assert not (tmp_path / "runs").exists()
    assert not Store().names()


def test_an_interrupted_run_leaves_a_report_and_goes_on_to_the_same_end(
    base: Path, opinions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.train import loop
    from miaobi.train.run import Run

    whole = tuned(base, opinions, tmp_path / "whole")
    hooks = Run._hooks

    def stopped(self: Run, *arguments: Any) -> Any:
        def stop(state: Any) -> None:
            if state.step == 5:
                raise loop.Interrupted

        return [*hooks(self, *arguments), (1, stop)]

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_hooks", stopped)
        with pytest.raises(KeyboardInterrupt):
            tuned(base, opinions, tmp_path / "runs", name="halted")
    run = next((tmp_path / "runs").iterdir())
    content = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert not content["finished"]
    assert content["4 training"]["steps"] == 5
    assert content["5 test"]["base"] and not content["5 test"]["tuned"]
    assert "miaobi finetune --resume" in content["what next"][0]["command"]
    assert "has not ended yet" in (run / "report.html").read_text(encoding="utf-8")
    assert "halted" not in Store().names()
    resumed = cli.call("finetune", ["--resume", str(run)])
    assert resumed.step == whole.step
    files = [
        next(done.bundle.glob("adapter_model.safetensors")).read_bytes()
        for done in (whole, resumed)
    ]
    assert files[0] == files[1]


def test_tuning_again_replays_the_old_and_is_compared_with_what_it_came_from(
    base: Path, opinions: Path, tmp_path: Path
) -> None:
    tuned(base, opinions, tmp_path / "runs", **{"train.max_steps": 40})
    new = written(tmp_path / "new.jsonl", range(100, 130))
    done = again(
        "opinion",
        settings={"data": new, "train.max_steps": 6},
        runs=tmp_path / "runs",
        promote=True,
        quiet=True,
    )
    assert isinstance(done, Tuned)
    assert (done.model, done.promoted) == ("opinion@2", True)
    assert Store().production("opinion") == [2]
    content = json.loads((done.run / "report.json").read_text(encoding="utf-8"))
    data = content["1 base and data"]["data"]
    assert data["replayed"] == 24  # as many old ones as there are new ones
    assert data["splits"] == {"train": 48, "validation": 9, "test": 9}
    assert content["1 base and data"]["again_from"] == "opinion@1"
    assert (
        content["5 test"]["base"][0]["value"] > 0.5
    )  # it began as what it was tuned from


def test_other_sources_are_mixed_in_and_reported(
    base: Path,
    opinions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "general.jsonl", range(50, 100))
    tree = {
        "name": "mixed",
        "task": "text-classification",
        "base": str(base),
        "train": {"trackers": []},
        "data": {
            "path": str(opinions),
            "mix": {"general": {"path": "general.jsonl", "share": 0.125}},
        },
    }
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(tree))
    quick = [
        part
        for key, value in QUICK.items()
        if value != []
        for part in (f"--{key}", str(value))
    ]
    assert (
        cli.main(
            [
                "finetune",
                "mixed.yaml",
                *quick,
                "--dry-run",
                "--data.mix.general.share",
                "0.5",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert re.search(
        r"data\.mix\.general: 24 of 4\d usable examples; left out: ", printed.err
    )
    assert "share: 0.5" in printed.out
    done = finetune(tree, settings=QUICK, quiet=True)
    content = json.loads((done.run / "report.json").read_text(encoding="utf-8"))
    data = content["1 base and data"]["data"]
    assert data["splits"] == {"train": 54, "validation": 6, "test": 6}
    assert data["mix"]["general"]["added"] == 6
    assert "Mixed in from general" in (done.run / "report.html").read_text(
        encoding="utf-8"
    )
    assert cli.call("finetune", ["--resume", str(done.run)]).step == done.step
    new = written(tmp_path / "new.jsonl", range(200, 230))
    further = again(
        "mixed@1",
        settings={
            "data": new,
            "train.max_steps": 2,
            "data.mix.general.share": 0.25,
        },
        quiet=True,
    )
    assert isinstance(further, Tuned)
    data = json.loads((further.run / "report.json").read_text(encoding="utf-8"))[
        "1 base and data"
    ]["data"]
    assert (data["replayed"], data["mix"]["general"]["added"]) == (24, 6)
    assert data["splits"]["train"] == 24 + 24 + 6


def test_what_is_mixed_in_changes_neither_labels_nor_length_nor_what_is_held_out(
    base: Path, opinions: Path, tmp_path: Path
) -> None:
    from miaobi.verbs.finetune.work import Work

    long = written(tmp_path / "long.jsonl", range(500, 560))
    long.write_text(
        long.read_text(encoding="utf-8").replace("海上明月生", "海上明月生" * 20),
        encoding="utf-8",
    )
    works = [
        Work.open(
            settle(
                {
                    "task": "text-classification",
                    "base": str(base),
                    "train": {"max_steps": 2, "batch_size": 8},
                    "data": {
                        "path": str(opinions),
                        "mix": {"long": {"path": str(long), "share": share}},
                    },
                }
            ),
            None,
            1.0,
            True,
        )
        for share in (0.0, 1.0)
    ]
    assert works[0].lengths.max_length == works[1].lengths.max_length
    assert works[1].lengths.cut > works[0].lengths.cut
    assert works[0].spec == works[1].spec
    for split in ("validation", "test"):
        assert works[0].data.examples(split) == works[1].data.examples(split)
    assert works[1].data.count("train") == 2 * works[0].data.count("train")


def test_evaluated_beside_its_base_and_refused_on_its_own_training_rows(
    base: Path, opinions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.verbs.evaluate import evaluate

    monkeypatch.chdir(tmp_path)
    tuned(base, opinions, tmp_path / "runs", **{"train.max_steps": 40})
    fresh = written(tmp_path / "fresh.jsonl", range(200, 230))
    evaluation = evaluate("opinion", against=str(base), data=fresh, limit=20)
    accuracy = [
        next(score for score in item.scores if score.name == "accuracy")
        for item in evaluation.judged
    ]
    assert [score.n for score in accuracy] == [20, 20]
    assert accuracy[0].value > accuracy[1].value
    assert "example by example" in evaluation.page.read_text(encoding="utf-8")
    with pytest.raises(
        BadInput,
        match=r"of the 60 test examples were trained on: .*opinions\.jsonl:\d+ = ",
    ) as error:
        evaluate("opinion", data=opinions)
    assert "--allow-leakage" in error.value.remedy
    assert (
        evaluate("opinion", data=opinions, allow_leakage=True, limit=10)
        .judged[0]
        .documents
        == 10
    )


def test_leaked_test_rows_are_named(base: Path, opinions: Path, tmp_path: Path) -> None:
    leaked = tmp_path / "test.jsonl"
    leaked.write_text(
        "\n".join(opinions.read_text(encoding="utf-8").splitlines()[:2])
        + '\n{"text": "new", "label": "good"}\n',
        encoding="utf-8",
    )
    with pytest.raises(
        BadInput,
        match=r"2 held-out examples ask what the training data asks too: .*test\.jsonl:1 = .*opinions\.jsonl:1",
    ):
        tuned(base, opinions, tmp_path / "runs", **{"data.test_path": str(leaked)})
    assert (
        tuned(
            base,
            opinions,
            tmp_path / "runs",
            **{
                "data.test_path": str(leaked),
                "data.allow_leakage": True,
                "train.max_steps": 2,
            },
        ).model
        == "opinion@1"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b"}], r"rows\.jsonl:2: .*label"),
        ([{"text": f"{at}", "label": "x"} for at in range(20)], "label"),
        ([{"words": "a", "mark": "x"}], r"rows\.jsonl:1: .*text"),
    ],
)
def test_unusable_data_is_refused_by_line(
    base: Path, tmp_path: Path, rows: list[dict[str, str]], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        tuned(base, path, tmp_path / "runs")


def test_peoples_own_column_names(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(
        "review,stars\n"
        + "\n".join(f"春江 {at},{'five' if at % 2 else 'one'}" for at in range(40)),
        encoding="utf-8",
    )
    done = tuned(
        base,
        path,
        tmp_path / "runs",
        **{"data.columns": {"text": "review", "label": "stars"}, "train.max_steps": 2},
    )
    assert done.step == 2
    with pytest.raises(BadInput, match="no column 'note'"):
        tuned(
            base,
            path,
            tmp_path / "runs",
            **{"data.columns": {"text": "note", "label": "stars"}},
        )


def test_examples_that_cannot_be_split_are_not(
    base: Path, opinions: Path, tmp_path: Path
) -> None:
    with pytest.raises(Unsupported, match="cannot be split") as error:
        tuned(
            base,
            opinions,
            tmp_path / "runs",
            **{"data.too_long": "split", "data.max_length": 4},
        )
    assert "truncate" in error.value.remedy


def test_early_stopping_goes_by_a_figure_and_knows_which_there_are(
    base: Path, opinions: Path, tmp_path: Path
) -> None:
    done = tuned(
        base,
        opinions,
        tmp_path / "runs",
        **{
            "train.watch": "accuracy",
            "train.patience": 1,
            "train.max_steps": 60,
            "train.validate_every": 4,
            "train.learning_rate": 1e-9,
        },
    )
    assert done.step < 60
    with pytest.raises(BadInput, match="train.watch is 'bleu'"):
        tuned(base, opinions, tmp_path / "runs", **{"train.watch": "bleu"})


def test_another_base_under_the_same_path_is_not_tuned_on(
    base: Path, opinions: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    tuned(moved, opinions, tmp_path / "runs", **{"train.max_steps": 2})
    weights = load_file(moved / "model.safetensors")
    save_file(
        {name: value + 1 for name, value in weights.items()},
        moved / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(BadInput, match="other weights"):
        again(
            "opinion",
            settings={"data": written(tmp_path / "new.jsonl", range(100, 120))},
            runs=tmp_path / "runs",
            quiet=True,
        )


def test_the_task_is_recognised_from_the_records(
    tmp_path: Path, opinions: Path
) -> None:
    assert guess(str(opinions), "").task == "text-classification"
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"height": 3}\n', encoding="utf-8")
    with pytest.raises(BadInput, match="fit no task") as error:
        guess(str(odd), "")
    assert (
        "--task" in error.value.remedy and "text-classification" in error.value.remedy
    )


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "recipes" / "tune").glob("*.yaml")),
    ids=lambda path: path.name,
)
def test_every_recipe_resolves(path: Path) -> None:
    settings = settle(read_yaml(path), origin=str(path))
    assert settings.values["task"] == settings.task.NAME
    assert settings.base


def test_python_parses_no_command_line(
    base: Path, opinions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.core import config
    from miaobi.core.config import command_line

    def parse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a typed setting was parsed")

    monkeypatch.setattr(command_line, "parse", parse)
    monkeypatch.setattr(config, "parse", parse)
    settings = {"train.max_steps": 2, "train.learning_rate": 1e-4}
    planned = plan(base=str(base), data=opinions, settings=settings, quiet=True)
    assert planned.settings["train"]["learning_rate"] == 1e-4
    with pytest.raises(BadInput, match="learning_rate is 0"):
        plan(base=str(base), data=opinions, settings={"train.learning_rate": 0})


def test_recipes_know_their_keys(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no section 'tuning'"):
        settle({"tuning": {}, "task": "text-classification", "base": "x"})
    with pytest.raises(BadInput, match=re.escape("tune.lora_rnk")):
        settle(
            {
                "task": "text-classification",
                "base": "x",
                "tune": {"lora_rnk": 4},
                "data": {"path": "a"},
            }
        )
    with pytest.raises(NotFound):
        settle({"task": "text-clasification", "base": "x"})
    settings = settle(
        {"task": "text-classification", "base": "b", "train": {"max_steps": 7}},
        {"data": "chinese-reviews", "method": "full"},
    )
    assert (settings.data.pack, settings.tune.method, settings.train.max_steps) == (
        "chinese-reviews",
        "full",
        7,
    )
    assert {"train.max_steps", "tune.method", "data.pack"} <= settings.explicit_keys
    assert "train.learning_rate" not in settings.explicit_keys


def test_dialogues_and_pictures_are_readable() -> None:
    from miaobi.verbs.readable import answer_of, readable

    question = [{"role": "user", "content": "Hello?"}]
    reply = {"role": "assistant", "content": "Good day."}
    dialogue = Example(
        {"messages": [*question, reply]}, "chats.jsonl:1", {"messages": question}
    )
    assert readable(dialogue.parts) == "Hello?"
    assert readable(answer_of(dialogue)) == "Good day."
    assert readable([*question, reply]) == "user: Hello?\nassistant: Good day."
    picture = {"image": "/photos/cat.png", "digest": "ab", "width": 3}
    assert readable(picture) == "cat.png"
    labelled = Example({"text": "a", "label": "b"}, "rows.jsonl:1", {"text": "a"})
    assert answer_of(labelled) == "b"


def run_facts(**changes: Any) -> RunFacts:
    """A run of four test examples, of which nothing is measured."""
    settings = settle(
        {
            "name": "opinion",
            "task": "text-classification",
            "base": "small",
            "data": {"path": "opinions.jsonl"},
            "train": {"max_steps": 40},
        }
    )
    accuracy = Metric(
        "accuracy",
        lambda counts: counts[..., 0] / counts[..., 1],
        "higher",
        ("Accuracy", "准确率"),
    )
    examples = [
        Example({"text": text, "label": "good"}, f"rows.jsonl:{line}", {"text": text})
        for line, text in enumerate("abcd", 1)
    ]
    facts = RunFacts(
        folder=Path("runs/opinion"),
        model="opinion@1",
        settings=settings,
        base="small",
        base_hash="0123456789abcdef",
        again_from="",
        data={
            "splits": {"train": 8, "validation": 2, "test": 4},
            "duplicates": 0,
            "contradictions": 0,
            "problems": {"count": 0, "first": []},
        },
        left_out=[],
        lengths=Lengths(5, 9, 12, 16, 0),
        spec={"labels": ["bad", "good"]},
        new_modules=("classifier",),
        preview=[("rows.jsonl:1", [("a ", False), ("good", True)])],
        derived=[Derived("warmup", 0.1, "a tenth of the steps")],
        metrics=[accuracy],
        test_examples=examples,
        trainable=10,
        parameters=100,
        steps=40,
        best_step=30,
        validation_loss=0.5,
        seconds=3.21,
        memory_gb=0.5,
    )
    return replace(facts, **changes)


def outcome(right: list[bool]) -> Outcome:
    """A model that is right or wrong about each test example; the last is its worst."""
    evaluations = [
        Evaluation(float(number), {"accuracy": np.array([float(is_right), 1.0])})
        for number, is_right in enumerate(right)
    ]
    answers = {
        number: "good" if is_right else "bad" for number, is_right in enumerate(right)
    }
    return Outcome(evaluations, answers)


def test_the_report_follows_from_two_outcomes_and_the_facts_of_the_run() -> None:
    before = outcome([False, True, False, False])
    after = outcome([True, True, True, False])
    content = report(before, after, run_facts())
    assert content == json.loads(json.dumps(content)), "plain, as report.json holds it"
    test = content["5 test"]
    assert (test["base"][0]["value"], test["tuned"][0]["value"]) == (0.25, 0.75)
    assert test["differences"][0]["value"] == 0.5
    assert [row["place"] for row in test["answers"]] == [
        f"rows.jsonl:{line}" for line in (4, 3, 2, 1)
    ]
    assert test["answers"][0] | {"loss": 0} == {
        "place": "rows.jsonl:4",
        "asked": {"text": "d"},
        "wanted": "good",
        "loss": 0,
        "base": "bad",
        "tuned": "bad",
    }
    assert content["4 training"]["seconds"] == 3.2
    html = page(content, []).html()
    assert "opinion@1" in html and "⟦" not in html and "rows.jsonl:1" in html
    assert "untrained head" in html


def test_an_unfinished_run_advises_to_continue_it() -> None:
    content = report(outcome([True] * 4), Outcome(), run_facts(model="", steps=5))
    assert (content["model"], content["finished"]) == ("opinion", False)
    assert [item["command"] for item in content["what next"]] == [
        "miaobi finetune --resume runs/opinion"
    ]
    assert "stopped at step 5" in page(content, []).html()


def test_two_processes_tune_one_model(
    base: Path, opinions: Path, tmp_path: Path
) -> None:
    """Under torchrun: settings that are measured are the first process's for both, and
    one model comes out.
    """
    argv = [
        "finetune",
        "--base",
        str(base),
        "--data",
        str(opinions),
        "--method",
        "lora",
        "--name",
        "shared",
        "--train.learning_rate",
        "0.01",
        "--train.max_minutes",
        "0.05",
        "--train.trackers",
        "[]",
        "--runs",
        str(tmp_path / "runs"),
        "--json",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "miaobi.cli",
            *argv,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [str(version) for version in Store().versions("shared")] == ["shared@1"]
    content = json.loads(
        next((tmp_path / "runs").glob("*/report.json")).read_text(encoding="utf-8")
    )
    assert content["finished"] and content["4 training"]["steps"] > 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_diffusers_base_means_diffusion_tuning(tmp_path: Path) -> None:
    """Whatever else the data would be fit for."""
    base = tmp_path / "painter"
    base.mkdir()
    (base / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    data = str(tmp_path / "pictures")
    recipe = {"base": str(base), "data": {"path": data}}
    assert settle(recipe).task.NAME == "diffusion"
    with pytest.raises(BadInput, match="Diffusers pipeline, which the task chat"):
        settle({**recipe, "task": "chat"})


def test_a_diffusers_base_of_the_store_means_it_too(tmp_path: Path) -> None:
    """By its name, with a version or without."""

    def write(draft: Path) -> None:
        (draft / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')

    manifest = bundle.Manifest("tuned", "image")
    Store().add(bundle.write(tmp_path / "bundle", manifest, write), "stored-painter")
    for base in ("stored-painter", "stored-painter@1"):
        recipe = {"base": base, "data": {"path": str(tmp_path / "pictures")}}
        assert settle(recipe).task.NAME == "diffusion"
        with pytest.raises(BadInput, match="Diffusers pipeline, which the task chat"):
            settle({**recipe, "task": "chat"})
