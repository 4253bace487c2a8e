"""Pictures as people have them: every layout gives the same records, and what is wrong
is reported with its location.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.tune.picture_sets import captioned, class_folders, picture

from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.data.encoding import Problem
from miaobi.data.labelled import ReadOptions, scenes
from miaobi.data.labelled.boxes import boxes
from miaobi.data.labelled.images import PictureCheck, picture_of, pictures
from miaobi.data.labelled.masks import masks
from miaobi.data.text.shapes import Unusable
from miaobi.tune.tasks import detection


def test_class_folders(tmp_path: Path) -> None:
    records = list(pictures(str(class_folders(tmp_path / "set", 2)), ""))
    assert [record["label"] for _, record in records] == ["blue"] * 2 + [
        "green"
    ] * 2 + ["red"] * 2
    assert records[0][0].endswith("blue/0.png")
    assert all(
        (record["width"], record["height"], len(record["digest"])) == (32, 32, 64)
        for _, record in records
    )


def test_captions_and_lists(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "set", 3)
    wanted = ["a red field", "a green field", "a blue field"]
    first = list(pictures(str(folder), ""))
    assert [record["caption"] for _, record in first] == wanted
    second = list(pictures(str(folder / "metadata.jsonl"), ""))
    assert [record["caption"] for _, record in second] == wanted
    assert [record["digest"] for _, record in first] == [
        record["digest"] for _, record in second
    ]
    assert second[1][0].endswith("metadata.jsonl:2")


def test_bytes_in_parquet_become_files(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = class_folders(tmp_path / "set", 1)
    rows = [
        {
            "image": {"bytes": (folder / name / "0.png").read_bytes(), "path": None},
            "label": name,
        }
        for name in ("red", "blue")
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    for _ in range(2):
        records = [
            record for _, record in pictures(str(tmp_path / "table.parquet"), "")
        ]
        assert [record["label"] for record in records] == ["red", "blue"]
        assert (
            np.asarray(Image.open(records[0]["image"]))
            == np.asarray(Image.open(folder / "red" / "0.png"))
        ).all()


def test_packs_have_their_labels(pack: Callable[[str], Path]) -> None:
    pack("digits")
    records = [
        record for _, (_, record) in zip(range(3), pictures("", "digits"), strict=False)
    ]
    assert [record["label"] for record in records] == ["0", "0", "0"]
    assert np.asarray(Image.open(records[0]["image"])).shape == (28, 28)


def test_a_picture_is_looked_at_again_only_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    picture("red", 0).save(file)
    check = PictureCheck({})
    first = check(file)
    remembered_entries = {
        key: [*value[:2], "remembered", *value[3:]]
        for key, value in check.fresh.items()
    }
    assert PictureCheck(remembered_entries)(file) == {**first, "digest": "remembered"}
    picture("red", 1).save(file)
    again = PictureCheck(remembered_entries)(file)
    assert again["digest"] not in ("remembered", first["digest"])


def test_a_jpeg_is_as_large_as_it_is_seen(tmp_path: Path) -> None:
    """Turned by EXIF, and decoded to a part of its size for the check."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("red", 0, 640, 320).save(tmp_path / "a.jpg", exif=exif)
    records = PictureCheck({})(tmp_path / "a.jpg")
    assert (records["width"], records["height"]) == (320, 640)


def test_what_cannot_be_used_is_reported_with_its_reason(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", 1)
    whole = (folder / "red" / "0.png").read_bytes()
    (folder / "red" / "0.png").write_bytes(whole[: len(whole) // 2])
    records = {record["image"]: record for _, record in pictures(str(folder), "")}
    with pytest.raises(Unusable, match="cannot be decoded"):
        picture_of(records[str(folder / "red" / "0.png")], "")
    (tmp_path / "list.jsonl").write_text(
        '{"image": "none.png", "label": "a"}\n{"label": "b"}\n'
    )
    problems = list[Problem]()
    options = ReadOptions(report=problems.append)
    [(_, first)] = pictures(str(tmp_path / "list.jsonl"), "", options)
    with pytest.raises(Unusable, match="no picture"):
        picture_of(first, "")
    [problem] = problems
    assert (problem.line, problem.what) == (2, 'no "image".')
    with pytest.raises(NotFound):
        list(pictures(str(tmp_path / "nowhere"), ""))


WANTED = [
    ("a.png", [("cat", [2, 3, 10, 12])]),
    ("b.png", [("dog", [0, 0, 8, 8]), ("cat", [20, 20, 12, 12])]),
]


def _coco(folder: Path) -> None:
    table = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 12]},
            {"image_id": 9, "category_id": 5, "bbox": [0, 0, 8, 8]},
            {"image_id": 9, "category_id": 3, "bbox": [20, 20, 12, 12]},
            {"image_id": 9, "category_id": 3, "bbox": [0, 0, 32, 32], "iscrowd": 1},
        ],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances.json").write_text(json.dumps(table))


def _voc_object(label: str, box: Sequence[int]) -> str:
    left, top, width, height = box
    corners = {
        "xmin": left + 1,
        "ymin": top + 1,
        "xmax": left + width,
        "ymax": top + height,
    }
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
    return f"<object><name>{label}</name><bndbox>{inside}</bndbox></object>"


def _voc(folder: Path) -> None:
    (folder / "Annotations").mkdir()
    for name, objects in WANTED:
        inside = "".join(_voc_object(label, box) for label, box in objects)
        (folder / "Annotations" / f"{name[0]}.xml").write_text(
            f"<annotation><filename>{name}</filename>{inside}</annotation>"
        )


def _yolo(folder: Path) -> None:
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("dog\ncat\n")
    for name, objects in WANTED:
        rows = [
            f"{['dog', 'cat'].index(label)} {(x + w / 2) / 32} {(y + h / 2) / 32} {w / 32} {h / 32}"
            for label, (x, y, w, h) in objects
        ]
        (folder / "labels" / f"{name[0]}.txt").write_text("\n".join(rows))


def _list(folder: Path) -> None:
    (folder / "boxes.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "image": f"images/{name}",
                    "objects": [{"label": label, "box": box} for label, box in objects],
                }
            )
            + "\n"
            for name, objects in WANTED
        )
    )


@pytest.mark.parametrize(
    ("write", "inside"),
    [
        (_coco, ""),
        (_voc, ""),
        (_yolo, ""),
        (_list, "boxes.jsonl"),
        (_coco, "annotations/instances.json"),
    ],
)
def test_boxes_in_every_layout(
    tmp_path: Path, write: Callable[[Path], None], inside: str
) -> None:
    (tmp_path / "images").mkdir()
    for seed, (name, _) in enumerate(WANTED):
        picture("red", seed).save(tmp_path / "images" / name)
    write(tmp_path)
    records = [
        detection.columns(record, detection.Config())
        for _, record in boxes(str(tmp_path / inside), "")
    ]
    assert [
        (
            Path(item["image"]).name,
            [(one["label"], one["box"]) for one in item["objects"]],
        )
        for item in records
    ] == WANTED


def test_damaged_annotations_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"images": [')
    with pytest.raises(Damaged, match=r"x\.json"):
        list(boxes(str(tmp_path), ""))
    (tmp_path / "x.json").unlink()
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation><object>")
    with pytest.raises(Damaged, match=r"a\.xml"):
        list(boxes(str(tmp_path), ""))
    with pytest.raises(BadInput, match="emoji-scenes"):
        list(boxes("", "digits"))


def test_scenes_are_exact_and_always_the_same(pack: Callable[[str], Path]) -> None:
    pack("emoji")
    sprites = scenes._sprites()
    for number in range(12):
        pixels, mask, objects = scenes.compose(sprites, number)
        again: Any = scenes.compose(sprites, number)
        assert (pixels == again[0]).all()
        assert objects == again[2]
        assert 1 <= len(objects) <= scenes.MOST
        around = np.zeros_like(mask, bool)
        for item in objects:
            left, top, width, height = item["box"]
            around[top : top + height, left : left + width] = True
            inside = mask[
                top : top + height, left : left + width
            ] == scenes.CLASSES.index(item["label"])
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
        assert not (mask[~around]).any()


def test_scenes_come_as_boxes_and_as_masks(
    pack: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack("emoji")
    monkeypatch.setattr(scenes.scenes, "__defaults__", (5,))
    boxed, masked = (
        [record for _, record in reader("", "emoji-scenes")]
        for reader in (boxes, masks)
    )
    assert [record["digest"] for record in boxed] == [
        record["digest"] for record in masked
    ]
    assert len({record["digest"] for record in boxed}) == 5
    labels = {
        masked[0]["classes"][value]
        for value in np.unique(np.asarray(Image.open(masked[0]["mask"])))
    }
    assert labels == {"background", *(item["label"] for item in boxed[0]["objects"])}
