"""IDX, the format of MNIST and its relatives: a magic number, the size of each axis,
then plain values.

Images are unsigned bytes [N, H, W] or [N, H, W, C], labels [N]. They are paired by
name, as MNIST's files are: train-images-idx3-ubyte with train-labels-idx1-ubyte,
t10k-images... with t10k-labels..., each also gzip. (yann.lecun.com/exdb/mnist)
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.errors import Damaged
from miaobi.core.language import say
from miaobi.data.encoding import Problem, Report, open_bytes, raise_problem
from miaobi.data.image.folders import visible
from miaobi.data.image.record import Picture

if TYPE_CHECKING:
    import numpy as np

UBYTE = 0x08
SPLITS = {
    "train": "train",
    "t10k": "test",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def read_array(path: Path) -> np.ndarray:
    """uint8 array of an IDX file. Raises Damaged where the file is no such thing, or
    shorter or longer than it says.
    """
    import numpy as np

    with open_bytes(path) as file:
        raw = file.read()
    if not is_idx(raw[:4]):
        raise Damaged(
            say(
                f"{path} is not an IDX file of bytes: it begins with {raw[:4].hex() or 'nothing'}.",
                f"{path} 不是字节型 IDX 文件：开头为 {raw[:4].hex() or '空'}。",
            ),
            say(
                "MNIST's own files begin with 00000803 (images) or 00000801 (labels).",
                "MNIST 的文件以 00000803（图片）或 00000801（标签）开头。",
            ),
        )
    axes = raw[3]
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", raw[4:start]) if len(raw) >= start else (0,)
    if len(raw) - start != math.prod(shape) or len(raw) < start:
        raise Damaged(
            say(
                f"{path} holds {max(0, len(raw) - start):,} values where its header says {'×'.join(map(str, shape))}.",
                f"{path} 有 {max(0, len(raw) - start):,} 个值，文件头标明 {'×'.join(map(str, shape))}。",
            ),
            say("Copy or download it again.", "请重新复制或下载。"),
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def is_idx(start: bytes) -> bool:
    """Whether these first four bytes are those of an IDX file of unsigned bytes."""
    return len(start) == 4 and start[:3] == bytes((0, 0, UBYTE)) and 1 <= start[3] <= 4


def files_in(folder: Path) -> list[Path]:
    """The IDX files of a folder and its folders, sorted, told by their content."""
    return [file for file in visible(folder) if is_file(file)]


def beside(file: Path) -> list[Path]:
    """A file of images, and that of its labels where it lies beside it."""
    return [
        other
        for other in files_in(file.parent)
        if other == file or (_stem(other) == _stem(file) and _axes(other) == 1)
    ]


def read(
    path: Path, report: Report = raise_problem, classes: tuple[str, ...] = ()
) -> Iterator[Picture]:
    """The pictures of a folder of IDX files, or of one, with the labels of the file of
    the same name beside each.
    """
    folder = path if path.is_dir() else path.parent
    arrays = {
        file: read_array(file)
        for file in (files_in(path) if path.is_dir() else beside(path))
    }
    labels = {_stem(file): file for file, array in arrays.items() if array.ndim == 1}
    for file, array in arrays.items():
        if array.ndim == 1:
            continue
        numbers = arrays[labels[_stem(file)]] if _stem(file) in labels else None
        if numbers is not None and len(numbers) != len(array):
            report(_unequal(file, len(array), labels[_stem(file)], len(numbers)))
            numbers = None
        split = SPLITS.get(re.split(r"[^a-z0-9]", file.name.lower())[0], "")
        for row, pixels in enumerate(array):
            yield Picture(
                f"{file.relative_to(folder)}:{row + 1}",
                pixels,
                file,
                row + 1,
                split=split,
                classes=classes,
                label=None if numbers is None else int(numbers[row]),
            )


def is_file(file: Path) -> bool:
    """Whether a file begins as an IDX file does."""
    try:
        with open_bytes(file) as handle:
            return is_idx(handle.read(4))
    except Damaged:
        return False


def _axes(file: Path) -> int:
    with open_bytes(file) as handle:
        return handle.read(4)[3]


def _stem(file: Path) -> str:
    """What an images file and its labels file share: "train" of train-images-idx3-ubyte.gz."""
    return re.sub(
        r"[-_.]*(images?|labels?)[-_.]*",
        "|",
        re.sub(r"(\.?idx\d?|ubyte|\.gz)", "", file.name.lower()),
    ).strip("-_. ")


def _unequal(file: Path, pictures: int, labels: Path, count: int) -> Problem:
    return Problem(
        file,
        0,
        say(
            f"{pictures:,} pictures, but {labels.name} has {count:,} labels.",
            f"有 {pictures:,} 张图片，但 {labels.name} 有 {count:,} 个标签。",
        ),
        say(
            "Put files that belong together into the folder.",
            "请把配套的文件放在文件夹中。",
        ),
    )
