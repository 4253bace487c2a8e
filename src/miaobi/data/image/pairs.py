"""The sources of pairs, each picture with the one it is made from.

pairs          two folders with pictures of equal names: source/ and target/, input/
               and output/, A/ and B/, or trainA/ and trainB/, testA/ and testB/.
               Folders named train, validation or test, around them or inside them,
               are splits.
side-by-side   both on one picture: the source left, the target right (pix2pix).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.encoding import Problem, Report
from miaobi.data.image.files import open_picture, quiet, upright_size
from miaobi.data.image.layout import SPLITS, UNPAIRED, positions_of
from miaobi.data.image.listing import files_in, listing
from miaobi.data.image.metadata import key_of
from miaobi.data.image.record import Picture
from miaobi.data.text.shapes import Unusable

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

NAMES = (("source", "target"), ("input", "output"))
"""In lower case."""
LETTERS = ("A", "B")
"""Written so; a and b are rather two classes."""


@dataclass(frozen=True)
class PairFolders:
    source: Path
    target: Path
    split: str
    """"" where folders inside say it, or none does."""


def read(folder: Path, report: Report) -> Iterator[Picture]:
    """Yield the pictures of target/ with those of equal names in source/.

    Each one without a partner is reported.
    """
    pair_folders = _pair_folders(folder)
    if not pair_folders:
        raise BadInput(
            say(f"{folder} holds no pairs.", f"{folder} 中没有成对的图片。"),
            say(
                "Put pictures of equal names into source/ and target/.",
                "请把同名图片分别放入 source/ 与 target/。",
            ),
        )
    for pair in pair_folders:
        sources = _by_stem(pair.source, report)
        targets = _by_stem(pair.target, report)
        stems = sorted(sources.keys() | targets.keys())
        inner = positions_of(stems)
        for stem in stems:
            source, target = sources.get(stem), targets.get(stem)
            if source and target:
                name = key_of(target.relative_to(folder).as_posix())
                split = pair.split or inner[stem].split
                yield Picture(name, target, target, source=source, split=split)
            elif source:
                report(_without_partner(source, stem, pair.target, targets))
            elif target:
                report(_without_partner(target, stem, pair.source, sources))


def _without_partner(
    picture: Path, stem: str, folder: Path, others: Mapping[str, Path]
) -> Problem:
    remedy = say("Add it, or remove this one.", "请补上，或删除这一张。")
    return Problem(
        picture,
        0,
        say(
            f"it has no partner of the same name in {folder.name}/.",
            f"在 {folder.name}/ 中没有同名的图片。",
        ),
        nearest(stem, others) or remedy,
    )


def are_pairs(folder: Path, wanted: bool = False) -> bool:
    """Return whether the folder has the layout of pairs.

    The two folders must stand alone: others beside them make all of them classes. And
    A and B may be classes themselves, so half of their names must agree.

    Args:
        folder: where the two folders lie, or one with them for each split
        wanted: pairs are asked for: what lies beside them is no matter
    """
    pair_folders = _pair_folders(folder)
    if wanted or not pair_folders:
        return bool(pair_folders)
    in_pairs = {path for pair in pair_folders for path in (pair.source, pair.target)}
    return all(
        any(file.is_relative_to(path) for path in in_pairs) for file in files_in(folder)
    )


def _pair_folders(folder: Path) -> list[PairFolders]:
    """The source and target folders, at the top and in each split; within the one
    folder that is around everything.
    """
    children = _children(folder)
    while len(children) == 1 and not set(children) & set(SPLITS):
        [folder] = children.values()
        children = _children(folder)
    pairs = _named_pairs(children, "")
    for name, child in children.items():
        if name in SPLITS:
            pairs += _named_pairs(_children(child), SPLITS[name])
    return [*pairs, *_lettered_pairs(children)]


def _children(folder: Path) -> dict[str, Path]:
    """The folders in a folder that hold pictures, by their names in lower case."""
    return {
        path.name.lower(): path
        for path in sorted(folder.iterdir())
        if path.is_dir() and files_in(path)
    }


def _named_pairs(children: Mapping[str, Path], split: str) -> list[PairFolders]:
    pairs = [
        PairFolders(children[source], children[target], split)
        for source, target in NAMES
        if source in children and target in children
    ]
    first, second = (children.get(letter.lower()) for letter in LETTERS)
    if first and second and (first.name, second.name) == LETTERS:
        pair = PairFolders(first, second, split)
        if _agree(pair):
            pairs.append(pair)
    return pairs


def _lettered_pairs(children: Mapping[str, Path]) -> list[PairFolders]:
    """trainA/ with trainB/, and so on. CycleGAN's own data do not pair: their names
    differ.
    """
    pairs = list[PairFolders]()
    for name, path in children.items():
        match = UNPAIRED.fullmatch(name)
        partner = f"{name[:-1]}b"
        if match and match[2] == "a" and partner in children:
            split = SPLITS[match[1]]
            pair = PairFolders(path, children[partner], split)
            if _agree(pair):
                pairs.append(pair)
    return pairs


def remarks(folder: Path) -> list[str]:
    """Return how the pairs of a folder are pairs."""
    names = [
        f"{pair.source.relative_to(folder)} → {pair.target.relative_to(folder)}"
        for pair in _pair_folders(folder)
    ]
    listed = ", ".join(names)
    return [
        say(
            f"pairs by equal names: {listed} (as classes: --data.source folder)",
            f"按同名配对：{listed}（若是类别：--data.source folder）",
        )
    ]


def _agree(pair: PairFolders) -> bool:
    """Whether half of the names in the smaller folder are in the other too."""
    first = {_stem(file, pair.source) for file in files_in(pair.source)}
    second = {_stem(file, pair.target) for file in files_in(pair.target)}
    fewer = min(len(first), len(second))
    return 2 * len(first & second) >= max(1, fewer)


def _by_stem(folder: Path, report: Report) -> dict[str, Path]:
    files = dict[str, Path]()
    for file in files_in(folder):
        stem = _stem(file, folder)
        if stem in files:
            report(_same_stem(file, files[stem]))
        else:
            files[stem] = file
    return files


def _same_stem(file: Path, other: Path) -> Problem:
    return Problem(
        file,
        0,
        say(
            f"{other.name} has the same name but for its ending.",
            f"与 {other.name} 仅扩展名不同。",
        ),
        say("Keep one of them.", "请只保留一个。"),
    )


def _stem(file: Path, folder: Path) -> str:
    return key_of(file.relative_to(folder).with_suffix("").as_posix())


def are_side_by_side(folder: Path) -> bool:
    """Return whether every picture of a folder is twice as wide as it is high."""
    files = files_in(folder)
    with quiet():
        for file in files:
            try:
                width, height = upright_size(file)
            # Damaged files are named when they are read.
            except Exception:
                continue
            if width != 2 * height:
                return False
    return bool(files)


def side_by_side(folder: Path, report: Report) -> Iterator[Picture]:
    """Yield the right half of each picture with its left half as the source."""
    files = {
        key_of(file.relative_to(folder).as_posix()): file
        for file in listing(folder).pictures
    }
    positions = positions_of(files)
    for key, file in files.items():
        try:
            picture = open_picture(file).pixels
        except Unusable as error:
            report(Problem(file, 0, error.what, error.remedy))
            continue
        middle = picture.width // 2
        yield Picture(
            key,
            _pixels(picture, middle, 2 * middle),
            file,
            source=_pixels(picture, 0, middle),
            split=positions[key].split,
        )


def _pixels(picture: Image.Image, left: int, right: int) -> np.ndarray:
    """The columns of a picture from `left` to `right`, uint8 [H, W] or [H, W, 3]."""
    import numpy as np

    return np.asarray(picture.crop((left, 0, right, picture.height)))
