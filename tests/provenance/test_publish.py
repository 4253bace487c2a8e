"""Generated text leaves labelled, whole or not at all, in each format."""

import json
from pathlib import Path

import numpy as np
import pytest

from miaobi.core.artifacts import Audio, Facts, Text
from miaobi.core.errors import Unsupported
from miaobi.provenance.label import NOTICE
from miaobi.provenance.publish import publish

FACTS = Facts(
    "poet",
    "2",
    "native",
    "abc123",
    7,
    {"temperature": 0.5},
    "2026-11-21T00:00:00+00:00",
)
TEXTS = [Text("春江潮水", FACTS), Text("明月", FACTS, "length")]


def test_txt_says_what_it_is(tmp_path: Path) -> None:
    lines = publish(TEXTS, tmp_path / "a.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "春江潮水"
    assert lines[-1] == f"{NOTICE} · poet@2 · 2026-11-21T00:00:00+00:00 · abc123"


def test_md_has_its_facts_in_front(tmp_path: Path) -> None:
    import yaml

    path = publish(TEXTS[0], tmp_path / "a.md")
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["model"] == "poet"
    assert facts["seed"] == 7
    assert facts["parameters"] == {"temperature": 0.5}
    assert facts["notice"] == NOTICE
    assert NOTICE in body
    assert "春江潮水" in body


def test_json_and_jsonl_hold_everything(tmp_path: Path) -> None:
    path = publish(TEXTS[0], tmp_path / "a.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["text"] == "春江潮水"
    assert record["request_id"] == "abc123"
    assert record["notice"] == NOTICE
    assert record["finish"] == "stop"
    path = publish(TEXTS, tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["finish"] for row in rows] == ["stop", "length"]


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="Audio"):
        publish(Audio(np.zeros((1, 2), np.float32), 16000, FACTS), tmp_path / "a.txt")
    with pytest.raises(Unsupported, match=r"\.pdf"):
        publish(TEXTS[0], tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())
