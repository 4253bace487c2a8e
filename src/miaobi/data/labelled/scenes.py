"""The pack `emoji-scenes`: scenes composed of the emoji pack's pictures, with boxes and
masks exact by construction.

Composed, not photographed: one to four emoji of six kinds, rotated, mirrored, 28 to 56
pixels large, on plain, graded or noisy grounds of 96 pixels. A box is the smallest
around the pixels that are at least half opaque and not covered; a mask names the kind
of each pixel. The same emoji occur in training and in held-out scenes, in other sizes,
angles, positions and company: what is learned is finding them, not recognising new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miaobi.core.files import home, write_beside
from miaobi.data import packs
from miaobi.data.cache import locked_folder

if TYPE_CHECKING:
    from PIL import Image

SCENES = "emoji-scenes"
COUNT = 1600
SIDE = 96
"""Pixels of a scene's side."""
SMALLEST, LARGEST = 28, 56
"""Pixels of an emoji's longer side."""
SHORTEST = 8
"""Pixels of an emoji's side, at least."""
MOST = 4
"""Emoji in a scene."""
OPAQUE = 128
"""Alpha from which a pixel belongs to an emoji."""
MOST_COVERED = 0.15
"""Share of another emoji's pixels that one may hide."""
MAX_DEGREES = 25
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


Sprites = dict[str, list["Image.Image"]]
"""By kind, its emoji as RGBA pictures."""


def scenes(count: int = COUNT) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, {"image", "mask", "objects"}) of every scene.

    They are composed once and kept under $MIAOBI_HOME/examples.
    """
    root = home() / "examples"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, f"{SCENES}-{VERSION}-{count}") as folder:
        if not folder.exists():
            _compose_all(folder, count)
    text = (folder / "scenes.jsonl").read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines()):
        scene = json.loads(line)
        scene["image"] = str(folder / scene["image"])
        scene["mask"] = str(folder / scene["mask"])
        yield f"{SCENES}:{number}", scene


def _compose_all(folder: Path, count: int) -> None:
    sprites = _sprites()
    with write_beside(folder) as draft:
        draft.mkdir()
        entries = [_write(draft, number, sprites) for number in range(count)]
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (draft / "scenes.jsonl").write_text(text, encoding="utf-8")


def _write(folder: Path, number: int, sprites: Sprites) -> dict[str, Any]:
    from PIL import Image

    pixels, mask, objects = compose(sprites, number)
    image_name, mask_name = f"{number:05}.png", f"{number:05}.mask.png"
    Image.fromarray(pixels).save(folder / image_name, compress_level=1)
    Image.fromarray(mask).save(folder / mask_name)
    return {
        "image": image_name,
        "mask": mask_name,
        "objects": objects,
    }


def _sprites() -> Sprites:
    from PIL import Image

    folder = packs.path("emoji") / "package/img/google/64"
    return {
        kind: [Image.open(folder / f"{code}.png").convert("RGBA") for code in codes]
        for kind, codes in KINDS.items()
    }


def compose(
    sprites: Sprites, number: int
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Compose scene `number`, the same every time.

    Returns:
        pixels uint8 [SIDE, SIDE, 3], class numbers uint8 [SIDE, SIDE], and its objects
    """
    draw = np.random.default_rng([VERSION, number])
    canvas = _ground(draw)
    owner = np.full((SIDE, SIDE), -1)
    kinds = list[str]()
    for _ in range(int(draw.integers(1, MOST + 1))):
        kind = list(sprites)[int(draw.integers(len(sprites)))]
        sprite = sprites[kind][int(draw.integers(len(sprites[kind])))]
        layer = _layer(_transformed(sprite, draw), draw)
        opaque = layer[..., 3] >= OPAQUE
        if (owner[opaque] >= 0).mean() > MOST_COVERED:
            continue
        alpha = layer[..., 3:] / 255
        canvas = canvas * (1 - alpha) + layer[..., :3] * alpha
        owner[opaque] = len(kinds)
        kinds.append(kind)
    numbers = [0, *(CLASSES.index(kind) for kind in kinds)]
    mask = np.array(numbers, np.uint8)[owner + 1]
    objects = [
        {
            "label": kind,
            "box": _box_around(owner == number),
        }
        for number, kind in enumerate(kinds)
    ]
    return canvas.round().clip(0, 255).astype(np.uint8), mask, objects


def _layer(sprite: Image.Image, draw: np.random.Generator) -> np.ndarray:
    """An emoji anywhere in the scene, RGBA float32 [SIDE, SIDE, 4]."""
    width, height = sprite.size
    left = int(draw.integers(0, SIDE - width + 1))
    top = int(draw.integers(0, SIDE - height + 1))
    layer = np.zeros((SIDE, SIDE, 4), np.float32)
    layer[top : top + height, left : left + width] = np.asarray(sprite)
    return layer


def _box_around(inside: np.ndarray) -> list[int]:
    """[left, top, width, height] of the pixels that are true in bool [H, W]."""
    rows = np.flatnonzero(inside.any(1))
    columns = np.flatnonzero(inside.any(0))
    left, right = int(columns[0]), int(columns[-1])
    top, bottom = int(rows[0]), int(rows[-1])
    return [left, top, right - left + 1, bottom - top + 1]


def _transformed(sprite: Image.Image, draw: np.random.Generator) -> Image.Image:
    """An emoji mirrored or not, rotated, cut to its opaque pixels and scaled."""
    from PIL import Image

    side = int(draw.integers(SMALLEST, LARGEST + 1))
    if draw.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    degrees = draw.uniform(-MAX_DEGREES, MAX_DEGREES)
    sprite = sprite.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    opaque = sprite.getchannel("A").point(lambda value: 255 * (value >= OPAQUE))
    sprite = sprite.crop(opaque.getbbox())
    scale = side / max(sprite.size)
    width = max(SHORTEST, round(sprite.width * scale))
    height = max(SHORTEST, round(sprite.height * scale))
    return sprite.resize((width, height), Image.Resampling.LANCZOS)


def _ground(draw: np.random.Generator) -> np.ndarray:
    """float32 [SIDE, SIDE, 3]: one colour, or a gradient between two, with more or less noise."""
    first, second = draw.uniform(0, 255, (2, 3))
    share = np.linspace(0, 1, SIDE)
    is_vertical = draw.random() < 0.5
    share = share[:, None, None] if is_vertical else share[None, :, None]
    is_graded = draw.random() < 0.7
    ground = first + (second - first) * share * is_graded
    strength = draw.choice([0.0, 8.0, 24.0])
    noise = strength * draw.standard_normal((SIDE, SIDE, 3))
    noisy: np.ndarray = np.broadcast_to(ground, (SIDE, SIDE, 3)) + noise
    return noisy.clip(0, 255).astype(np.float32)
