"""The latent lab on sentences, as a person uses it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from tests.engines.sentences import TEXTS, sentence_bundle
from tests.engines.small import small_bundle

from miaobi import cli
from miaobi.core.errors import BadInput, Unsupported
from miaobi.verbs import latent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sentence_bundle(tmp_path_factory.mktemp("sentences") / "bundle"))


def test_a_path_leads_from_sentence_to_sentence(model: str, tmp_path: Path) -> None:
    out = tmp_path / "path.json"
    result = latent.interpolate(
        model=model, prompt=TEXTS[0], to=TEXTS[3], frames=9, out=out
    )
    texts = result.measured["texts"]
    assert len(texts) == 9
    assert texts[0].startswith("she") and texts[-1].startswith("he")
    lines = result.summary.split("\n")
    assert lines[0] == f"0.00  {texts[0]}"
    assert len(lines) == 1 + sum(a != b for a, b in pairwise(texts))
    record = json.loads(out.read_text(encoding="utf-8"))
    record = record[0] if isinstance(record, list) else record
    assert record["text"] == result.summary and "AI" in record["notice"]


def test_a_sentence_is_restored(model: str, tmp_path: Path) -> None:
    result = latent.reconstruct(model=model, prompt=TEXTS[4], out=tmp_path / "a.txt")
    assert result.summary.startswith(f"{TEXTS[4]}\n→ ")
    assert len(result.measured["latent"]) == 4


def test_the_command_line(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "a.md")
    asked = ["--prompt", TEXTS[0], "--to", TEXTS[1], "--frames", "4"]
    code = cli.main(["latent", "interpolate", "--model", model, "--out", out, *asked])
    assert code == 0 and capsys.readouterr().out.startswith("0.00  ")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": "she came"}, "go together"),
        ({"to": "she came"}, "go together"),
        ({"prompt": "", "to": "she came"}, "prompt is empty"),
        ({"prompt": "she came", "to": "  \n"}, "to is empty"),
        ({"prompt": "she came", "to": "she " * 20}, "tokens"),
    ],
)
def test_bad_sentences_are_named(
    model: str, asked: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        latent.interpolate(model=model, out=tmp_path / "x.txt", **asked)
    assert not (tmp_path / "x.txt").exists()


def test_models_of_another_kind_are_refused(model: str, tmp_path: Path) -> None:
    poet = str(small_bundle(tmp_path / "poet"))
    with pytest.raises(Unsupported, match="no model of sentences"):
        latent.interpolate(model=poet, prompt="a", to="b")
    with pytest.raises(Unsupported, match="picture model") as refused:
        latent.interpolate(model=model)
    assert "--prompt" in str(refused.value.remedy)
    with pytest.raises(Unsupported, match="png"):
        latent.reconstruct(model=model, prompt="she", out=tmp_path / "a.png")
