"""`miaobi data`: the packs, the content of files, and their problems."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from miaobi.core.errors import BadInput, NotFound
from miaobi.data import datasets
from miaobi.data.image.survey import PictureSurvey
from miaobi.data.text.survey import TextSurvey
from miaobi.tune.guess import guess
from miaobi.verbs import data


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "my.jsonl"
    turn = {
        "messages": [
            {"role": "user", "content": "想退货"},
            {"role": "assistant", "content": "请在订单页申请。"},
        ]
    }
    records = [
        json.dumps(turn),
        json.dumps({"instruction": "a", "input": "", "output": "b"}),
        json.dumps(turn),
        '{"text": "cut',
        '{"foo": 1}',
    ]
    path.write_text("\n".join(records), encoding="utf-8")
    return path


def test_inspect_counts_and_shows(chats: Path) -> None:
    content = data.inspect(chats)
    assert isinstance(content, TextSurvey)
    assert content.encodings == {"UTF-8": 1}
    assert content.shapes == {"messages": 2, "alpaca": 1}
    assert (
        content.documents,
        content.duplicates,
        content.problems,
        len(content.examples),
    ) == (
        3,
        1,
        2,
        2,
    )
    whole = (
        len("user\n想退货\nassistant\n请在订单页申请。\n"),
        len("user\na\nassistant\nb\n"),
    )
    assert content.tokens_char == 2 * whole[0] + whole[1] + 3 * 4 + 3
    printed = str(content)
    assert f"{chats}:4: not valid JSON" in printed
    assert "my.jsonl:5: no text found" in printed
    assert "想退货" in printed
    assert content.lengths["min"] <= content.lengths["p50"] <= content.lengths["max"]


def test_strict_stops_at_the_first_problem(chats: Path) -> None:
    with pytest.raises(BadInput, match=r"my\.jsonl:4"):
        data.inspect(chats, strict=True)


def test_inspect_reports_encodings_and_long_texts(tmp_path: Path) -> None:
    text = "春眠不觉晓\n" * 300_000
    (tmp_path / "a.txt").write_bytes(text.encode("gb18030"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one"))
    content = data.inspect(tmp_path)
    assert content.encodings == {"GB18030": 1, "UTF-8": 1}
    assert content.documents == 2
    assert content.duplicates == 0
    assert content.characters == len(text) + 3
    assert content.lengths["max"] == len(text)


def test_inspect_with_a_separator_and_a_column(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a\n\nb\n\na")
    assert (
        data.inspect(tmp_path / "x.txt", separator="\\n\\n").documents,
        data.inspect(tmp_path / "x.txt").documents,
    ) == (3, 1)
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


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures of two classes, one of them twice, and three files with faults."""
    folder = tmp_path / "photos"
    for number, name in enumerate(
        ("fox/a.png", "fox/b.jpg", "hen/c.png", "hen/d.webp")
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(
            0, 256, (5, 5, 3), dtype=np.uint8
        )
        Image.fromarray(noise).resize((40, 30 + number % 2)).save(folder / name)
    (folder / "fox" / "copy.png").write_bytes((folder / "fox" / "a.png").read_bytes())
    (folder / "hen" / "empty.png").touch()
    (folder / "hen" / "cut.jpg").write_bytes(
        (folder / "fox" / "b.jpg").read_bytes()[:300]
    )
    (folder / "fox" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    return folder


def test_inspect_pictures(photos: Path) -> None:
    content = data.inspect(photos)
    assert isinstance(content, PictureSurvey)
    assert (
        content.layout,
        content.pictures,
        content.duplicates,
        content.near_duplicates,
        content.problems,
    ) == ("folder", 5, 1, 0, 3)
    assert content.sizes == {"40×30": 3, "40×31": 2}
    assert content.kinds == {"PNG RGB": 3, "JPEG RGB": 1, "WEBP RGB": 1}
    assert content.classes == {"fox": 3, "hen": 2}
    printed = str(content)
    for sentence in (
        "empty.png: it is empty (zero bytes).",
        "cut.jpg: ",
        "phone.heic: it is not a picture in a format read here",
        "fox (3), hen (2)",
    ):
        assert sentence in printed
    with pytest.raises(BadInput, match=r"phone\.heic|empty\.png|cut\.jpg"):
        data.inspect(photos, strict=True)
    with pytest.raises(
        BadInput, match="separator does not apply to the data set pictures"
    ):
        data.inspect(photos, separator="\\n")


def test_inspect_captions(photos: Path) -> None:
    records = [
        {"file_name": "fox/a.png", "en": "a fox", "zh": "狐狸"},
        {"file_name": "fox/gone.png", "en": "x", "zh": "y"},
    ]
    (photos / "metadata.jsonl").write_text(
        "\n".join(map(json.dumps, records)), encoding="utf-8"
    )
    content = data.inspect(photos)
    assert (content.captions, content.examples) == (1, ("a fox",))
    assert content.classes == {"fox": 3, "hen": 2}, "captions do not cost the classes"
    assert "describes 'fox/gone.png', which is not there" in str(content)
    assert "fox/b.jpg: no metadata describes it" in str(content)


def test_inspect_idx(pack: Callable[[str], Path]) -> None:
    pack("fashion")
    folder = pack("fashion") / "usr/share/datasets/fashion-mnist"
    content = data.inspect(folder / "t10k-images-idx3-ubyte.gz")
    assert (
        content.layout,
        content.pictures,
        content.splits,
        set(content.classes.values()),
    ) == ("idx", 10_000, {"test": 10_000}, {1000})
    assert list(content.classes) == [str(number) for number in range(10)]


def test_what_no_data_set_holds(tmp_path: Path) -> None:
    path = tmp_path / "numbers.bin"
    path.write_bytes(b"\0\1\2")
    with pytest.raises(BadInput, match="no data that a data set reads") as caught:
        data.inspect(path)
    for name in datasets.names():
        assert f"({name})" in str(caught.value.remedy)


def test_the_encoding_is_named_by_the_option_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nEin Café.,a\n".encode("cp1252"))
    with pytest.raises(BadInput) as caught:
        data.inspect(path)
    assert " --encoding cp1252  'Ein Café.,a'" in caught.value.remedy
    assert caught.value.field == "encoding"
    with pytest.raises(BadInput) as caught:
        guess(str(path), "")
    assert " --data.encoding cp1252  'Ein Café.,a'" in caught.value.remedy
    content = data.inspect(path, encoding="cp1252")
    assert content.encodings == {"CP1252": 1}  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="^encoding is 'cp1525'"):
        data.inspect(path, encoding="cp1525")


def test_a_damaged_text_file_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "numbers.txt"
    path.write_bytes(b"\0\1\2")
    with pytest.raises(BadInput, match="not text: it holds zero bytes"):
        data.inspect(path)


@dataclass(frozen=True)
class Notes:
    """A survey of another package's data."""

    path: Path
    count: int


def test_a_data_set_of_another_package_inspects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("toy_notes")
    module.holds = lambda path: path.suffix == ".notes"  # type: ignore[attr-defined]
    module.inspect = lambda path, *, strict: Notes(  # type: ignore[attr-defined]
        path, len(path.read_text().split())
    )
    monkeypatch.setitem(sys.modules, "toy_notes", module)
    entry = EntryPoint("notes", "toy_notes", datasets.group)
    monkeypatch.setitem(datasets._entries, "notes", entry)
    path = tmp_path / "song.notes"
    path.write_text("c d e")
    assert data.inspect(path) == Notes(path, 3)
    with pytest.raises(BadInput, match="text_column does not apply to the data set n"):
        data.inspect(path, text_column="x")
