"""Training on pictures from files to a model in the store, with every recipe that comes
with miaobi.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import miaobi
from miaobi.core import bundle
from miaobi.core.errors import BadInput, MiaobiError
from miaobi.provenance.image import read_record
from miaobi.verbs import train

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "image").glob("*.yaml"))
SMALL = {"train.max_steps": 4, "train.batch_size": 4, "train.log_every": 1}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 20 photographs of odd sizes, as people have them."""
    draw = np.random.default_rng(0)
    for kind, tint in (("sea", (0, 60, 200)), ("wood", (20, 150, 30))):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(20):
            noise = draw.integers(0, 40, (37 + number, 53, 3))
            Image.fromarray((noise + tint).clip(0, 255).astype(np.uint8)).save(
                tmp_path / "photos" / kind / f"{number}.jpg"
            )
    return tmp_path / "photos"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs(path: Path, photos: Path, tmp_path: Path) -> None:
    """A few steps of each, on pictures of one's own where the recipe's are many: the
    rest of a recipe is what it is.
    """
    settings: dict[str, Any] = dict(SMALL)
    if path.stem in (
        "my_pictures",
        "fashion_stylegan",
        "fashion_cgan",
        "openmoji_colour",
    ):
        settings |= {"data.path": str(photos), "data.pack": "", "data.image_size": 32}
    if path.stem == "openmoji_colour":
        for kind, mode in (("source", "L"), ("target", "RGB")):
            (tmp_path / "pairs" / kind).mkdir(parents=True)
            for number, file in enumerate(sorted(photos.rglob("*.jpg"))):
                Image.open(file).convert(mode).save(
                    tmp_path / "pairs" / kind / f"{number}.png"
                )
        settings["data.path"] = str(tmp_path / "pairs")
    done = train.train(path, settings=settings, runs=tmp_path / "runs", quiet=True)
    assert done.modality == "image" and "generate image" in str(done)
    manifest = bundle.read(done.bundle)
    assert (
        manifest.modality == "image"
        and (done.bundle / "preprocessor_config.json").exists()
    )
    last = max((done.run / "samples").glob("*.png"))
    assert read_record(last)["model"] == done.model.split("@")[0]
    with miaobi.load(done.model) as model:
        controls: dict[str, Any] = (
            {"image": photos / "sea" / "0.jpg"}
            if "image" in model.engine.abilities.controls
            else {"n": 2}
        )
        pictures = model.generate(seed=1, **controls)
    assert pictures[0].pixels.dtype == np.uint8 and pictures[0].facts.seed == 1


def test_samples_and_metrics_reach_tensorboard(photos: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = {
        "family": "gan",
        "data": {"path": str(photos), "image_size": 16, "channels": 3},
        "model": {"width": 8},
        "train": {"max_steps": 4, "batch_size": 4, "sample_every": 2, "log_every": 1},
    }
    done = train.train(recipe, runs=tmp_path / "runs", quiet=True)
    read = EventAccumulator(str(done.run / "tensorboard"), size_guidance={"images": 0})
    read.Reload()
    assert [event.step for event in read.Images("samples")] == [2, 4]
    assert {"critic/loss", "penalty/loss", "generator/loss", "validation"} <= set(
        read.Tags()["scalars"]
    )
    rows = [
        json.loads(line) for line in (done.run / "log.jsonl").read_text().splitlines()
    ]
    assert rows[0]["step"] == 1 and "critic/loss" in rows[0]


def test_a_conditional_model_of_class_folders_paints_by_name(
    photos: Path, tmp_path: Path
) -> None:
    recipe = {
        "family": "gan",
        "name": "places",
        "data": {"path": str(photos), "image_size": 16},
        "model": {"width": 8, "conditional": True},
        "train": {"max_steps": 3, "batch_size": 4},
    }
    train.train(recipe, runs=tmp_path / "runs", quiet=True)
    with miaobi.load("places") as model:
        assert (
            model.generate(label="wood", seed=3)[0].facts.parameters["label"] == "wood"
        )
        with pytest.raises(BadInput, match="sees"):
            model.generate(label="sees")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.max_steps": 0}, "max_steps"),
        ({"data.image_size": 50}, "image_size"),
        ({"data.buckets": 3, "data.image_size": 16}, "buckets"),
        ({"model.augment": ["colours"]}, "colour"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    settings: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    recipe = {
        "family": "gan",
        "data": {"path": str(photos), "image_size": 16},
        "model": {"width": 8},
        "train": {"max_steps": 3, "batch_size": 4},
    }
    with pytest.raises(MiaobiError, match=message):
        train.train(recipe, settings=settings, runs=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_recipes_with_the_sample_settings_of_every_family_still_run() -> None:
    """Runs of 0.1 saved prompts, max_new_tokens and pictures whatever the family."""
    sample = {"prompts": ["春"], "max_new_tokens": 8, "pictures": 4}
    image = train.settle({"family": "gan", "sample": sample})
    assert image.values["sample"] == {"pictures": 4}
    text = train.settle({"family": "gpt", "sample": sample})
    assert text.values["sample"] == {"prompts": ["春"], "max_new_tokens": 8}
    with pytest.raises(BadInput, match="pictres"):
        train.settle({"family": "gan", "sample": {"pictres": 4}})
