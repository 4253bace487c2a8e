"""What a person sees of data: the packs, a file's content, its problems."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from miaobi.core.errors import BadInput, NotFound
from miaobi.verbs import data


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "my.jsonl"
    turn = {"messages": [{"role": "user", "content": "想退货"}, {"role": "assistant", "content": "请在订单页申请。"}]}
    lines = [json.dumps(turn), json.dumps({"instruction": "a", "input": "", "output": "b"}), json.dumps(turn), '{"text": "cut', '{"foo": 1}']
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_inspect_counts_and_shows(chats: Path) -> None:
    found = data.inspect(chats)
    assert found.encodings == {"UTF-8": 1}
    assert found.shapes == {"messages": 2, "alpaca": 1}
    assert (found.documents, found.duplicates, found.problems, len(found.examples)) == (3, 1, 2, 2)
    whole = len("user\n想退货\nassistant\n请在订单页申请。\n"), len("user\na\nassistant\nb\n")
    assert found.tokens_char == 2 * whole[0] + whole[1] + 3 * 4 + 3
    shown = str(found)
    assert f"{chats}:4: not valid JSON" in shown
    assert "my.jsonl:5: no text found" in shown
    assert "想退货" in shown
    assert found.lengths["min"] <= found.lengths["p50"] <= found.lengths["max"]


def test_strict_stops_at_the_first_problem(chats: Path) -> None:
    with pytest.raises(BadInput, match=r"my\.jsonl:4"):
        data.inspect(chats, strict=True)


def test_inspect_tells_encodings_and_long_texts(tmp_path: Path) -> None:
    text = "春眠不觉晓\n" * 300_000
    (tmp_path / "a.txt").write_bytes(text.encode("gb18030"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one"))
    found = data.inspect(tmp_path)
    assert found.encodings == {"GB18030": 1, "UTF-8": 1}
    assert found.documents == 2
    assert found.duplicates == 0
    assert found.characters == len(text) + 3
    assert found.lengths["max"] == len(text)


def test_inspect_with_a_separator_and_a_column(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a\n\nb\n\na")
    assert (data.inspect(tmp_path / "x.txt", separator="\\n\\n").documents, data.inspect(tmp_path / "x.txt").documents) == (3, 1)
    (tmp_path / "x.csv").write_text("id,review\n1,good\n")
    assert data.inspect(tmp_path / "x.csv", text_column="review").examples == ("good",)


def test_missing_files() -> None:
    with pytest.raises(NotFound, match="no file"):
        data.inspect(Path("nowhere.txt"))


def test_packs_are_listed_and_fetched(pack: Callable[[str], Path]) -> None:
    pack("tang-poems")
    rows = {row["name"]: row for row in data.list_packs().packs}
    assert rows["tang-poems"]["path"]
    assert "smollm2" in rows
    assert "MIT" in str(data.list_packs())
    fetched = data.fetch("tang-poems")
    assert fetched.path.is_dir()
    assert "licence" in str(fetched)
    with pytest.raises(NotFound, match="Did you mean tang-poems"):
        data.fetch("tang-poem")
