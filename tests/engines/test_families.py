"""The engine of picture families: seeds, classes, translation, sizes, and whole
batches, on families small enough to see through.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.engines.families import CLASSES, Points, register, written
from tests.verbs import toy_pictures

import miaobi
from miaobi.core.errors import BadInput, MiaobiError, Unsupported
from miaobi.core.requests import TextRequest
from miaobi.engines.model import Model


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Model]:
    with miaobi.load(written(tmp_path / "points", "points")) as model:
        yield model


def test_auto_picks_the_engine(points: Model) -> None:
    assert (points.engine_name, points.engine.modality) == ("pictures", "image")
    assert points.engine.spec.classes == CLASSES
    assert isinstance(points.engine.net, Points)


def test_pictures_carry_what_makes_them_again(points: Model) -> None:
    made = points.generate(n=3, seed=5)
    assert [picture.pixels.shape for picture in made] == [(8, 12, 1)] * 3
    assert all(
        picture.pixels.dtype == np.uint8 and picture.finish == "stop"
        for picture in made
    )
    assert len({picture.pixels.tobytes() for picture in made}) == 3
    for at, picture in enumerate(made):
        facts = picture.facts
        assert (facts.model, facts.engine, facts.seed, facts.request_id) == (
            "points",
            "pictures",
            5 + at,
            made[0].facts.request_id,
        )
        again = points.generate(seed=facts.seed)[0]
        assert (again.pixels == picture.pixels).all(), (
            "picture i of seed s is the picture of seed s + i, however many were asked for"
        )
        assert facts.parameters["label"] in CLASSES, "the class that was drawn"
        assert again.facts.parameters == {"label": facts.parameters["label"]}


def test_at_most_64_are_decoded_together_and_order_is_kept(points: Model) -> None:
    made = points.generate(n=100, seed=0)
    assert points.engine.net.batches == [64, 36]
    assert (made[70].pixels == points.generate(seed=70)[0].pixels).all()


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
    assert (points.generate(label="crow", seed=1)[0].pixels - 127.5 == far).all()


@pytest.mark.parametrize(
    ("controls", "error", "words"),
    [
        ({"width": 16}, Unsupported, "width is 16; points paints 12 x 8"),
        ({"height": 16}, Unsupported, "height is 16"),
        ({"ask": "a crow"}, Unsupported, "prompt"),
        ({"num_inference_steps": 3}, Unsupported, "num_inference_steps"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, Unsupported, "image"),
        ({"lable": "crow"}, BadInput, "label"),
        ({"raw": True}, Unsupported, "raw"),
    ],
)
def test_what_it_cannot_do_is_refused(
    points: Model, controls: dict[str, Any], error: type[MiaobiError], words: str
) -> None:
    with pytest.raises(error, match=words):
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


def test_the_stream_ends_each_index_once(points: Model) -> None:
    chunks = list(points.stream(n=70, seed=1))
    assert [chunk.index for chunk in chunks] == list(range(70))
    assert all(
        chunk.finish == "stop" and chunk.artifact is not None for chunk in chunks
    )


WIDE = np.repeat(np.linspace(0, 255, 16, dtype=np.uint8)[None, :, None], 8, 0).repeat(
    3, 2
)
"""8 high, 16 wide: dark to light from left to right."""


def test_translation_is_cropped_back_to_the_pictures_shape(tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    Pillow.fromarray(WIDE).save(file)
    with miaobi.load(written(tmp_path / "padded", "negative", "pad")) as model:
        made = model.generate(image=file)[0]
        assert made.pixels.shape == (4, 8, 3), "16 x 8 on a canvas of 8 x 8 is 8 x 4"
        assert made.pixels[0, 0, 0] > 240 > 15 > made.pixels[0, -1, 0], (
            "red is the negative"
        )
        assert np.allclose(
            made.pixels[..., 0].astype(int) + made.pixels[..., 1], 255, atol=1
        )
        assert set(made.facts.parameters) == {"image"}
        with pytest.raises(BadInput, match="there is no image"):
            model.generate()
    for fit in ("crop", "stretch"):
        with miaobi.load(written(tmp_path / fit, "negative", fit)) as model:
            made = model.generate(image=WIDE)[0].pixels
            assert made.shape == (8, 8, 3)
            left = made[4, 0, 1]
            assert left < 20 if fit == "stretch" else 50 < left < 90, (
                "crop cuts a quarter off either side"
            )


def test_pictures_like_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_pictures.register(monkeypatch)
    with miaobi.load(toy_pictures.toy_bundle(tmp_path / "toy", "encodes")) as model:
        given = model.generate(seed=9)[0].pixels
        (same,) = model.generate(image=given.repeat(3, 2), strength=0.0, seed=1)
        assert np.abs(same.pixels.astype(int) - given).max() <= 2, (
            "strength 0 restores what the model can hold of it"
        )
        new = model.generate(image=given.repeat(3, 2), strength=1.0, seed=1, n=3)
        assert all(
            (one.pixels == other.pixels).all()
            for one, other in zip(new, model.generate(seed=1, n=3), strict=True)
        ), "strength 1 draws anew"
        near, far = (
            np.abs(
                model.generate(image=given.repeat(3, 2), seed=1, strength=value)[
                    0
                ].pixels.astype(int)
                - given
            ).mean()
            for value in (0.2, 0.9)
        )
        assert 0 < near < far
        assert set(
            model.generate(image=given.repeat(3, 2), seed=1)[0].facts.parameters
        ) == {"image"}
        with pytest.raises(BadInput, match="image and truncation"):
            model.generate(image=given, truncation=0.5)
    with miaobi.load(
        toy_pictures.toy_bundle(tmp_path / "classes", "encodes", conditional=True)
    ) as model:
        with pytest.raises(BadInput, match="know the class") as caught:
            model.generate(image=given)
        assert "dark, light" in caught.value.remedy
        assert (
            model.generate(image=given, label="dark", seed=1)[0].facts.parameters[
                "label"
            ]
            == "dark"
        )


def test_engines_for_words_pass_by(tmp_path: Path) -> None:
    folder = written(tmp_path / "points", "points")
    for engine in ("openvino", "llamacpp", "native"):
        from miaobi.engines import engines
        from miaobi.models import weights

        assert not engines.get(engine).reads(weights.of_path(folder))
