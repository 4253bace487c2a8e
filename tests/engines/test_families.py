"""The engine of picture families: seeds, classes, translation, sizes, and whole
batches, on families small enough to see through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.engines.families import CLASSES, Points, register, written
from tests.verbs import toy_pictures

import miaobi
from miaobi.core.errors import BadInput, MiaobiError, Unsupported
from miaobi.core.requests import ImageRequest, TextRequest
from miaobi.engines import engines
from miaobi.engines.model import Model
from miaobi.models import weights


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Model]:
    with miaobi.load(written(tmp_path / "points", "points")) as model:
        yield model


def test_auto_picks_the_engine(points: Model) -> None:
    assert (points.engine_name, points.engine.takes) == ("pictures", ImageRequest)
    assert points.engine.spec.classes == CLASSES
    assert isinstance(points.engine.net, Points)


def test_images_carry_what_makes_them_again(points: Model) -> None:
    images = points.generate(n=3, seed=5)
    assert len({image.pixels.tobytes() for image in images}) == 3
    for index, image in enumerate(images):
        assert image.pixels.shape == (8, 12, 1)
        assert image.pixels.dtype == np.uint8
        assert image.finish == "stop"
        facts = image.facts
        assert facts.model == "points"
        assert facts.engine == "pictures"
        assert facts.seed == 5 + index
        assert facts.request_id == images[0].facts.request_id
        assert facts.parameters["label"] in CLASSES, "the class that was drawn"


def test_words_guidance_and_steps_reach_the_model(tmp_path: Path) -> None:
    with miaobi.load(written(tmp_path / "captioned", "captioned")) as model:
        images = model.generate(
            "a fox", n=2, seed=1, guidance_scale=7.0, num_inference_steps=20
        )
        assert [image.pixels.ravel().tolist() for image in images] == [[5, 7, 20]] * 2
        assert images[0].facts.parameters["prompt"] == "a fox"
        with pytest.raises(Unsupported, match="does not offer label") as caught:
            model.generate("a fox", label="crow")
        assert caught.value.field == "label"


@pytest.mark.parametrize(
    ("controls", "offered", "missing"),
    [
        (None, {"label", "image", "prompt", "strength"}, set()),
        (("label", "truncation"), {"label", "truncation"}, {"image", "prompt"}),
        ((), {"n", "seed", "width"}, {"label", "truncation", "guidance_scale"}),
    ],
)
def test_a_bundle_says_what_its_model_offers(
    tmp_path: Path, controls: Sequence[str] | None, offered: set[str], missing: set[str]
) -> None:
    """A bundle of 0.1 does not say: anything that a family can may be tried."""
    folder = written(tmp_path / "points", "points", controls=controls)
    fields = engines.get("pictures").ABILITIES.of(weights.find(str(folder)))
    assert offered <= fields
    assert not missing & fields


def test_image_i_of_seed_s_is_the_image_of_seed_s_plus_i(points: Model) -> None:
    for image in points.generate(n=3, seed=5):
        again = points.generate(seed=image.facts.seed)[0]
        assert (again.pixels == image.pixels).all()
        assert again.facts.parameters == {"label": image.facts.parameters["label"]}


def test_at_most_64_are_decoded_together_in_order(points: Model) -> None:
    images = points.generate(n=100, seed=0)
    assert points.engine.net.batches == [64, 36]
    (alone,) = points.generate(seed=70)
    assert (images[70].pixels == alone.pixels).all()


def test_classes_by_name_and_number(points: Model) -> None:
    by_name, by_number, other = (
        points.generate(label=label, seed=1)[0] for label in ("crow", "1", "swan")
    )
    assert (by_name.pixels == by_number.pixels).all()
    assert by_number.facts.parameters["label"] == "crow"
    assert np.allclose(other.pixels.astype(int) - by_name.pixels, 0.25 * 127.5, atol=1)
    for label, near in (("cran", "crane"), ("7", "crane"), ("", "crane")):
        with pytest.raises(BadInput, match="knows no class") as caught:
            points.generate(label=label)
        assert near in caught.value.remedy


def test_truncation_draws_nearer(points: Model) -> None:
    far, near = (
        points.generate(label="crow", seed=1, truncation=psi)[0].pixels.astype(float)
        - 127.5
        for psi in (1.0, 0.1)
    )
    assert np.abs(near).mean() < 0.3 * np.abs(far).mean()
    (usual,) = points.generate(label="crow", seed=1)
    assert (usual.pixels - 127.5 == far).all()


@pytest.mark.parametrize(
    ("controls", "error", "message"),
    [
        ({"width": 16}, Unsupported, "width is 16; points makes 12 x 8"),
        ({"height": 16}, Unsupported, "height is 16"),
        ({"ask": "a crow"}, Unsupported, "prompt"),
        ({"num_inference_steps": 3}, Unsupported, "num_inference_steps"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, Unsupported, "image"),
        ({"lable": "crow"}, BadInput, "label"),
        ({"raw": True}, Unsupported, "raw"),
    ],
)
def test_what_it_cannot_do_is_refused(
    points: Model, controls: dict[str, Any], error: type[MiaobiError], message: str
) -> None:
    with pytest.raises(error, match=message):
        points.generate(**controls)
    assert points.generate(width=12, height=8, seed=1)[0].pixels.shape == (8, 12, 1)


def test_other_kinds_of_asks_are_refused(points: Model) -> None:
    for ask in (TextRequest(prompt="x"), [{"role": "user", "content": "x"}]):
        with pytest.raises(Unsupported, match="makes image"):
            points.generate(ask)
    with pytest.raises(Unsupported, match="does not write"):
        points.context_length  # noqa: B018
    assert not points.chats
    with pytest.raises(Unsupported, match="cannot score"):
        points.score("x")


def test_the_stream_finishes_each_index_once(points: Model) -> None:
    chunks = list(points.stream(n=70, seed=1))
    assert [chunk.index for chunk in chunks] == list(range(70))
    for chunk in chunks:
        assert chunk.finish == "stop"
        assert chunk.artifact is not None


RAMP = np.linspace(0, 255, 16, dtype=np.uint8)
WIDE = np.tile(RAMP[None, :, None], (8, 1, 3))
"""8 high, 16 wide: dark to light from left to right."""


def test_translation_is_cropped_back_to_the_images_shape(tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    Pillow.fromarray(WIDE).save(file)
    with miaobi.load(written(tmp_path / "padded", "negative", "pad")) as model:
        (image,) = model.generate(image=file)
        with pytest.raises(BadInput, match="there is no image"):
            model.generate()
    assert image.pixels.shape == (4, 8, 3), "16 x 8 on a canvas of 8 x 8 is 8 x 4"
    red, green, _ = image.pixels.transpose(2, 0, 1).astype(int)
    assert red[0, 0] > 240 > 15 > red[0, -1]
    assert np.allclose(red + green, 255, atol=1), "red is the negative"
    assert set(image.facts.parameters) == {"image"}


@pytest.mark.parametrize(
    ("fit", "low", "high"),
    [
        ("stretch", 0, 20),
        ("crop", 50, 90),  # a quarter is cut off on either side
    ],
)
def test_translation_of_fitted_images(
    tmp_path: Path, fit: str, low: int, high: int
) -> None:
    with miaobi.load(written(tmp_path / fit, "negative", fit)) as model:
        pixels = model.generate(image=WIDE)[0].pixels
    assert pixels.shape == (8, 8, 3)
    left = pixels[4, 0, 1]
    assert low <= left < high


@pytest.fixture
def encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    toy_pictures.register(monkeypatch)
    folder = toy_pictures.toy_bundle(tmp_path / "toy", "encodes")
    with miaobi.load(folder) as model:
        yield model


def test_variations_of_an_image(encodes: Model) -> None:
    original = encodes.generate(seed=9)[0].pixels
    source = original.repeat(3, 2)

    def distance(strength: float) -> np.ndarray:
        (image,) = encodes.generate(image=source, seed=1, strength=strength)
        difference: np.ndarray = np.abs(image.pixels.astype(int) - original)
        return difference

    assert distance(0.0).max() <= 2, "strength 0 restores what the model can hold of it"
    assert 0 < distance(0.2).mean() < distance(0.9).mean()
    new = encodes.generate(image=source, strength=1.0, seed=1, n=3)
    for image, drawn in zip(new, encodes.generate(seed=1, n=3), strict=True):
        assert (image.pixels == drawn.pixels).all(), "strength 1 draws anew"
    (usual,) = encodes.generate(image=source, seed=1)
    assert set(usual.facts.parameters) == {"image"}
    with pytest.raises(BadInput, match="image and truncation"):
        encodes.generate(image=original, truncation=0.5)


def test_variations_need_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_pictures.register(monkeypatch)
    folder = toy_pictures.toy_bundle(tmp_path / "classes", "encodes", conditional=True)
    with miaobi.load(folder) as model:
        source = model.generate(seed=9)[0].pixels
        with pytest.raises(BadInput, match="know the class") as caught:
            model.generate(image=source)
        assert "dark, light" in caught.value.remedy
        (image,) = model.generate(image=source, label="dark", seed=1)
    assert image.facts.parameters["label"] == "dark"


@pytest.mark.parametrize("engine", ["openvino", "llamacpp", "native"])
def test_text_engines_do_not_read_it(tmp_path: Path, engine: str) -> None:
    folder = written(tmp_path / "points", "points")
    assert not engines.get(engine).reads(weights.of_path(folder))
