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
from miaobi.data.image.listing import visible
from miaobi.data.image.record import Picture

if TYPE_CHECKING:
    import numpy as np

UNSIGNED_BYTE = 0x08
MAGIC = 4
"""Bytes of the magic number: two zeros, the type of the values, the number of axes."""
MOST_AXES = 4
SPLITS = {
    "train": "train",
    "t10k": "test",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def read_array(path: Path) -> np.ndarray:
    """Return the uint8 array of an IDX file.

    Raises Damaged where the file is no such thing, or shorter or longer than it says.
    """
    import numpy as np

    with open_bytes(path) as file:
        raw = file.read()
    if not is_idx(raw[:MAGIC]):
        head = raw[:MAGIC].hex()
        raise Damaged(
            say(
                f"{path} is not an IDX file of bytes: it begins with {head or 'nothing'}.",
                f"{path} 不是字节型 IDX 文件：开头为 {head or '空'}。",
            ),
            say(
                "MNIST's own files begin with 00000803 (images) or 00000801 (labels).",
                "MNIST 的文件以 00000803（图片）或 00000801（标签）开头。",
            ),
        )
    axes = raw[MAGIC - 1]
    header = MAGIC + 4 * axes
    is_whole = len(raw) >= header
    shape = struct.unpack(f">{axes}I", raw[MAGIC:header]) if is_whole else (0,)
    values = max(0, len(raw) - header)
    if not is_whole or values != math.prod(shape):
        sizes = "×".join(map(str, shape))
        raise Damaged(
            say(
                f"{path} holds {values:,} values where its header says {sizes}.",
                f"{path} 有 {values:,} 个值，文件头标明 {sizes}。",
            ),
            say("Copy or download it again.", "请重新复制或下载。"),
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def is_idx(head: bytes) -> bool:
    """Return whether these first four bytes are those of an IDX file of unsigned bytes."""
    if len(head) != MAGIC or head[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        return False
    return 1 <= head[3] <= MOST_AXES


def files_in(folder: Path) -> list[Path]:
    """Return the IDX files of a folder and its folders, sorted, by their content."""
    return [file for file in visible(folder) if is_file(file)]


def beside(file: Path) -> list[Path]:
    """Return a file of images, and that of its labels where it lies beside it."""
    return [
        other
        for other in files_in(file.parent)
        if other == file or (_stem(other) == _stem(file) and _axes(other) == 1)
    ]


def read(
    path: Path, report: Report = raise_problem, classes: tuple[str, ...] = ()
) -> Iterator[Picture]:
    """Yield the pictures of a folder of IDX files, or of one, with the labels of the
    file of the same name beside each.

    Args:
        path: a folder, or a file of images
        report: called where pictures and labels are not as many
        classes: names of the classes, by number
    """
    folder = path if path.is_dir() else path.parent
    files = files_in(path) if path.is_dir() else beside(path)
    arrays = {file: read_array(file) for file in files}
    label_files = {
        _stem(file): file for file, array in arrays.items() if array.ndim == 1
    }
    for file, array in arrays.items():
        if array.ndim == 1:
            continue
        label_file = label_files.get(_stem(file))
        labels = None if label_file is None else arrays[label_file]
        if label_file and labels is not None and len(labels) != len(array):
            report(_unequal(file, len(array), label_file, len(labels)))
            labels = None
        prefix = re.split(r"[^a-z0-9]", file.name.lower())[0]
        for row, pixels in enumerate(array):
            yield Picture(
                f"{file.relative_to(folder)}:{row + 1}",
                pixels,
                file,
                row + 1,
                split=SPLITS.get(prefix, ""),
                classes=classes,
                label=None if labels is None else int(labels[row]),
            )


def is_file(file: Path) -> bool:
    """Return whether a file begins as an IDX file does."""
    try:
        with open_bytes(file) as handle:
            return is_idx(handle.read(MAGIC))
    except Damaged:
        return False


def _axes(file: Path) -> int:
    with open_bytes(file) as handle:
        return handle.read(MAGIC)[MAGIC - 1]


def _stem(file: Path) -> str:
    """What an images file and its labels file share: "train" of train-images-idx3-ubyte.gz."""
    name = re.sub(r"(\.?idx\d?|ubyte|\.gz)", "", file.name.lower())
    name = re.sub(r"[-_.]*(images?|labels?)[-_.]*", "|", name)
    return name.strip("-_. ")


def _unequal(file: Path, pictures: int, label_file: Path, labels: int) -> Problem:
    return Problem(
        file,
        0,
        say(
            f"{pictures:,} pictures, but {label_file.name} has {labels:,} labels.",
            f"有 {pictures:,} 张图片，但 {label_file.name} 有 {labels:,} 个标签。",
        ),
        say(
            "Put files that belong together into the folder.",
            "请把配套的文件放在文件夹中。",
        ),
    )
