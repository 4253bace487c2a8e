"""Pictures with masks: images/ beside masks/ (or SegmentationClass/, labels/,
annotations/), files of equal names.

A mask is a PNG of class numbers (grey or with a palette), as Pascal VOC and ADE20K
write them; 255 is not looked at. Names are in classes.txt, one a line from number 0.
Where a data set's masks are only black and white (0 and 255), white is the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.data.image.folders import files_in
from miaobi.data.labelled.images import Record, no_pictures, picture_check
from miaobi.data.labelled.scenes import CLASSES, SCENES, scenes
from miaobi.data.text.shapes import Unusable

PICTURES = ("images", "image", "JPEGImages", "img")
MASKS = ("masks", "mask", "SegmentationClass", "labels", "annotations")
IGNORED = 255
"""The value of pixels that are neither learned nor judged."""
BINARY = ["background", "object"]


def masks(path: str, pack: str) -> Iterator[tuple[str, Record]]:
    """Pictures with "mask" (a file), "classes" (names by number) and "binary" (whether
    white stands for 1). Raises NotFound, BadInput.
    """
    if pack == SCENES:
        with picture_check() as check:
            for place, scene in scenes():
                yield (
                    place,
                    {
                        **check(Path(scene["image"])),
                        "mask": scene["mask"],
                        "classes": list(CLASSES),
                        "binary": False,
                    },
                )
        return
    if pack:
        raise BadInput(
            say(f"{pack} has no masks.", f"{pack} 没有掩码。"),
            say(f"The pack with masks is {SCENES}.", f"带掩码的资源包是 {SCENES}。"),
        )
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise NotFound(
            say(f"There is no folder {folder}.", f"文件夹 {folder} 不存在。"),
            say(
                "Give a folder with images/ and masks/.",
                "请给出含 images/ 与 masks/ 的文件夹。",
            ),
        )
    first, second = (
        next((folder / name for name in names if (folder / name).is_dir()), None)
        for names in (PICTURES, MASKS)
    )
    if first is None or second is None:
        raise no_pictures(
            path,
            (
                "Put pictures into images/ and PNG masks of equal names into masks/.",
                "请把图片放入 images/，把同名的 PNG 掩码放入 masks/。",
            ),
        )
    yield from _pairs(folder, first, second)


def _pairs(folder: Path, first: Path, second: Path) -> Iterator[tuple[str, Record]]:
    drawn = {
        file.relative_to(second).with_suffix("").as_posix(): file
        for file in files_in(second)
    }
    values = set[int]().union(
        *(
            set(np.unique(_numbers(file)).tolist())
            for file in drawn.values()
            if _readable(file)
        )
    )
    binary = bool(values) and values <= {0, IGNORED} and IGNORED in values
    names = _names(folder, values - {IGNORED}, binary)
    with picture_check() as check:
        for picture in files_in(first):
            mask = drawn.get(picture.relative_to(first).with_suffix("").as_posix())
            yield (
                str(picture),
                {
                    **check(picture),
                    "classes": names,
                    "binary": binary,
                    **({"mask": str(mask)} if mask else {}),
                },
            )


def _readable(file: Path) -> bool:
    try:
        _numbers(file)
    except Unusable:
        return False
    return True


def _names(folder: Path, values: set[int], binary: bool) -> list[str]:
    if (folder / "classes.txt").exists():
        return [
            line.strip()
            for line in (folder / "classes.txt")
            .read_text(encoding="utf-8")
            .splitlines()
            if line.strip()
        ]
    return (
        list(BINARY)
        if binary
        else [str(number) for number in range(max(values, default=0) + 1)]
    )


def read_mask(file: Path, binary: bool) -> np.ndarray:
    """Class numbers, uint8 [H, W]; IGNORED where a pixel has none. Raises Unusable."""
    numbers = _numbers(file)
    return (numbers > 127).astype(np.uint8) if binary else numbers


def _numbers(file: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file, formats=("PNG", "BMP", "GIF", "TIFF")) as picture:
            if picture.mode in ("P", "L", "1"):
                return np.asarray(
                    picture.convert("L") if picture.mode == "1" else picture
                ).astype(np.uint8)
            mode = picture.mode
            if mode in ("I", "I;16") and int(np.asarray(picture).max()) <= IGNORED:
                return np.asarray(picture).astype(np.uint8)
    except Unusable:
        raise
    except (
        Exception
    ) as error:  # on damaged files Pillow's decoders raise nearly anything
        raise Unusable(
            say(
                f"the mask {file.name} cannot be read: {error}.",
                f"掩码 {file.name} 无法读取：{error}。",
            ),
            say("Export it again as PNG.", "请重新导出为 PNG。"),
        ) from None
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
