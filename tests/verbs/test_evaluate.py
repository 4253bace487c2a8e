"""`miaobi evaluate` from end to end, on a small model with its own data, and on one
whose data is not known.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.engines.small import POEM, small_bundle, small_tokenizer, trained

from miaobi.core import bundle
from miaobi.core.errors import BadInput
from miaobi.core.store import Store
from miaobi.data.text import tokens
from miaobi.families import gpt
from miaobi.verbs.evaluate import evaluate


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def data(tmp_path: Path) -> tokens.Tokens:
    """The poem's own sentences many times over, some held out."""
    text = tmp_path / "poems.txt"
    lines = [line + "。" for line in POEM.split("。") if line.strip()]
    text.write_text(
        "\n\n".join(f"{line}{number}" for number in range(12) for line in lines),
        encoding="utf-8",
    )
    return tokens.prepare(
        tokens.Config(
            path=str(text), separator="\n\n", validation=0.3, context_length=64
        ),
        progress=False,
    )


def stored(
    name: str, objective: torch.nn.Module, data: tokens.Tokens, tmp_path: Path
) -> str:
    def save(folder: Path) -> None:
        gpt.save(objective, folder)
        data.save(folder)

    manifest = bundle.Manifest(
        "gpt",
        "text",
        {"data": {"context_length": 64}},
        {"folder": str(data.folder), "fingerprint": data.fingerprint},
    )
    return str(
        Store().add(bundle.write(tmp_path / f"{name}-bundle", manifest, save), name)
    )


@pytest.fixture
def poet(data: tokens.Tokens, tmp_path: Path) -> str:
    assert data.spec.vocab_size == small_tokenizer().vocab_size
    return stored("poet", trained("gpt"), data, tmp_path)


def test_everything_is_measured_and_written(poet: str) -> None:
    evaluation = evaluate("poet", samples=6, limit=20)
    names = [score.name for score in evaluation.scores]
    assert names[:2] == ["perplexity", "bits_per_byte"] and {
        "distinct_2",
        "repetition",
        "longest_copy",
        "copied_share",
    } <= set(names)
    assert not evaluation.judged[0].missing and evaluation.judged[0].documents == 20
    assert evaluation.page == Path(
        "runs/evaluate/poet/index.html"
    ) and "AI-generated" in evaluation.page.read_text(encoding="utf-8")
    report = json.loads(
        (evaluation.page.parent / "report.json").read_text(encoding="utf-8")
    )
    assert (
        report["judged"][0]["scores"][0]["name"] == "perplexity"
        and len(report["judged"][0]["samples"]) == 6
    )
    assert "Perplexity" in str(evaluation) and str(evaluation.page) in str(evaluation)


def test_a_second_evaluation_leaves_the_report_of_the_first(poet: str) -> None:
    first = evaluate("poet", samples=1, limit=2)
    content = first.page.read_bytes()
    second = evaluate("poet", samples=1, limit=3)
    assert second.page == Path("runs/evaluate/poet-2/index.html")
    assert first.page.read_bytes() == content
    rows = Store().scores(Store().resolve("poet"))
    perplexity = next(row for row in rows if row["name"] == "perplexity")
    assert perplexity["low"] <= perplexity["value"] <= perplexity["high"]
    assert perplexity["n"] == 3 and set(perplexity["label"]) == {"en", "zh"}


def test_an_untrained_model_is_as_perplexed_as_its_vocabulary_is_large(
    data: tokens.Tokens, tmp_path: Path
) -> None:
    """gpt starts with every token alike: its output layer is zero."""
    stored(
        "blank",
        gpt.build(gpt.Config(num_layers=1, hidden_size=32), data.spec),
        data,
        tmp_path,
    )
    evaluation = evaluate("blank", samples=1, limit=10)
    assert evaluation.scores[0].value == pytest.approx(data.spec.vocab_size, rel=1e-4)


def test_the_same_seed_gives_the_same_report(poet: str) -> None:
    first, again = (evaluate("poet", samples=4, limit=10, seed=3) for _ in range(2))
    assert (
        first.scores == again.scores
        and first.judged[0].samples == again.judged[0].samples
    )


def test_two_models_side_by_side_on_the_same_text(poet: str, tmp_path: Path) -> None:
    Store().add(small_bundle(tmp_path / "other"), "other")
    evaluation = evaluate(
        "poet", against="other", samples=4, limit=10, out=Path("here")
    )
    ours, theirs = evaluation.judged
    assert (ours.model, theirs.model) == (
        "poet@1",
        "other@1",
    ) and ours.documents == theirs.documents
    assert [one.prompt for one in ours.samples] == [
        one.prompt for one in theirs.samples
    ]
    assert [item.metric for item in theirs.missing] == ["memorisation"]
    assert "other@1" in str(evaluation) and Path("here/index.html").exists()


def test_without_data_it_says_what_cannot_be_measured(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "m")
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    evaluation = evaluate(str(folder), samples=2)
    assert {item.metric for item in evaluation.judged[0].missing} == {
        "likelihood",
        "memorisation",
    }
    assert "--data" in str(evaluation)


def test_held_out_text_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_bundle(tmp_path / "m")
    data = tmp_path / "held.jsonl"
    data.write_text(
        "".join(
            json.dumps({"text": f"江天一色无纤尘{number}"}, ensure_ascii=False) + "\n"
            for number in range(9)
        )
        + "{broken\n",
        encoding="utf-8",
    )
    evaluation = evaluate(str(folder), samples=2, data=data)
    assert evaluation.scores[0].name == "perplexity" and evaluation.scores[0].n == 9
    assert [item.metric for item in evaluation.judged[0].missing] == ["memorisation"]
    assert "Not measurable" in str(evaluation)
    progress = capsys.readouterr().err.splitlines()
    assert "m: likelihood  100%" in progress, "shown where there is no terminal too"


def test_a_model_is_not_set_beside_itself(poet: str) -> None:
    with pytest.raises(BadInput, match="same model"):
        evaluate("poet", against="poet@1")


def test_an_extractor_is_for_pictures(poet: str) -> None:
    with pytest.raises(BadInput, match="extractor is for pictures"):
        evaluate("poet", extractor="efficientnet-lite0")
