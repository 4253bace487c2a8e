"""Searching from the command line and from Python: what may vary, what is measured,
what is left behind.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.engines.small import small_bundle

from miaobi import cli
from miaobi.core.config import read_yaml
from miaobi.core.errors import BadInput, Conflict, MiaobiError, NotFound
from miaobi.core.store import Store
from miaobi.verbs import finetune, train
from miaobi.verbs.search import Searched, resume, search
from miaobi.verbs.search.job import new_folder

VERSES = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trained from scratch; the recipe's learning rate is far too low."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verses.jsonl").write_text(
        "".join(
            json.dumps({"text": f"{verse}{number}"}, ensure_ascii=False) + "\n"
            for number in range(40)
            for verse in VERSES
        ),
        encoding="utf-8",
    )
    (tmp_path / "tiny.yaml").write_text(
        yaml.safe_dump(
            {
                "family": "gpt",
                "data": {"path": "verses.jsonl", "context_length": 32},
                "model": {"num_layers": 1, "hidden_size": 32},
                "train": {
                    "max_steps": 40,
                    "batch_size": 4,
                    "learning_rate": 1e-5,
                    "trackers": [],
                },
                "sample": {"prompts": ["春"], "max_new_tokens": 4},
                "search": {
                    "train.learning_rate": {"low": "1e-5", "high": 0.03, "log": True},
                    "train": {"batch_size": [4, 8]},
                },
            },
            allow_unicode=True,
        )
    )
    return tmp_path / "tiny.yaml"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture
def opinions(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A recipe for tuning: two labels that a character tells apart."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "text": f"春江花月夜 {at}" if at % 2 else f"海上明月生 {at}",
            "label": "good" if at % 2 else "bad",
        }
        for at in range(80)
    ]
    (tmp_path / "opinions.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )
    return {
        "name": "opinion",
        "task": "text-classification",
        "base": str(base),
        "data": {"path": str(tmp_path / "opinions.jsonl")},
        "tune": {"method": "lora"},
        "train": {
            "max_steps": 60,
            "batch_size": 8,
            "learning_rate": 0.01,
            "trackers": [],
        },
    }


def report(done: Searched) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        done.report.with_suffix(".json").read_text(encoding="utf-8")
    )
    return content


def test_a_train_recipe_gets_better_and_the_best_one_trains_as_promised(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(
            [
                "search",
                str(recipe),
                "--trials",
                "6",
                "--metric",
                "validation",
                "--train.max_steps",
                "20",
                "--json",
            ]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["trials"] == 6
    assert printed["value"] < printed["first"] - 0.5
    assert printed["command"] == "miaobi train runs/search-tiny/best.yaml"
    best = read_yaml(Path(printed["best"]))
    assert (
        best["train"]["learning_rate"]
        == printed["settings"]["train.learning_rate"]
        > 1e-4
    )
    # The recipe's 40 steps of 4, in steps of the batch that was chosen.
    assert best["train"]["max_steps"] * best["train"]["batch_size"] == 160
    assert "search" not in best
    assert not Store().names()
    trials = json.loads(
        Path("runs/search-tiny/report.json").read_text(encoding="utf-8")
    )["trials"]
    assert trials[0]["settings"]["train.learning_rate"] == 1e-5
    for trial in trials:
        run = Path("runs/search-tiny") / trial["run"]
        saved = read_yaml(run / "config.yaml")
        assert (
            saved["train"]["learning_rate"] == trial["settings"]["train.learning_rate"]
        )
        assert saved["train"]["max_steps"] * saved["train"]["batch_size"] == 80
        if trial["state"] == "complete":
            rows = [
                json.loads(line)
                for line in (run / "log.jsonl").read_text().splitlines()
            ]
            assert [row["validation"] for row in rows if "validation" in row][
                -1
            ] == trial["value"]
        assert not (run / "checkpoints").exists() or trial["state"] == "pruned"
    page = Path("runs/search-tiny/report.html").read_text(encoding="utf-8")
    assert all(
        text in page
        for text in (
            "Best settings",
            "What mattered",
            "<svg",
            "miaobi train runs/search-tiny/best.yaml",
        )
    )
    done = train.train(
        recipe,
        settings={
            **printed["settings"],
            "train.max_steps": 80 // best["train"]["batch_size"],
        },
        runs=tmp_path / "whole",
        quiet=True,
    )
    assert done.validation_loss == pytest.approx(
        printed["value"], abs=1e-6
    )  # a trial is what `miaobi train` does


def test_without_a_space_one_follows_from_the_recipe(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = read_yaml(recipe)
    del tree["search"]
    recipe.write_text(yaml.safe_dump(tree, allow_unicode=True))
    assert cli.main(["search", str(recipe), "--dry-run", "--trials", "6"]) == 0
    printed = capsys.readouterr().out
    for row in (
        "train.learning_rate         2e-06 – 5e-05, logarithmic",
        "train.optimizer             adamw | muon",
        "where train.optimizer = muon",
        "model.hidden_size           32 | 64",
        "model.num_layers            1 | 3",
        "6 trials of about 10 steps",
    ):
        assert row in printed
    assert not Path("runs").exists()


def test_families_are_searched_each_with_its_own_settings(recipe: Path) -> None:
    tree = read_yaml(recipe)
    space = {
        "family": ["gpt", "lstm"],
        "model.tie_embeddings": [True, False],
        "model.embedding_size": [16, 32],
        "model.hidden_size": [32, 64],
    }
    done = search(
        tree,
        space=space,
        trials=6,
        settings={"train.max_steps": 4},
        name="kinds",
        quiet=True,
    )
    assert done.failed == 0
    for trial in report(done)["trials"]:
        family = trial["settings"]["family"]
        assert trial["settings"].keys() == {
            "family",
            "model.hidden_size",
            "model.tie_embeddings" if family == "gpt" else "model.embedding_size",
        }
        assert read_yaml(done.folder / trial["run"] / "config.yaml")["family"] == family
    assert {trial["settings"]["family"] for trial in report(done)["trials"]} == {
        "gpt",
        "lstm",
    }


def test_tuning_is_searched_by_a_figure_of_the_task_and_never_sees_the_test(
    opinions: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.tune.examples import Examples

    seen, features = set[str](), Examples.features
    monkeypatch.setattr(
        Examples,
        "features",
        lambda self, split, index: seen.add(split) or features(self, split, index),
    )
    space = {
        "train.learning_rate": {"low": 1e-4, "high": 0.03, "log": True},
        "tune.method": ["lora", "full"],
        "tune.lora_rank": [2, 4],
        "data.max_examples": [20, 80],
    }
    done = search(
        opinions,
        metric="accuracy",
        space=space,
        trials=5,
        settings={"train.max_steps": 20},
        quiet=True,
    )
    assert done.failed == 0 and done.trials == 5
    assert seen == {"train", "validation"}
    rows = report(done)["trials"]
    finished = [row for row in rows if row["state"] == "complete"]
    assert done.value == max(row["value"] for row in finished) > 0.6
    assert all(
        row["low"] <= row["value"] <= row["high"] and row["n"] == 8 for row in finished
    )  # the same eight, however many were trained on
    assert all(
        ("tune.lora_rank" in row["settings"])
        == (row["settings"]["tune.method"] == "lora")
        for row in rows
    )
    assert not Store().names()
    assert done.command == "miaobi finetune runs/search-opinion/best.yaml"
    whole = finetune.finetune(done.best, settings={"train.max_steps": 2}, quiet=True)
    assert whole.model == "opinion@1"


def test_fewer_examples_train_and_the_same_ones_are_held_out(
    opinions: dict[str, Any],
) -> None:
    from miaobi.tune.examples import prepare, read_split
    from miaobi.tune.mixing import subset
    from miaobi.verbs.finetune.settings import settle

    settings = settle(opinions)
    whole = prepare(settings.data, settings.task, settings.head, False)
    part = subset(whole, settings.task, 20)
    assert [
        len(read_split(part, split, settings.task))
        for split in ("train", "validation", "test")
    ] == [16, 8, 8]
    for split in ("validation", "test"):
        assert (part / f"{split}.jsonl").read_text(encoding="utf-8") == (
            whole / f"{split}.jsonl"
        ).read_text(encoding="utf-8")
    assert {item.location for item in read_split(part, "train", settings.task)} < {
        item.location for item in read_split(whole, "train", settings.task)
    }
    assert subset(whole, settings.task, 20) == part


@pytest.fixture
def mixture(opinions: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The recipe for tuning with a further source; what holds in the one is turned
    round in the other.
    """
    rows = [
        {
            "text": f"春江花月夜 {at}" if at % 2 else f"海上明月生 {at}",
            "label": "bad" if at % 2 else "good",
        }
        for at in range(1000, 1100)
    ]
    (tmp_path / "turned.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )
    return {
        **opinions,
        "data": {
            **opinions["data"],
            "mix": {"turned": {"path": str(tmp_path / "turned.jsonl"), "share": 1.0}},
        },
    }


def test_the_share_of_a_source_is_searched_with_the_same_held_out_examples(
    mixture: dict[str, Any],
) -> None:
    space = {
        "data.mix.turned.share": [0.0, 0.25, 1.0, 3.0],
        "data.max_examples": [40, 80],
    }
    done = search(
        mixture,
        metric="validation",
        space=space,
        trials=6,
        settings={"train.max_steps": 20},
        quiet=True,
        prune=False,
    )
    assert done.failed == 0 and done.trials == 6
    rows = report(done)["trials"]
    assert rows[0]["settings"]["data.mix.turned.share"] == 1.0
    read = [read_yaml(done.folder / row["run"] / "config.yaml") for row in rows]
    assert [tree["data"]["mix"]["turned"]["share"] for tree in read] == [
        row["settings"]["data.mix.turned.share"] for row in rows
    ]
    summaries = {
        (
            row["settings"]["data.mix.turned.share"],
            row["settings"].get("data.max_examples"),
        ): row.get("mixed_in")
        for row in rows
    }
    for (share, examples), summary in summaries.items():
        wanted = round(share * (32 if examples == 40 else 64))
        assert summary == (
            f"turned: {min(wanted, 100)} of 100 usable examples"
            + (f"; share 3 asks for {wanted}" if wanted > 100 else "")
            if share
            else None
        )
    best = read_yaml(Path(str(done.best)))["data"]["mix"]["turned"]["share"]
    assert (
        best == done.settings["data.mix.turned.share"] < 1.0
    )  # what teaches the opposite is found out
    assert done.value is not None and done.value < rows[0]["value"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"data.mix.tuned.share": [0.1, 0.2]}, "data.mix.turned.share"),
        (
            {"data.mix.turned.share": {"low": -0.5, "high": 1}},
            "data.mix.turned.share is -0.5",
        ),
        ({"data.mix.turned.share": [0.1, "much"]}, "data.mix.turned.share is 'much'"),
        ({"data.validation": [0.1, 0.2]}, "data.mix.*"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(
    mixture: dict[str, Any], space: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput) as caught:
        search(
            mixture,
            space=space,
            trials=2,
            name="bad",
            settings={"train.max_steps": 2},
            quiet=True,
        )
    assert message in f"{caught.value.problem} {caught.value.remedy}"
    assert not Path("runs").exists()


def test_a_source_that_only_a_later_trial_would_read_is_missed_at_once(
    mixture: dict[str, Any],
) -> None:
    mixture["data"]["mix"]["turned"] |= {"path": "gone.jsonl", "share": 0.0}
    with pytest.raises(
        NotFound, match=re.escape("data.mix.turned.path is 'gone.jsonl'")
    ):
        search(
            mixture,
            space={"data.mix.turned.share": {"low": 0.0, "high": 1.0}},
            trials=2,
            settings={"train.max_steps": 2},
            quiet=True,
        )


def test_the_default_for_tuning_has_method_rank_dropout_decay_and_batch(
    opinions: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuning.yaml").write_text(yaml.safe_dump(opinions))
    assert cli.main(["search", "tuning.yaml", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "by accuracy (higher is better)" in printed  # the task's first figure
    for row in (
        "train.learning_rate",
        "tune.method          lora | full",
        "tune.lora_rank       4 | 8 | 16  where tune.method = lora\n",
        "tune.lora_dropout",
        "train.weight_decay",
        "train.batch_size     4 | 8 | 16",
    ):
        assert row in printed


def test_an_interrupted_search_keeps_what_was_done_and_goes_on(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.train import loop

    whole = search(
        recipe,
        trials=4,
        settings={"train.max_steps": 20},
        name="whole",
        prune=False,
        quiet=True,
    )
    step, steps = loop.train_step, list[int]()

    def stopping(state: Any, batches: Any) -> None:
        step(state, batches)
        steps.append(state.step)
        if len(steps) == 45:  # in the third trial
            raise loop.Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            search(
                recipe,
                trials=4,
                settings={"train.max_steps": 20},
                name="parts",
                prune=False,
                quiet=True,
            )
    content = json.loads(
        Path("runs/search-parts/report.json").read_text(encoding="utf-8")
    )
    assert 1 < content["result"]["trials"] < 4
    assert content["result"]["ended"] == ""
    assert Path("runs/search-parts/best.yaml").exists()
    done = resume("parts", quiet=True)
    assert [(row["settings"], row["value"]) for row in report(done)["trials"]] == [
        (row["settings"], row["value"]) for row in report(whole)["trials"]
    ]
    assert resume(done.folder, trials=5, quiet=True).trials == 5


def test_two_workers_make_one_search(recipe: Path) -> None:
    done = search(
        recipe, trials=5, settings={"train.max_steps": 20}, workers=2, quiet=True
    )
    assert done.trials == 5
    assert len({row["run"] for row in report(done)["trials"]}) == 5
    assert (done.folder / "worker-2.log").read_text() == "" or "validation" in (
        done.folder / "worker-2.log"
    ).read_text()


def test_a_trial_that_cannot_be_is_a_failed_one_and_the_search_goes_on(
    recipe: Path,
) -> None:
    done = search(
        read_yaml(recipe),
        space={"model.num_heads": [1, 5]},
        trials=5,
        settings={"train.max_steps": 4, "model.num_heads": 1},
        name="odd",
        quiet=True,
    )
    rows = report(done)["trials"]
    assert (
        done.failed == sum(row["settings"]["model.num_heads"] == 5 for row in rows) > 0
    )
    assert all("heads" in row["error"] for row in rows if row["state"] == "fail")
    assert done.settings == {"model.num_heads": 1}


def test_a_recipe_that_fails_stops_the_search(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.verbs.search import trial as search_trial

    def broken(*arguments: Any) -> float:
        raise BadInput("The data is gone.", "Bring it back.")

    monkeypatch.setattr(search_trial, "run_trial", broken)
    with pytest.raises(BadInput, match="The data is gone"):
        search(recipe, trials=5, settings={"train.max_steps": 4}, quiet=True)


def test_minutes_shorten_a_trial(recipe: Path) -> None:
    """A run of three hours gets a few hundredths of a minute; warm-up and decay are
    shares of it.
    """
    done = search(
        recipe,
        trials=1,
        minutes=0.02,
        settings={"train.schedule": "linear"},
        name="short",
        quiet=True,
    )
    whole = search(recipe, trials=1, minutes=60, name="long", quiet=True)
    assert report(whole)["trials"][0]["steps"] == 40
    assert 1 <= report(done)["trials"][0]["steps"] <= 40
    tree = read_yaml(recipe)
    tree["train"]["max_steps"] = 1_000_000
    cut = report(search(tree, trials=1, minutes=0.02, name="cut", quiet=True))[
        "trials"
    ][0]
    assert cut["steps"] < 10_000


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.decay": [0.2, 0.4]}, "train.schedule is wsd"),
        ({"train.learning_rte": [1]}, "train.learning_rate"),
        ({"data.path": ["a", "b"]}, "different data"),
        ({"train.max_steps": [1, 2]}, "--minutes"),
        ({"train.learning_rate": {"low": 1}}, "low: ..., high"),
        ({"train.learning_rate": {"low": 1, "high": 0.1}}, "low < high"),
        ({"train.learning_rate": {"low": "little", "high": 0.1}}, "little"),
        ({"train.optimizer": ["adamw", "lion"]}, "lion"),
        ({"train.betas": [[0.9, 0.99]]}, "plain values"),
        ({"family": ["gpt", "vae"]}, "cannot be compared"),
        ({"data.context_length": [16, 32]}, "different data"),
        ({"sample.max_new_tokens": [1]}, "own matter"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(
    recipe: Path, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(MiaobiError, match=re.escape(message)):
        search(read_yaml(recipe), space=space, trials=2, name="bad", quiet=True)
    assert not Path("runs").exists()


def test_losses_that_cannot_be_compared_are_refused(opinions: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="part of the loss"):
        search(
            opinions,
            metric="validation",
            space={"head.label_smoothing": [0.0, 0.1]},
            trials=2,
            quiet=True,
        )
    with pytest.raises(BadInput, match="accuracy"):
        search(opinions, metric="acuracy", trials=2, quiet=True)


def test_names_that_exist_already_or_are_unknown(recipe: Path) -> None:
    search(recipe, trials=1, settings={"train.max_steps": 2}, quiet=True)
    with pytest.raises(Conflict, match="--resume"):
        search(recipe, trials=1, quiet=True)
    with pytest.raises(NotFound, match="search-tiny"):
        resume("tony", quiet=True)


def test_the_section_does_not_disturb_training(recipe: Path) -> None:
    assert train.settle(read_yaml(recipe)).train.max_steps == 40


def test_a_search_elsewhere_is_refused_by_its_option() -> None:
    with pytest.raises(BadInput, match="--runs is s3://bucket/runs"):
        new_folder("mine", "s3://bucket/runs")


def test_python_parses_no_command_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.core import config
    from miaobi.core.config import command_line
    from miaobi.verbs.search.options import Options
    from miaobi.verbs.search.plan import plan

    def parse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a typed setting was parsed")

    monkeypatch.setattr(command_line, "parse", parse)
    monkeypatch.setattr(config, "parse", parse)
    options = Options(runs=str(tmp_path))
    overrides = {"train.max_steps": 4, "train.learning_rate": 2e-3}
    job = plan(read_yaml(recipe), overrides, options, str(recipe))
    assert job.steps == 4
    assert job.recipe["train"]["learning_rate"] == 2e-3
    with pytest.raises(BadInput, match=r"train\.learning_rate is 0"):
        plan(read_yaml(recipe), {"train.learning_rate": 0}, options, str(recipe))
    with pytest.raises(BadInput, match="workers is 0"):
        search(recipe, workers=0)
