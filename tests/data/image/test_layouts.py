"""Folders as people have them are read for what they are, and what is passed over,
bent or judged is told.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.data.image.folders_people_have import make, paint, paint_all, pic

from miaobi.core.artifacts import Facts, Image
from miaobi.data.image import overview, survey
from miaobi.data.image.config import Config
from miaobi.data.image.files import ORIENTATION
from miaobi.data.image.layout import SPLITS, classes_of, positions_of
from miaobi.data.image.listing import listing
from miaobi.data.image.prepared import Pictures, holds, prepare
from miaobi.data.image.record import Picture
from miaobi.data.image.sources import kind_of, pictures
from miaobi.data.image.survey import PictureSurvey
from miaobi.data.splitting import TEST, TRAIN, VALIDATION, assign_groups
from miaobi.families import pix2pix
from miaobi.provenance.publish import publish
from miaobi.verbs.train import settle


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people")
    make(root)
    return root


def read(path: Path, **how: Any) -> list[Picture]:
    return list(pictures(Config(path=str(path), **how), lambda problem: None))


def prepared(path: Path, cache: Path, **how: Any) -> Pictures:
    config = Config(path=str(path), **{"image_size": 8, **how})
    return prepare(config, cache=cache, progress=False)


ANIMALS = {"cat": 8, "dog": 8}
DESCRIBED = {"layout": "folder", "captions": 6, "classes": {}, "problems": 0}
EXPECTED: dict[str, dict[str, Any]] = {
    "names": {"layout": "folder", "pictures": 12, "problems": 0},
    "symlinks": {"classes": {"a": 20, "b": 20}, "layout": "folder", "problems": 1},
    "symlink_all": {"classes": {"x": 20, "y": 20}, "problems": 1},
    "nested": {"classes": {"cat": 8, "dog": 8, "oak": 8, "rose": 8}},
    "mixed_depth": {"classes": {"cat": 9, "dog": 8}, "pictures": 17},
    "mac_windows_litter": {"classes": ANIMALS, "pictures": 16, "problems": 0},
    "empty_class": {"classes": ANIMALS},
    "vehicles": {"classes": {"bus": 6, "car": 6, "train": 6}, "splits": {}},
    "one_per_class": {"classes": {f"c{number}": 1 for number in range(5)}},
    "dups": {"pictures": 30, "duplicates": 27, "distinct": 3},
    "meta_sub": {**DESCRIBED, "captions": 10},
    "meta_split": {"captions": 14, "splits": {"test": 4, "train": 10}},
    "meta_case": DESCRIBED,
    "meta_typo": DESCRIBED,
    "meta_images": DESCRIBED,
    "meta_column": DESCRIBED,
    "meta_absolute": DESCRIBED,
    "meta_in_class": {"captions": 12, "classes": {"cat": 6, "dog": 6}},
    "kohya": DESCRIBED,
    "kohya_extra": DESCRIBED,
    "kohya_two": {"captions": 12, "classes": {"dog": 6, "sks dog": 6}},
    "pairs_aligned": {"layout": "folder", "splits": {"train": 10}},
    "pairs_train_a": {"layout": "pairs", "splits": {"test": 3, "train": 8}},
    "pairs_a": {"layout": "pairs", "splits": {"test": 3, "train": 8}},
    "unpaired": {"classes": {"A": 11, "B": 11}, "splits": {"test": 6, "train": 16}},
    "pairs_endings": {"layout": "pairs", "pictures": 8, "problems": 0},
    "letters": {"layout": "folder", "classes": {"A": 6, "B": 6, "C": 6}},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_folder_is_read_for_what_it_is(people: Path, name: str) -> None:
    assert holds(people / name)
    surveyed = survey.inspect(people / name)
    assert {key: getattr(surveyed, key) for key in EXPECTED[name]} == EXPECTED[name]
    str(surveyed).encode()


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("kohya_extra", "passed over: .txt (2)"),
        ("kohya_two", "kohya's repeats"),
        ("mac_windows_litter", "passed over: .db (2), .ini (2)"),
        ("empty_class", "empty folders: empty"),
        ("mixed_depth", "count to the class above them: 1"),
        ("meta_typo", "metadata.json1 names pictures and is read as metadata"),
        ("pairs_a", "pairs by equal names: A → B"),
        ("unpaired", "read as two classes"),
        ("pairs_aligned", "--data.source side-by-side"),
        ("wide", "cutting to shape takes 99% off the pictures"),
        ("10bit", "16-bit values are read from 0 to 1023 (the set has 0 to 1020)"),
        ("12bit", "16-bit values are read from 0 to 4095"),
        ("16bit", "16-bit values are read from 0 to 65535"),
        ("32bit", "32-bit values are read from 0 to 255"),
        ("floats", "float values are read from 0 to 1 (the set has 0 to 0.9)"),
        ("signed", "float values are read from -1 to 1"),
    ],
)
def test_what_is_passed_over_or_judged_is_reported(
    people: Path, name: str, remark: str
) -> None:
    surveyed = survey.inspect(people / name)
    assert any(remark in text for text in surveyed.remarks), surveyed.remarks
    assert remark in str(surveyed)


def test_kohya_s_captions_are_the_texts_beside_the_pictures(people: Path) -> None:
    items = read(people / "kohya_two")
    assert [(item.name, item.meta["text"], item.label) for item in items[:7:6]] == [
        ("10_sks dog/0.png", "10_sks dog, number 0", "sks dog"),
        ("1_dog/0.png", "1_dog, number 0", "dog"),
    ]


def test_generated_pictures_are_read_without_their_sheet_and_index(
    tmp_path: Path,
) -> None:
    facts = Facts("painter", parameters={"prompt": "a fox"})
    images = [Image(np.asarray(pic(number)), facts) for number in range(3)]
    publish(images, tmp_path / "out")
    assert (tmp_path / "out" / "sheet-000-002.png").exists()
    surveyed = survey.inspect(tmp_path / "out")
    assert (surveyed.pictures, surveyed.captions, surveyed.classes) == (3, 0, {})
    assert "passed over: .jsonl (1)" in surveyed.remarks


def test_numbers_beside_a_picture_are_no_caption(tmp_path: Path) -> None:
    paint_all(tmp_path, 2, 1)
    (tmp_path / "0.txt").write_text("0 0.5 0.5 0.1 0.2\n")
    (tmp_path / "1.txt").write_text("a fox\nin snow")
    surveyed = survey.inspect(tmp_path)
    assert surveyed.examples == ("a fox in snow",)
    assert "0.txt: it holds only numbers" in surveyed.first_problems[0]


def test_a_link_to_a_folder_above_is_no_loop(people: Path) -> None:
    content = listing(people / "symlink_all")
    assert len(content.pictures) == 40
    assert [path.name for path in content.broken] == ["broken.png"]


def test_names_that_are_not_utf_8_are_prepared(people: Path, tmp_path: Path) -> None:
    data = prepared(people / "names", tmp_path)
    names = [name for split in data.meta["splits"] for name in data.names(split)]
    assert r"latin1-\xe9.png" in names
    assert len(names) == 12


def test_pairs_beside_other_folders_are_classes_unless_pairs_are_wanted(
    tmp_path: Path,
) -> None:
    for number, name in enumerate(("input", "output", "other")):
        paint_all(tmp_path / name, 4, 10 * number)
    assert kind_of(tmp_path) == "folder"
    assert len({item.label for item in read(tmp_path)}) == 3
    assert kind_of(tmp_path, pairs_wanted=True) == "pairs"
    assert [item.source for item in read(tmp_path, pairs=True)] == [
        tmp_path / "input" / f"{number}.png" for number in range(4)
    ]


def test_a_family_of_pairs_wants_pairs(people: Path, tmp_path: Path) -> None:
    settled = settle(
        {"family": "pix2pix", "data": {"path": str(people / "pairs_aligned")}}
    )
    assert settled.data.pairs
    assert not settle({"family": "vae", "data": {"path": "x"}}).data.pairs
    data = prepared(people / "pairs_aligned", tmp_path, pairs=True, image_size=0)
    pix2pix.build(pix2pix.Config(), data.spec)
    assert "pairs side by side" in data.meta["remarks"][0]
    rows = [int(Path(name).stem) for name in data.names("train")]
    first = np.asarray(pic(960 + rows[0])).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.sources("train")[0], first)


def test_one_of_a_class_is_never_in_validation_alone(
    people: Path, tmp_path: Path
) -> None:
    data = prepared(people / "one_per_class", tmp_path, validation=0.4, test=0.4)
    assert data.count("train") == 5
    assert set(data.labels("train")) == set(range(5))


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.floats(0, 0.45),
    st.integers(0, 99),
)
def test_every_class_can_be_learned(labels: list[int], share: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    count = len(labels)
    splits = assign_groups(
        draw.integers(0, 2**63, count).astype(np.uint64),
        draw.integers(0, count, count),
        np.full(count, 255, np.uint8),
        share,
        share,
        np.array(labels),
    )
    assert set(splits.tolist()) <= {TRAIN, VALIDATION, TEST}
    in_training = {
        label for label, split in zip(labels, splits, strict=True) if split == TRAIN
    }
    assert in_training == set(labels)


FOLDERS = st.sampled_from(["train", "test", "val", "A", "B", "cat", "dog", "x y"])


@settings(max_examples=100)
@given(
    st.lists(
        st.lists(FOLDERS, max_size=3).map(lambda parts: [*parts, "1.png"]), max_size=30
    )
)
def test_any_tree_has_one_reading(tree: list[list[str]]) -> None:
    keys = ["/".join(parts) for parts in tree]
    positions = positions_of(keys)
    assert set(positions) == set(keys)
    classes = classes_of(positions.values())
    labels = Counter(classes.of(position) for position in positions.values())
    assert labels[None] == (classes.above if classes.level else len(positions))
    for key, position in positions.items():
        assert position.split in ("", *SPLITS.values())
        rest = "/".join([*position.folders, "1.png"])
        assert key.endswith(rest)


@pytest.mark.parametrize(
    ("name", "white"),
    [("10bit", 1023), ("12bit", 4095), ("16bit", 65535), ("32bit", 255), ("floats", 1)],
)
def test_a_deep_set_has_one_range(
    people: Path, tmp_path: Path, name: str, white: float
) -> None:
    data = prepared(people / name, tmp_path, image_size=0, validation=0, test=0)
    for row, name_of_file in enumerate(data.names("train")):
        values = np.asarray(Pillow.open(people / name / name_of_file)).astype(float)
        expected = np.round(values / white * 255).astype(np.uint8)
        np.testing.assert_array_equal(data.pixels("train")[row, 0], expected)


def test_deep_pictures_keep_their_order(people: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(people / "12bit", folder)
    paint(folder / "1a.png", 1)
    items = survey.inspect(folder)
    assert items.pictures == 4
    data = prepared(folder, tmp_path / "cache", validation=0, test=0)
    assert data.names("train") == ["0.tif", "1.tif", "1a.png", "2.tif"]


def test_pictures_of_one_colour_are_reported(tmp_path: Path) -> None:
    for name, colour in (("a", "black"), ("b", "white"), ("c", "black")):
        Pillow.new("L", (8, 8), colour).save(tmp_path / f"{name}.png")
    paint(tmp_path / "d.png", 4)
    remarks = survey.inspect(tmp_path).remarks
    assert "all black: 2" in remarks
    assert "all white: 1" in remarks


def test_before_a_training_a_line_and_a_warning(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(path=str(people / "mac_windows_litter"), image_size=8)
    for _ in range(2):  # prepared, and taken from the cache
        prepare(config, cache=tmp_path)
        printed = capsys.readouterr().err.splitlines()
        [text] = [text for text in printed if "16 pictures" in text]
        assert "2 classes, 0 copies" in text
        assert "train 14 / validation 1 / test 1; problems: 0" in text
        assert "passed over: .db (2), .ini (2)" in text
        assert "Only 16 distinct pictures" in printed[-1]


def test_no_warning_with_enough_pictures() -> None:
    assert "Only 49" in overview.few(49)
    assert not overview.few(50)


def test_a_manifest_of_an_earlier_version_is_summarised(
    people: Path, tmp_path: Path
) -> None:
    meta = dict(prepared(people / "three", tmp_path).meta)
    for key in ("pictures", "distinct", "remarks"):
        del meta[key]
    assert "3 pictures" in overview.summary("three", meta)[0]


def test_the_survey_is_whole_as_json(people: Path) -> None:
    surveyed = survey.inspect(people / "three")
    assert isinstance(surveyed, PictureSurvey)
    assert surveyed.distinct == 3


@pytest.mark.parametrize(
    ("size", "expected"), [((16, 32), "side-by-side"), ((32, 16), "folder")]
)
def test_turned_photos_are_side_by_side_as_they_are_seen(
    tmp_path: Path, size: tuple[int, int], expected: str
) -> None:
    turned = Pillow.Exif()
    turned[ORIENTATION] = 6
    for number in range(3):
        pic(number, *size).save(tmp_path / f"{number}.jpg", exif=turned)
    assert kind_of(tmp_path, pairs_wanted=True) == expected
