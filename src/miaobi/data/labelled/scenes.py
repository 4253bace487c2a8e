"""The pack `emoji-scenes`: scenes composed of the emoji pack's pictures, with boxes and
masks exact by construction.

Composed, not photographed: one to four emoji of six kinds, turned, mirrored, 28 to 56
    pixels large, on plain, graded or noisy grounds of 96 pixels. A box is the smallest
    around the pixels that are at least half opaque and not covered; a mask names the
    kind of each pixel. The same emoji occur in training and in held-out scenes, in
    other sizes, turns, places and company: what is learned is finding them, not knowing
    new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.files import home, write_beside
from miaobi.data import packs
from miaobi.data.cache import locked_folder

SCENES = "emoji-scenes"
COUNT, SIDE, SMALLEST, LARGEST, MOST = 1600, 96, 28, 56, 4
VERSION = 1
BACKGROUND = "background"
KINDS = {
    "face": ("1f600", "1f603", "1f604", "1f60a", "1f60d", "1f61c", "1f622", "1f62e"),
    "animal": (
        "1f42d",
        "1f42f",
        "1f430",
        "1f431",
        "1f436",
        "1f437",
        "1f438",
        "1f43b",
        "1f43c",
        "1f428",
    ),
    "fruit": (
        "1f347",
        "1f349",
        "1f34a",
        "1f34b",
        "1f34c",
        "1f34d",
        "1f34e",
        "1f350",
        "1f351",
        "1f353",
    ),
    "vehicle": ("1f695", "1f697", "1f699", "1f68c", "1f691", "1f692", "1f69a", "1f69c"),
    "ball": ("26bd", "1f3c0", "1f3c8", "26be", "1f3be", "1f3d0", "1f3b1"),
    "flower": ("1f337", "1f338", "1f339", "1f33a", "1f33b", "1f33c"),
}
CLASSES = (BACKGROUND, *KINDS)


def scenes(count: int = COUNT) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, {"image", "mask", "objects"}) of every scene; composed once and kept
    under $MIAOBI_HOME/examples.
    """
    root = home() / "examples"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, f"{SCENES}-{VERSION}-{count}") as folder:
        if not folder.exists():
            sprites = _sprites()
            with write_beside(folder) as draft:
                draft.mkdir()
                lines = [_write(draft, number, sprites) for number in range(count)]
                (draft / "scenes.jsonl").write_text(
                    "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
                )
    for number, line in enumerate(
        (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        scene = json.loads(line)
        yield (
            f"{SCENES}:{number}",
            {
                **scene,
                "image": str(folder / scene["image"]),
                "mask": str(folder / scene["mask"]),
            },
        )


def _write(folder: Path, number: int, sprites: dict[str, list[Any]]) -> dict[str, Any]:
    from PIL import Image

    pixels, mask, objects = compose(sprites, number)
    Image.fromarray(pixels).save(folder / f"{number:05}.png", compress_level=1)
    Image.fromarray(mask).save(folder / f"{number:05}.mask.png")
    return {
        "image": f"{number:05}.png",
        "mask": f"{number:05}.mask.png",
        "objects": objects,
    }


def _sprites() -> dict[str, list[Any]]:
    """By kind, its emoji as RGBA pictures."""
    from PIL import Image

    folder = packs.path("emoji") / "package/img/google/64"
    return {
        kind: [Image.open(folder / f"{code}.png").convert("RGBA") for code in codes]
        for kind, codes in KINDS.items()
    }


def compose(
    sprites: dict[str, list[Any]], number: int
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Scene `number`: pixels uint8 [SIDE, SIDE, 3], class numbers uint8 [SIDE, SIDE],
    and its objects. The same every time.
    """
    draw = np.random.default_rng([VERSION, number])
    canvas = _ground(draw)
    owner = np.full((SIDE, SIDE), -1)
    kinds = list[str]()
    for _ in range(int(draw.integers(1, MOST + 1))):
        kind = list(sprites)[int(draw.integers(len(sprites)))]
        sprite = _turned(sprites[kind][int(draw.integers(len(sprites[kind])))], draw)
        left, top = (int(draw.integers(0, SIDE - side + 1)) for side in sprite.size)
        layer = np.zeros((SIDE, SIDE, 4), np.float32)
        layer[top : top + sprite.height, left : left + sprite.width] = np.asarray(
            sprite
        )
        solid = layer[..., 3] >= 128
        if (owner[solid] >= 0).mean() > 0.15:
            continue  # it would cover another
        alpha = layer[..., 3:] / 255
        canvas = canvas * (1 - alpha) + layer[..., :3] * alpha
        owner[solid] = len(kinds)
        kinds.append(kind)
    mask = np.array([0, *(CLASSES.index(kind) for kind in kinds)], np.uint8)[owner + 1]
    return (
        canvas.round().clip(0, 255).astype(np.uint8),
        mask,
        [
            {"label": kind, "box": _around(owner == place)}
            for place, kind in enumerate(kinds)
        ],
    )


def _around(inside: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    ]


def _turned(sprite: Any, draw: np.random.Generator) -> Any:
    from PIL import Image

    side = int(draw.integers(SMALLEST, LARGEST + 1))
    if draw.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.rotate(draw.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)
    sprite = sprite.crop(
        sprite.getchannel("A").point(lambda value: 255 * (value >= 128)).getbbox()
    )
    scale = side / max(sprite.size)
    return sprite.resize(
        (max(8, round(sprite.width * scale)), max(8, round(sprite.height * scale))),
        Image.Resampling.LANCZOS,
    )


def _ground(draw: np.random.Generator) -> np.ndarray:
    """float32 [SIDE, SIDE, 3]: one colour, or a gradient between two, with more or less noise."""
    first, second = draw.uniform(0, 255, (2, 3))
    share = (
        np.linspace(0, 1, SIDE)[:, None, None]
        if draw.random() < 0.5
        else np.linspace(0, 1, SIDE)[None, :, None]
    )
    ground = first + (second - first) * share * (draw.random() < 0.7)
    noise = draw.choice([0.0, 8.0, 24.0]) * draw.standard_normal((SIDE, SIDE, 3))
    return (
        (np.broadcast_to(ground, (SIDE, SIDE, 3)) + noise)
        .clip(0, 255)
        .astype(np.float32)
    )
