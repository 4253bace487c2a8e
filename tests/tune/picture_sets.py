"""Small sets of pictures as people have them, written by the tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from miaobi.core.engine import Weights
from miaobi.data.labelled import Reader
from miaobi.models.base import Base
from miaobi.tune.learner import Example, Task

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


def picture(colour: str, seed: int, width: int = 32, height: int = 32) -> Image.Image:
    """Mostly of one colour, with noise."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 20, (height, width, 3))
    values = np.array(COLOURS[colour]) + noise
    pixels = values.clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def class_folders(folder: Path, each: int = 8) -> Path:
    for colour in COLOURS:
        class_folder = folder / colour
        class_folder.mkdir(parents=True)
        for seed in range(each):
            image = picture(colour, seed)
            image.save(class_folder / f"{seed}.png")
    return folder


def captioned(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    rows = []
    colours = list(COLOURS)
    for seed in range(count):
        colour = colours[seed % 3]
        name = f"{seed}.png"
        image = picture(colour, seed, 40, 32)
        image.save(folder / name)
        row = {"file_name": name, "caption": f"a {colour} field"}
        rows.append(json.dumps(row) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))
    return folder


def base_of(folder: Path, kind: str = "transformers") -> Base:
    return Base(Weights(kind, str(folder), folder.name, modality="image"), folder)


def examples_of(
    task: Task, reader: Reader, path: Path, config: object
) -> list[Example]:
    rows = [task.columns(record, config) for _, record in reader(str(path), "")]
    return [Example(columns, "", task.question(columns)) for columns in rows]
