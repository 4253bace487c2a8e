"""Builds folders of pictures in the shapes of public reports: what people have.

Run: python folders_people_have.py ROOT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ELLIPSES = 6
SIDE = 64


def pic(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A picture of its own for each seed: ellipses on a ground."""
    draw = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), _colour(draw))
    pen = ImageDraw.Draw(picture)
    for _ in range(ELLIPSES):
        x, other_x = sorted(draw.integers(0, width, 2).tolist())
        y, other_y = sorted(draw.integers(0, height, 2).tolist())
        pen.ellipse([x, y, other_x + 1, other_y + 1], fill=_colour(draw))
    return picture


def _colour(draw: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = draw.integers(0, 256, 3).tolist()
    return red, green, blue


def paint(path: Path, seed: int, **shape: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pic(seed, **shape).save(path)


def paint_all(
    folder: Path, count: int, first: int, ending: str = "png", **shape: int
) -> None:
    """Pictures 0.png, 1.png and so on, of the seeds from `first`."""
    for number in range(count):
        paint(folder / f"{number}.{ending}", first + number, **shape)


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    lines = [json.dumps(row) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def make(root: Path) -> None:
    """Build every folder in `root`."""
    names(root / "names")
    links(root)
    classes(root)
    few_and_odd(root)
    metadata(root)
    kohya(root)
    pairs(root)
    depths(root)


def names(folder: Path) -> None:
    for number, name in enumerate(
        (
            "ä ö ü.png",
            "照片 一.png",
            "emoji😀.png",
            "e\u0301.png",
            "a" * 240 + ".png",
            "with\nnewline.png",
            "'quote\".png",
            "-dash.png",
            "#hash?.png",
            "trail .png",
            "CON.png",
        )
    ):
        paint(folder / name, 20 + number)
    latin = os.fsencode(str(folder)) + b"/latin1-\xe9.png"
    pic(99).save(os.fsdecode(latin), "PNG")


def links(root: Path) -> None:
    target = root / "symlink_target"
    paint_all(target, 20, 100)
    paint_all(root / "symlinks" / "b", 20, 130)
    (root / "symlinks" / "a").symlink_to(target, target_is_directory=True)
    (root / "symlinks" / "b" / "broken.png").symlink_to("/nonexistent.png")
    every = root / "symlink_all"
    every.mkdir()
    (every / "x").symlink_to(target, target_is_directory=True)
    (every / "y").symlink_to(root / "symlinks" / "b", target_is_directory=True)
    (every / "loop").symlink_to(every, target_is_directory=True)


def classes(root: Path) -> None:
    tops = ("animals/cat", "animals/dog", "plants/oak", "plants/rose")
    for number, name in enumerate(tops):
        paint_all(root / "nested" / name, 8, 200 + 10 * number)
    for folder, first in (
        ("mixed_depth", 300),
        ("mac_windows_litter", 400),
        ("empty_class", 500),
    ):
        paint_all(root / folder / "cat", 8, first)
        paint_all(root / folder / "dog", 8, first + 50)
    paint(root / "mixed_depth" / "cat" / "kittens" / "k.png", 399)
    (root / "empty_class" / "empty").mkdir()
    litter = root / "mac_windows_litter"
    for name in ("cat", "dog"):
        (litter / name / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (litter / name / "Thumbs.db").write_bytes(b"\xd0\xcf")
        (litter / name / "desktop.ini").write_text("[.ShellClassInfo]")
        (litter / name / "._0.png").write_bytes(b"\0\5\x16\7")
    paint(litter / ".ipynb_checkpoints" / "x.png", 1)
    paint(litter / "@eaDir" / "SYNOPHOTO_THUMB_M.jpg", 480)
    paint(litter / "__MACOSX" / "y.png", 2)
    odd = ("with space", "猫", "a-b_c.d", "10", "9", "Ünï", "train dogs", "e\u0301")
    for number, name in enumerate(odd):
        paint_all(root / "odd_classes" / name, 4, 600 + 10 * number)
    for number, name in enumerate(("train", "car", "bus")):
        paint_all(root / "vehicles" / name, 6, 2000 + 10 * number)


def few_and_odd(root: Path) -> None:
    for number in range(5):
        paint(root / "one_per_class" / f"c{number}" / "1.png", 700 + number)
    paint_all(root / "three", 3, 710)
    paint_all(root / "one", 1, 720)
    (root / "empty").mkdir()
    paint_all(root / "wide", 12, 760, width=3000, height=20)
    for number in range(30):
        paint(root / "dups" / f"{number}.png", 770 + number % 3)
    for number in range(20):
        path = root / "colourmix" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture = pic(730 + number)
        picture.convert("RGB" if number % 2 else "L").save(path)


def metadata(root: Path) -> None:
    sub = root / "meta_sub"
    paint_all(sub / "images" / "a", 10, 800)
    rows = [
        {"file_name": f"images\\a\\{number}.png", "text": f"pic {number}"}
        for number in range(10)
    ]
    write_lines(sub / "metadata.jsonl", rows)
    _split_metadata(root / "meta_split")
    for name, table, columns, file in (
        ("meta_case", "metadata.jsonl", ("file_name", "text"), "IMG_{}.jpg"),
        ("meta_typo", "metadata.json1", ("file_name", "text"), "img{}.png"),
        ("meta_images", "metadata1000.jsonl", ("image", "caption"), "images/{}.png"),
        ("meta_column", "metadata.jsonl", ("image", "caption"), "{}.png"),
        ("meta_absolute", "metadata.jsonl", ("file_name", "text"), "{root}/{}.png"),
    ):
        folder = root / name
        described = [file.format(number, root=folder.as_posix()) for number in range(6)]
        for number, written in enumerate(described):
            path = folder / written.replace(".jpg", ".JPG")
            paint(path, 850 + number)
        rows = [
            dict(zip(columns, (written, f"pic {number}"), strict=True))
            for number, written in enumerate(described)
        ]
        write_lines(folder / table, rows)
    for number, name in enumerate(("cat", "dog")):
        folder = root / "meta_in_class" / name
        paint_all(folder, 6, 900 + 20 * number)
        rows = [
            {"file_name": f"{item}.png", "text": f"a {name} {item}"}
            for item in range(6)
        ]
        write_lines(folder / "metadata.jsonl", rows)


def _split_metadata(folder: Path) -> None:
    lines = ["\ufefffile_name,text"]
    for split, count, first in (("train", 10, 820), ("test", 4, 840)):
        paint_all(folder / split, count, first)
        lines += [
            f'{split}/{number}.png,"hello, {split} {number}"' for number in range(count)
        ]
    text = "".join(f"{line}\r\n" for line in lines)
    (folder / "metadata.csv").write_bytes(text.encode())


def kohya(root: Path) -> None:
    for name, folder, ending, first in (
        ("kohya", "10_sks dog", "txt", 920),
        ("kohya_extra", "10_sks dog", "txt", 930),
        ("kohya_two", "10_sks dog", "caption", 940),
        ("kohya_two", "1_dog", "caption", 960),
    ):
        pictures = root / name / folder
        paint_all(pictures, 6, first)
        for number in range(6):
            text = f"{folder}, number {number}"
            (pictures / f"{number}.{ending}").write_text(text)
    (root / "kohya_extra" / "README.txt").write_text("hello")
    (root / "kohya_extra" / "sample_prompts.txt").write_text("sks dog")


def pairs(root: Path) -> None:
    for number in range(10):
        both = Image.new("RGB", (2 * SIDE, SIDE))
        both.paste(pic(960 + number), (0, 0))
        both.paste(pic(980 + number).convert("L").convert("RGB"), (SIDE, 0))
        path = root / "pairs_aligned" / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        both.save(path)
    for name, form in (
        ("pairs_train_a", "{split}{side}"),
        ("pairs_a", "{side}/{split}"),
    ):
        for split, count in (("train", 8), ("test", 3)):
            for number, side in enumerate("AB"):
                folder = root / name / form.format(split=split, side=side)
                paint_all(folder, count, 1000 + 100 * number + 10 * count)
    for split, count in (("train", 8), ("test", 3)):
        for number, side in enumerate("AB"):
            folder = root / "unpaired" / f"{split}{side}"
            for item in range(count):
                paint(
                    folder / f"{side}{item}.png", 3000 + 99 * number + 9 * count + item
                )
    for side, ending, first in (("source", "png", 1400), ("target", "jpg", 1500)):
        paint_all(root / "pairs_endings" / side, 8, first, ending)
    for number, letter in enumerate("ABC"):
        paint_all(root / "letters" / letter, 6, 1600 + 10 * number)


def depths(root: Path) -> None:
    """One set of each depth, none of which uses all of its range."""
    ramp = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    sets: dict[str, tuple[float, Any]] = {
        "10bit": (1020, np.uint16),
        "12bit": (4090, np.uint16),
        "16bit": (60000, np.uint16),
        "32bit": (255, np.int32),
        "floats": (0.9, np.float32),
    }
    for name, (white, kind) in sets.items():
        folder = root / name
        folder.mkdir()
        for number, share in enumerate((0.1, 0.5, 1.0)):
            values = (ramp * white * share).astype(kind)
            Image.fromarray(values).save(folder / f"{number}.tif")
    signed = root / "signed"
    signed.mkdir()
    for number, share in enumerate((0.5, 1.0)):
        values = ((2 * ramp - 1) * share).astype(np.float32)
        Image.fromarray(values).save(signed / f"{number}.tif")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
