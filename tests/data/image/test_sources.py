"""Where pictures come from: folders, classes, metadata, pairs, Parquet, Arrow, IDX;
each fault in them is named.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import ipc, parquet

from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.data import readers
from miaobi.data.encoding import Problem
from miaobi.data.image import idx
from miaobi.data.image import loaders as image_loaders
from miaobi.data.image import sources as picture_sources
from miaobi.data.image.prepared import Config, prepare
from miaobi.data.image.record import Picture
from miaobi.data.text import loaders as text_loaders


def paint(path: Path, level: int = 0, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (level, 0, 0)).save(path)
    return path


def encoded(level: int) -> bytes:
    held = io.BytesIO()
    Image.new("L", (8, 8), level).save(held, "PNG")
    return held.getvalue()


def read(path: Path, **how: Any) -> tuple[list[Picture], list[str]]:
    """(pictures, problems) as training reads them."""
    problems = list[Problem]()
    items = list(
        picture_sources.pictures(Config(path=str(path), **how), problems.append)
    )
    assert all(problem.remedy for problem in problems)
    return items, [str(problem) for problem in problems]


def test_a_folder_in_any_depth(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", ".hidden/x.png", "__MACOSX/a.png"):
        paint(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    items, problems = read(tmp_path)
    assert [picture.name for picture in items] == ["a.jpg", "b.PNG", "deep/er/c.webp"]
    assert {picture.label for picture in items} == {None}
    assert not problems


def test_class_folders_and_splits(tmp_path: Path) -> None:
    for name in (
        "train/cat/1.png",
        "train/dog/1.png",
        "test/cat/2.png",
        "val/dog/3.png",
    ):
        paint(tmp_path / name)
    items, _ = read(tmp_path)
    assert {(picture.name, picture.label, picture.split) for picture in items} == {
        ("train/cat/1.png", "cat", "train"),
        ("train/dog/1.png", "dog", "train"),
        ("test/cat/2.png", "cat", "test"),
        ("val/dog/3.png", "dog", "validation"),
    }


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert [picture.name for picture in read(tmp_path)[0]] == ["a.png", "phone.heic"], (
        "decoding names it as a problem"
    )


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_and_their_faults(tmp_path: Path, kind: str) -> None:
    for name in ("a.png", "deep/b.png", "lonely.png"):
        paint(tmp_path / name)
    rows = [
        {"file_name": "a.png", "text": '红狐狸, "quoted"', "label": "fox"},
        {"file_name": "deep\\b.png", "text": "b", "label": "hen"},
        {"file_name": "c.png", "text": "c", "label": "fox"},
        {"file_name": "./a.png", "text": "again", "label": ""},
        {"file_name": "../x.png", "text": "x", "label": ""},
        {"file_name": "", "text": "nameless", "label": ""},
    ]
    with (tmp_path / f"metadata.{kind}").open(
        "w", encoding="utf-8", newline=""
    ) as file:
        if kind == "csv":
            writer = csv.DictWriter(file, ["file_name", "text", "label"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.write("\n".join(json.dumps(row) for row in rows))
    items, problems = read(tmp_path)
    assert [
        (picture.name, picture.meta.get("text"), picture.label) for picture in items
    ] == [
        ("a.png", '红狐狸, "quoted"', "fox"),
        ("deep/b.png", "b", "hen"),
        ("lonely.png", None, None),
    ]
    first = 2 if kind == "csv" else 1
    table = f"{tmp_path}/metadata.{kind}:"
    assert problems == [
        f"{table}{first + 3}: './a.png' is described twice, first in line {first}.",
        f"{table}{first + 4}: '../x.png' points outside the folder.",
        f"{table}{first + 5}: there is no file_name.",
        f"{table}{first + 2}: it describes 'c.png', which is not there.",
        f"{tmp_path}/lonely.png: no metadata describes it; it is used without a caption.",
    ]
    with pytest.raises(BadInput, match="described twice"):
        list(picture_sources.pictures(Config(path=str(tmp_path), strict=True), _raise))


def _raise(problem: Problem) -> None:
    raise problem.error()


NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\:\0"),
    min_size=1,
    max_size=20,
).filter(
    lambda name: (
        not name.startswith(".") and name.strip() == name and len(name.encode()) < 120
    )
)


@settings(max_examples=60)
@given(
    NAMES,
    st.sampled_from(["NFC", "NFD"]),
    st.sampled_from(["NFC", "NFD"]),
    st.booleans(),
)
def test_any_file_name_finds_its_caption(
    name: str, on_disk: str, written: str, windows: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        paint(folder / "in" / f"{unicodedata.normalize(on_disk, name)}.png")  # type: ignore[arg-type]
        described = unicodedata.normalize(written, f"in/{name}.png")  # type: ignore[arg-type]
        described = described.replace("/", "\\") if windows else described
        (folder / "metadata.jsonl").write_text(
            json.dumps({"file_name": described, "text": "found"}), encoding="utf-8"
        )
        items, problems = read(folder)
        assert [picture.meta["text"] for picture in items] == ["found"], problems
        assert not problems


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=6,
    ),
    st.text(max_size=30),
)
def test_any_metadata_row_is_read_or_named(value: Any, name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        paint(folder / "a.png")
        rows = [
            json.dumps(value),
            json.dumps({"file_name": name, "text": value}),
            '{"file_name": "a.png"',
        ]
        (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
        items, problems = read(folder)
        assert [picture.name for picture in items] == ["a.png"]
        assert any(
            "metadata.jsonl:3: not valid JSON" in problem for problem in problems
        )


@pytest.mark.parametrize(
    "names", [("source", "target"), ("input", "output"), ("A", "B")]
)
def test_pairs(tmp_path: Path, names: tuple[str, str]) -> None:
    source, target = (tmp_path / name for name in names)
    for parent, single in ((source, "only_line"), (target, "only_colour")):
        for stem in ("1", "2", "deep/3", single):
            paint(parent / f"{stem}.png")
    paint(source / "1.bmp")
    items, problems = read(tmp_path)
    assert [(picture.name, picture.source) for picture in items] == [
        (
            f"{names[1]}/{stem}.png",
            source / (f"{stem}.bmp" if stem == "1" else f"{stem}.png"),
        )
        for stem in ("1", "2", "deep/3")
    ]
    assert problems == [
        f"{source}/1.png: 1.bmp has the same name but for its ending.",
        f"{target}/only_colour.png: it has no partner of the same name in {names[0]}/.",
        f"{source}/only_line.png: it has no partner of the same name in {names[1]}/.",
    ]


def test_pairs_within_splits_and_classes_called_a_and_b(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for side in "AB":
            paint(tmp_path / "pairs" / split / side / "1.png")
    assert [
        (picture.split, picture.name) for picture in read(tmp_path / "pairs")[0]
    ] == [("test", "test/B/1.png"), ("train", "train/B/1.png")]
    for name in ("A/1.png", "A/2.png", "B/3.png", "B/4.png"):
        paint(tmp_path / "letters" / name)
    assert [picture.label for picture in read(tmp_path / "letters")[0]] == [
        "A",
        "A",
        "B",
        "B",
    ]
    with pytest.raises(BadInput, match="holds no pairs"):
        read(tmp_path / "letters", source="pairs")


FEATURES = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
            "text": {"dtype": "string", "_type": "Value"},
        }
    }
}


def table(levels: list[int], labels: list[Any], named: bool = True) -> pyarrow.Table:
    content = pyarrow.table(
        {
            "image": [
                {"bytes": encoded(level), "path": f"{level}.png"} for level in levels
            ],
            "label": labels,
            "text": [f"level {level}" for level in levels],
        }
    )
    return (
        content.replace_schema_metadata({"huggingface": json.dumps(FEATURES)})
        if named
        else content
    )


def levels(items: list[Picture]) -> list[int]:
    return [
        int(np.asarray(Image.open(io.BytesIO(picture.content)))[0, 0])
        for picture in items
    ]  # type: ignore[arg-type]


def test_parquet_as_the_hub_stores_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# a data card")
    parquet.write_table(
        table([1, 2], [0, 1]), tmp_path / "data" / "train-00000-of-00001.parquet"
    )
    parquet.write_table(
        table([3], [1]), tmp_path / "data" / "test-00000-of-00001.parquet"
    )
    items, problems = read(tmp_path)
    assert levels(items) == [3, 1, 2]
    assert [
        (picture.split, picture.label, picture.classes, picture.meta)
        for picture in items
    ] == [
        ("test", 1, ("cat", "dog"), {"text": "level 3"}),
        ("train", 0, ("cat", "dog"), {"text": "level 1"}),
        ("train", 1, ("cat", "dog"), {"text": "level 2"}),
    ]
    assert not problems


def test_the_hub_s_cache(tmp_path: Path) -> None:
    """snapshots/HASH holds links into blobs/, whose files have no ending."""
    (tmp_path / "blobs").mkdir()
    parquet.write_table(table([4], [0]), tmp_path / "blobs" / "9f2c")
    inside = tmp_path / "snapshots" / "0a1b" / "data"
    inside.mkdir(parents=True)
    (inside / "validation-00000-of-00001.parquet").symlink_to(
        tmp_path / "blobs" / "9f2c"
    )
    items, _ = read(tmp_path / "snapshots" / "0a1b")
    assert [(picture.split, picture.label) for picture in items] == [("validation", 0)]
    assert levels(items) == [4]


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    parquet.write_table(table([1, 2, 3, 4], [0, 7, -1, 1]), tmp_path / "t.parquet")
    data = prepare(
        Config(path=str(tmp_path / "t.parquet"), validation=0, test=0), progress=False
    )
    assert data.names("train") == ["t.parquet:1", "t.parquet:4"]
    assert data.labels("train").tolist() == [0, 1]
    assert [
        problem.split("t.parquet:")[1] for problem in data.meta["problems"]["first"]
    ] == [
        "2: unknown class 7: the source names 2 classes.",
        "3: it has no class, while others have.",
    ]


def test_one_parquet_file_of_plain_bytes(tmp_path: Path) -> None:
    parquet.write_table(
        pyarrow.table(
            {
                "png": [encoded(7), None, encoded(9)],
                "caption": ["a", "b", "c"],
                "n": [1, 2, 3],
            }
        ),
        tmp_path / "mine.parquet",
    )
    items, problems = read(tmp_path / "mine.parquet")
    assert levels(items) == [7, 9]
    assert [picture.name for picture in items] == ["mine.parquet:1", "mine.parquet:3"]
    assert problems == [f"{tmp_path}/mine.parquet:2: this row has no picture."]


def test_rows_that_name_a_file(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 5)
    parquet.write_table(
        pyarrow.table(
            {
                "image": pyarrow.array(
                    [{"bytes": None, "path": "a.png"}],
                    pyarrow.struct(
                        [("bytes", pyarrow.binary()), ("path", pyarrow.string())]
                    ),
                )
            }
        ),
        tmp_path / "t.parquet",
    )
    assert read(tmp_path / "t.parquet")[0][0].content == tmp_path / "a.png"


def test_two_picture_columns_are_a_pair(tmp_path: Path) -> None:
    parquet.write_table(
        pyarrow.table({"conditioning_image": [encoded(1)], "image": [encoded(2)]}),
        tmp_path / "t.parquet",
    )
    items, _ = read(tmp_path / "t.parquet")
    assert (items[0].source, items[0].content) == (encoded(1), encoded(2))


@pytest.mark.parametrize(
    "write", [ipc.new_stream, ipc.new_file], ids=["stream", "file"]
)
def test_what_datasets_saved(tmp_path: Path, write: Any) -> None:
    """The layout of save_to_disk: a folder a split, state.json names its files; caches
    of past operations beside them do not count.
    """
    (tmp_path / "dataset_dict.json").write_text(
        json.dumps({"splits": ["train", "test"]})
    )
    for split, values in (("train", [1, 2]), ("test", [3])):
        parent = tmp_path / split
        parent.mkdir()
        (parent / "state.json").write_text(
            json.dumps(
                {
                    "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
                    "_split": split,
                }
            )
        )
        (parent / "dataset_info.json").write_text("{}")
        for name, colours in (
            ("data-00000-of-00001.arrow", values),
            ("cache-1f.arrow", [99]),
            ("old.arrow", [98]),
        ):
            content = table(colours, [0] * len(colours))
            with (
                pyarrow.OSFile(str(parent / name), "wb") as sink,
                write(sink, content.schema) as writer,
            ):
                writer.write_table(content)
    items, problems = read(tmp_path)
    assert levels(items) == [3, 1, 2]
    assert [picture.split for picture in items] == ["test", "train", "train"]
    assert items[0].classes == ("cat", "dog")
    assert not problems


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    parquet.write_table(table([1], [0]), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    items, problems = read(tmp_path)
    assert len(items) == 1
    assert len(problems) == 1
    assert "b.parquet: not a whole Parquet or Arrow file" in problems[0]
    parquet.write_table(
        pyarrow.table({"text": ["no picture"]}), tmp_path / "words.parquet"
    )
    with pytest.raises(BadInput, match="holds no pictures"):
        read(tmp_path / "words.parquet")
    with pytest.raises(BadInput, match="no column with pictures"):
        read(tmp_path / "words.parquet", source="tables")


def write_idx(path: Path, array: np.ndarray, packed: bool = False) -> Path:
    raw = (
        bytes((0, 0, 8, array.ndim))
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_idx_as_mnist_has_it(tmp_path: Path, packed: bool) -> None:
    ending = ".gz" if packed else ""
    pictures = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    for split, rows in (("train", slice(0, 2)), ("t10k", slice(2, 3))):
        write_idx(
            tmp_path / f"{split}-images-idx3-ubyte{ending}", pictures[rows], packed
        )
        write_idx(
            tmp_path / f"{split}-labels-idx1-ubyte{ending}",
            np.arange(3)[rows] + 7,
            packed,
        )
    items, problems = read(tmp_path)
    assert [(picture.split, picture.label) for picture in items] == [
        ("test", 9),
        ("train", 7),
        ("train", 8),
    ]
    np.testing.assert_array_equal(items[1].content, pictures[0])  # type: ignore[arg-type]
    assert not problems
    single, _ = read(tmp_path / f"train-images-idx3-ubyte{ending}")
    assert [picture.label for picture in single] == [7, 8]


def test_idx_in_its_other_spelling_and_its_faults(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images.idx3-ubyte", np.zeros((2, 4, 4)))
    labels = write_idx(tmp_path / "train-labels.idx1-ubyte", np.zeros(3))
    items, problems = read(tmp_path)
    assert [picture.label for picture in items] == [None, None]
    assert problems == [
        f"{tmp_path}/train-images.idx3-ubyte: 2 pictures, but train-labels.idx1-ubyte has 3 labels."
    ]
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(Damaged, match="holds 2 values where its header says 3"):
        read(tmp_path)
    (tmp_path / "x").write_bytes(b"GIF89a")
    with pytest.raises(Damaged, match="not an IDX file"):
        idx.read_array(tmp_path / "x")


@given(st.binary(max_size=64))
def test_any_bytes_are_idx_or_damaged(noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x"
        for start in (b"", b"\0\0\x08\x01", b"\0\0\x08\x03\0\0\0\x01"):
            path.write_bytes(start + noise)
            try:
                items = idx.read_array(path)
            except Damaged:
                continue
            assert items.dtype == np.uint8
            assert 4 + 4 * items.ndim + items.size == len(start + noise)


def test_what_a_path_holds(tmp_path: Path) -> None:
    assert (
        picture_sources.kind_of(paint(tmp_path / "pictures" / "a.png").parent)
        == "folder"
    )
    (tmp_path / "pictures" / "metadata.csv").write_text("file_name,text\na.png,x\n")
    (tmp_path / "pictures" / "README.md").write_text("x")
    assert picture_sources.kind_of(tmp_path / "pictures") == "folder"
    (tmp_path / "words").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "words" / name).write_text("x")
    paint(tmp_path / "words" / "figure.png")
    assert picture_sources.kind_of(tmp_path / "words") == "folder"
    assert not picture_sources.holds(tmp_path / "words")
    assert picture_sources.holds(tmp_path / "pictures")
    assert picture_sources.kind_of(tmp_path / "words" / "a.txt") is None
    with pytest.raises(NotFound, match="no folder or file") as caught:
        read(tmp_path / "picture")
    assert "pictures" in caught.value.remedy
    of_pictures = [name for name in readers.names() if name.startswith("image/")]
    assert of_pictures == [
        "image/folder",
        "image/idx",
        "image/pairs",
        "image/side-by-side",
        "image/tables",
    ]


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({}, "No data is named"),
        ({"path": "x", "pack": "digits"}, "both given"),
        ({"pack": "digits", "source": "folder"}, "reader of its own"),
    ],
)
def test_sources_that_contradict(
    tmp_path: Path, how: dict[str, str], what: str
) -> None:
    with pytest.raises(BadInput, match=what):
        picture_sources.identity(Config(**how), tmp_path)  # type: ignore[arg-type]


def test_packs_of_another_kind() -> None:
    with pytest.raises(
        BadInput, match="chinese-poetry holds data of the modality text, not image"
    ) as caught:
        image_loaders.read("chinese-poetry")
    assert "digits" in caught.value.remedy
    with pytest.raises(
        BadInput, match="digits holds data of the modality image, not text"
    ):
        text_loaders.read("digits")
