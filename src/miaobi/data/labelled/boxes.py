"""Pictures with boxes, as people have them: COCO's JSON, Pascal VOC's XML, YOLO's text
files, and lists of their own.

A record's "objects" are [{"label": "cat", "box": [left, top, width, height]}, ...] in
pixels of the picture, as COCO writes boxes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.core.language import say
from miaobi.data.image.folders import files_in, visible
from miaobi.data.labelled.images import (
    LISTS,
    Record,
    list_records,
    picture_check,
    pictures,
)
from miaobi.data.labelled.scenes import SCENES, scenes

PICTURES = ("images", "JPEGImages", "image", "train", "val", ".")
"""Where pictures lie beside their annotations."""


def boxes(path: str, pack: str) -> Iterator[tuple[str, Record]]:
    """Pictures with "objects". Raises NotFound, BadInput, Damaged."""
    if pack == SCENES:
        with picture_check() as check:
            for place, scene in scenes():
                yield (
                    place,
                    {**check(Path(scene["image"])), "objects": scene["objects"]},
                )
        return
    if pack:
        raise BadInput(
            say(f"{pack} has no boxes.", f"{pack} 没有标注框。"),
            say(f"The pack with boxes is {SCENES}.", f"带标注框的资源包是 {SCENES}。"),
        )
    place = Path(path).expanduser()
    if not place.exists():
        raise NotFound(
            say(f"There is no file or folder {place}.", f"{place} 不存在。"),
            say("Check the path.", "请检查路径。"),
        )
    with picture_check() as check:
        found = next(
            (
                reader
                for reader in (_of_coco(place), _of_voc(place), _of_yolo(place))
                if reader is not None
            ),
            None,
        )
        if found is not None:
            yield from ((at, {**record, **check(file)}) for at, file, record in found)
            return
        yield from (
            list_records(place, check)
            if place.suffix.lower() in LISTS
            else pictures(path, "")
        )


Found = Iterator[tuple[str, Path, dict[str, Any]]]
"""(place, picture, record)."""


def _of_coco(path: Path) -> Found | None:
    """The pictures of every COCO file that `path` is or holds; None where there is none."""
    candidates = (
        [path]
        if path.is_file()
        else [file for file in visible(path) if file.suffix == ".json"]
    )
    tables = [
        (file, table)
        for file in candidates
        if file.suffix == ".json" and (table := _coco_table(file)) is not None
    ]
    return _coco_rows(tables) if tables else None


def _coco_table(file: Path) -> dict[str, Any] | None:
    with file.open("rb") as handle:
        if not handle.read(64).lstrip().startswith(b"{"):
            return None
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(
            say(
                f"{file} is not valid JSON: {error}.",
                f"{file} 不是有效的 JSON：{error}。",
            ),
            say("Export it again.", "请重新导出。"),
        ) from None
    return (
        table
        if isinstance(table, dict)
        and {"images", "annotations", "categories"} <= table.keys()
        else None
    )


def _coco_rows(tables: list[tuple[Path, dict[str, Any]]]) -> Found:
    for file, table in tables:
        names = {
            category["id"]: str(category["name"]) for category in table["categories"]
        }
        objects = defaultdict(list)
        for annotation in table["annotations"]:
            if not annotation.get("iscrowd"):
                objects[annotation["image_id"]].append(
                    {
                        "label": names.get(
                            annotation["category_id"], str(annotation["category_id"])
                        ),
                        "box": annotation.get("bbox"),
                    }
                )
        for image in table["images"]:
            yield (
                f"{file}:{image['id']}",
                _beside(file.parent, image["file_name"]),
                {"objects": objects[image["id"]]},
            )


def _beside(folder: Path, name: str) -> Path:
    """A picture named by annotations in `folder` or in one beside it."""
    places = [root / sub / name for root in (folder, folder.parent) for sub in PICTURES]
    return next((place for place in places if place.is_file()), folder / name)


def _of_voc(path: Path) -> Found | None:
    folder = path / "Annotations"
    return _voc_rows(path, sorted(folder.glob("*.xml"))) if folder.is_dir() else None


def _voc_rows(path: Path, files: list[Path]) -> Found:
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()
            objects = [
                {
                    "label": item.findtext("name", ""),
                    "box": _corners(
                        *(
                            float(item.findtext(f"bndbox/{key}", ""))
                            for key in ("xmin", "ymin", "xmax", "ymax")
                        )
                    ),
                }
                for item in root.iter("object")
            ]
        except (ElementTree.ParseError, ValueError) as error:
            raise Damaged(
                say(
                    f"{file} is not a sound VOC annotation: {error}.",
                    f"{file} 不是有效的 VOC 标注：{error}。",
                ),
                say("Export it again.", "请重新导出。"),
            ) from None
        name = root.findtext("filename") or f"{file.stem}.jpg"
        yield str(file), _beside(path / "Annotations", name), {"objects": objects}


def _corners(left: float, top: float, right: float, bottom: float) -> list[float]:
    """VOC counts pixels from 1 and includes the last one."""
    return [left - 1, top - 1, right - left + 1, bottom - top + 1]


def _of_yolo(path: Path) -> Found | None:
    """images/ and labels/, a line for each object: class x_centre y_centre width
    height, in shares of the sides. Names from classes.txt.
    """
    if not ((path / "labels").is_dir() and (path / "images").is_dir()):
        return None
    names = next(
        (
            file.read_text(encoding="utf-8").split("\n")
            for file in (path / "classes.txt", path / "labels" / "classes.txt")
            if file.exists()
        ),
        [],
    )
    return _yolo_rows(path, [name.strip() for name in names])


def _yolo_rows(path: Path, names: list[str]) -> Found:
    for picture in files_in(path / "images"):
        file = (path / "labels" / picture.relative_to(path / "images")).with_suffix(
            ".txt"
        )
        objects = []
        for line in (
            file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        ):
            number, *shares = line.split()
            label = (
                names[int(number)]
                if number.isdigit() and int(number) < len(names) and names[int(number)]
                else number
            )
            objects.append(
                {"label": label, "shares": [float(share) for share in shares[:4]]}
            )
        yield str(picture), picture, {"objects": objects}
