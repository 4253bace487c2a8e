"""Pictures with boxes, in the common formats: COCO's JSON, Pascal VOC's XML, YOLO's
text files, and lists of one's own.

A record's "objects" are [{"label": "cat", "box": [left, top, width, height]}, ...] in
pixels of the picture, as COCO writes boxes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from miaobi.core import storage
from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.core.language import say
from miaobi.data.image.listing import files_in, visible
from miaobi.data.labelled import STRICT, ReadOptions
from miaobi.data.labelled.images import (
    LISTS,
    Record,
    list_records,
    picture_check,
    pictures,
)
from miaobi.data.labelled.scenes import SCENES, scenes

PICTURES = ("images", "JPEGImages", "image", "train", "val", ".")
"""Folders of pictures beside their annotations."""
COCO_KEYS = {"images", "annotations", "categories"}
VOC_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Annotated(NamedTuple):
    """A picture with the columns of its annotations."""

    location: str
    picture: Path
    record: dict[str, Any]


def boxes(
    path: str, pack: str, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Record]]:
    """Yield pictures with "objects". Raises NotFound, BadInput, Damaged."""
    if pack == SCENES:
        with picture_check() as check:
            for location, scene in scenes():
                record = {
                    **check(Path(scene["image"])),
                    "objects": scene["objects"],
                }
                yield location, record
    elif pack:
        raise BadInput(
            say(f"{pack} has no boxes.", f"{pack} 没有标注框。"),
            say(f"The pack with boxes is {SCENES}.", f"带标注框的资源包是 {SCENES}。"),
        )
    else:
        yield from _of_path(storage.local(path), path, options)


def _of_path(
    path: Path, name: str, options: ReadOptions
) -> Iterator[tuple[str, Record]]:
    """Pictures of a file or folder; `name` is its path as it was written."""
    if not path.exists():
        raise NotFound(
            say(f"There is no file or folder {path}.", f"{path} 不存在。"),
            say("Check the path.", "请检查路径。"),
        )
    with picture_check() as check:
        annotated = _annotated(path)
        if annotated is not None:
            for location, picture, record in annotated:
                yield location, {**record, **check(picture)}
        elif path.suffix.lower() in LISTS:
            yield from list_records(path, check, options)
        else:
            yield from pictures(name, "", options)


def _annotated(path: Path) -> Iterator[Annotated] | None:
    """The pictures of the first format that is there; None where there is none."""
    for reader in (_of_coco, _of_voc, _of_yolo):
        annotated = reader(path)
        if annotated is not None:
            return annotated
    return None


def _of_coco(path: Path) -> Iterator[Annotated] | None:
    """The pictures of every COCO file that `path` is or holds; None where there is none."""
    files = [path] if path.is_file() else visible(path)
    tables = dict[Path, dict[str, Any]]()
    for file in files:
        table = _coco_table(file) if file.suffix == ".json" else None
        if table is not None:
            tables[file] = table
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
    is_coco = isinstance(table, dict) and table.keys() >= COCO_KEYS
    return table if is_coco else None


def _coco_rows(tables: dict[Path, dict[str, Any]]) -> Iterator[Annotated]:
    for file, table in tables.items():
        names = {
            category["id"]: str(category["name"]) for category in table["categories"]
        }
        objects = defaultdict[Any, list[dict[str, Any]]](list)
        for annotation in table["annotations"]:
            if annotation.get("iscrowd"):
                continue
            category = annotation["category_id"]
            label = names.get(category, str(category))
            item = {
                "label": label,
                "box": annotation.get("bbox"),
            }
            objects[annotation["image_id"]].append(item)
        for image in table["images"]:
            number = image["id"]
            picture = _beside(file.parent, image["file_name"])
            yield Annotated(f"{file}:{number}", picture, {"objects": objects[number]})


def _beside(folder: Path, name: str) -> Path:
    """A picture named by annotations in `folder` or in one beside it."""
    for parent in (folder, folder.parent):
        for child in PICTURES:
            file = parent / child / name
            if file.is_file():
                return file
    return folder / name


def _of_voc(path: Path) -> Iterator[Annotated] | None:
    """The pictures that Annotations/*.xml names; None where there is no such folder."""
    folder = path / "Annotations"
    return _voc_rows(folder) if folder.is_dir() else None


def _voc_rows(folder: Path) -> Iterator[Annotated]:
    for file in sorted(folder.glob("*.xml")):
        try:
            root = ElementTree.parse(file).getroot()
            objects = [_voc_object(element) for element in root.iter("object")]
        except (ElementTree.ParseError, ValueError) as error:
            raise Damaged(
                say(
                    f"{file} is not a sound VOC annotation: {error}.",
                    f"{file} 不是有效的 VOC 标注：{error}。",
                ),
                say("Export it again.", "请重新导出。"),
            ) from None
        name = root.findtext("filename") or f"{file.stem}.jpg"
        yield Annotated(str(file), _beside(folder, name), {"objects": objects})


def _voc_object(element: ElementTree.Element) -> dict[str, Any]:
    """VOC counts pixels from 1 and includes the last one."""
    corners = [float(element.findtext(f"bndbox/{key}", "")) for key in VOC_CORNERS]
    left, top, right, bottom = corners
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    return {
        "label": element.findtext("name", ""),
        "box": box,
    }


def _of_yolo(path: Path) -> Iterator[Annotated] | None:
    """images/ and labels/, a line for each object: class x_centre y_centre width
    height, in shares of the sides. Names from classes.txt.
    """
    if not (path / "labels").is_dir() or not (path / "images").is_dir():
        return None
    names = list[str]()
    for file in (path / "classes.txt", path / "labels" / "classes.txt"):
        if file.exists():
            names = file.read_text(encoding="utf-8").split("\n")
            break
    return _yolo_rows(path, [name.strip() for name in names])


def _yolo_rows(path: Path, names: list[str]) -> Iterator[Annotated]:
    for picture in files_in(path / "images"):
        name = picture.relative_to(path / "images").with_suffix(".txt")
        file = path / "labels" / name
        objects = list[dict[str, Any]]()
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            objects = [_yolo_object(line, names) for line in lines]
        yield Annotated(str(picture), picture, {"objects": objects})


def _yolo_object(line: str, names: list[str]) -> dict[str, Any]:
    number, *shares = line.split()
    label = number
    if number.isdigit() and int(number) < len(names):
        label = names[int(number)] or number
    return {
        "label": label,
        "shares": [float(share) for share in shares[:4]],
    }
