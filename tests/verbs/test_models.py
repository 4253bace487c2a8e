from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from miaobi import cli
from miaobi.core import bundle
from miaobi.core.store import Store


@pytest.fixture(autouse=True)
def poets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    source = bundle.write(
        tmp_path / "source",
        bundle.Manifest(
            "gpt",
            "text",
            metrics={"validation_loss": 4.25},
            data={"source": "poems", "fingerprint": "ab"},
        ),
        lambda folder: save_file({"w": np.zeros(4)}, folder / "model.safetensors"),
    )
    for _ in range(2):
        Store().add(source, "poet")


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert cli.main(["models", *argv]) == 0
    return capsys.readouterr().out


def test_story(capsys: pytest.CaptureFixture[str]) -> None:
    assert "poet@2" in run(capsys, "list")
    card = run(capsys, "show", "poet")
    assert "poet@2" in card
    assert "validation_loss 4.25" in card
    assert "poet now means poet@1" in run(capsys, "promote", "poet@1")
    run(capsys, "promote", "poet@2")
    assert "poet means poet@1 again" in run(capsys, "rollback", "poet")
    assert "Removed poet@2" in run(capsys, "remove", "poet@2")
    rows = json.loads(run(capsys, "list", "--json"))["models"]
    assert [(row["model"], row["alias"]) for row in rows] == [
        ("poet@1", "production latest")
    ]


def test_an_empty_store_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    Store().remove("poet")
    assert "miaobi train" in run(capsys, "list")
