"""Pictures with masks: images/ beside masks/ (or SegmentationClass/, labels/,
annotations/), files of equal names.

A mask is a PNG of class numbers (grey or with a palette), as Pascal VOC and ADE20K
write them; 255 is ignored. Names are in classes.txt, one a line from number 0. Where a
data set's masks are only black and white (0 and 255), white is the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from miaobi.core import storage
from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.data.image.listing import files_in
from miaobi.data.labelled import STRICT, ReadOptions
from miaobi.data.labelled.images import Record, no_pictures, picture_check
from miaobi.data.labelled.scenes import CLASSES, SCENES, scenes
from miaobi.data.text.shapes import Unusable

if TYPE_CHECKING:
    from PIL import Image

PICTURES = ("images", "image", "JPEGImages", "img")
MASKS = ("masks", "mask", "SegmentationClass", "labels", "annotations")
IGNORED = 255
"""The value of pixels that are neither learned nor evaluated."""
BINARY = ["background", "object"]
FORMATS = ("PNG", "BMP", "GIF", "TIFF")


def masks(
    path: str, pack: str, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Record]]:
    """Yield pictures with "mask" (a file), "classes" (names by number) and "binary"
    (whether white stands for 1).

    Raises NotFound, BadInput.
    """
    if pack == SCENES:
        yield from _scenes()
    elif pack:
        raise BadInput(
            say(f"{pack} has no masks.", f"{pack} 没有掩码。"),
            say(f"The pack with masks is {SCENES}.", f"带掩码的资源包是 {SCENES}。"),
        )
    else:
        yield from _folder(storage.local(path), path)


def _scenes() -> Iterator[tuple[str, Record]]:
    with picture_check() as check:
        for location, scene in scenes():
            record = {
                **check(Path(scene["image"])),
                "mask": scene["mask"],
                "classes": list(CLASSES),
                "binary": False,
            }
            yield location, record


def _folder(folder: Path, name: str) -> Iterator[tuple[str, Record]]:
    """Pictures with masks of a folder; `name` is its path as it was written."""
    if not folder.is_dir():
        raise NotFound(
            say(f"There is no folder {folder}.", f"文件夹 {folder} 不存在。"),
            say(
                "Give a folder with images/ and masks/.",
                "请给出含 images/ 与 masks/ 的文件夹。",
            ),
        )
    pictures = _first_folder(folder, PICTURES)
    mask_folder = _first_folder(folder, MASKS)
    if pictures is None or mask_folder is None:
        raise no_pictures(
            name,
            (
                "Put pictures into images/ and PNG masks of equal names into masks/.",
                "请把图片放入 images/，把同名的 PNG 掩码放入 masks/。",
            ),
        )
    yield from _pairs(folder, pictures, mask_folder)


def _first_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    folders = [folder / name for name in names]
    return next((child for child in folders if child.is_dir()), None)


def _pairs(
    folder: Path, pictures: Path, mask_folder: Path
) -> Iterator[tuple[str, Record]]:
    mask_files = {_stem(file, mask_folder): file for file in files_in(mask_folder)}
    values = set[int]()
    for file in mask_files.values():
        values |= _values(file)
    binary = IGNORED in values and values <= {0, IGNORED}
    names = _names(folder, values - {IGNORED}, binary)
    with picture_check() as check:
        for picture in files_in(pictures):
            record = {**check(picture), "classes": names, "binary": binary}
            mask = mask_files.get(_stem(picture, pictures))
            if mask:
                record["mask"] = str(mask)
            yield str(picture), record


def _stem(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _values(file: Path) -> set[int]:
    """The values in a mask; none for one that cannot be read, which is reported later."""
    try:
        return set(np.unique(_numbers(file)).tolist())
    except Unusable:
        return set()


def _names(folder: Path, values: set[int], binary: bool) -> list[str]:
    """The names of the classes, from classes.txt or from the values that occur."""
    file = folder / "classes.txt"
    if file.exists():
        lines = file.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()]
    if binary:
        return list(BINARY)
    return [str(number) for number in range(max(values, default=0) + 1)]


def read_mask(file: Path, binary: bool) -> np.ndarray:
    """Return class numbers, uint8 [H, W]; IGNORED where a pixel has none.

    Raises Unusable.
    """
    numbers = _numbers(file)
    return (numbers > 127).astype(np.uint8) if binary else numbers


def _numbers(file: Path) -> np.ndarray:
    """The values of a mask as they are in the file, uint8 [H, W]."""
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as picture:
            mode = picture.mode
            values = _class_numbers(picture)
    # On damaged files Pillow's decoders raise nearly anything.
    except Exception as error:
        raise Unusable(
            say(
                f"the mask {file.name} cannot be read: {error}.",
                f"掩码 {file.name} 无法读取：{error}。",
            ),
            say("Export it again as PNG.", "请重新导出为 PNG。"),
        ) from None
    if values is None:
        raise Unusable(
            say(
                f"the mask {file.name} is a colour picture ({mode}), not class numbers.",
                f"掩码 {file.name} 是彩色图片（{mode}），而不是类别编号。",
            ),
            say(
                "Save it as a PNG of mode L or P whose values are class numbers.",
                "请存为 L 或 P 模式的 PNG，像素值为类别编号。",
            ),
        )
    return values.astype(np.uint8)


def _class_numbers(picture: Image.Image) -> np.ndarray | None:
    """The values of a picture; None for one that holds no class numbers."""
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    if picture.mode in ("P", "L"):
        return np.asarray(picture)
    if picture.mode in ("I", "I;16"):
        values = np.asarray(picture)
        return values if int(values.max()) <= IGNORED else None
    return None
