"""Requests that hold pictures: equal by their pixels, recorded by their hash, checked
when they are made.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miaobi.core.engine import Abilities, accepted
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.requests import ImageRequest, TextRequest, recorded

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def test_requests_with_pixels_are_equal_when_their_pixels_are() -> None:
    request = ImageRequest(image=PIXELS)
    assert request == ImageRequest(image=PIXELS.copy())
    assert request != ImageRequest(image=PIXELS.copy(), seed=1)
    assert request != ImageRequest(image=PIXELS[::-1])
    assert request != ImageRequest(image=PIXELS.reshape(2, 8, 3))
    assert request != ImageRequest()
    assert request != ImageRequest(image=Path("picture.png"))
    assert ImageRequest() != TextRequest(prompt="")


def test_names_of_files_become_paths() -> None:
    assert ImageRequest(image="a/b.png").image == Path("a/b.png")


def test_what_was_changed() -> None:
    assert ImageRequest().changed() == {}
    request = ImageRequest(prompt="a fox", image=PIXELS, strength=0.0, n=2)
    assert list(request.changed()) == ["n", "prompt", "image", "strength"]
    assert request.changed()["image"] is PIXELS
    assert TextRequest(prompt="x", stop=("a",)).changed() == {
        "prompt": "x",
        "stop": ("a",),
    }


def test_pictures_are_recorded_by_their_hash(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"abc")
    # The SHA-256 of abc (FIPS 180-2).
    assert recorded(file) == "sha256:ba7816bf8f01cfea"
    assert recorded(PIXELS) == recorded(PIXELS.copy())
    assert recorded(PIXELS) != recorded(PIXELS.reshape(2, 8, 3))
    assert str(recorded(PIXELS)).startswith("sha256:")
    assert recorded(Path("starry")) == "starry"
    assert recorded(0.5) == 0.5


def test_refusals_do_not_print_pixels() -> None:
    request = ImageRequest(image=PIXELS)
    with pytest.raises(
        Unsupported, match=r"image \(asked for 'sha256:[0-9a-f]{16}'\)"
    ) as caught:
        accepted(request, ImageRequest, Abilities(frozenset({"prompt"})), "toy")
    assert caught.value.field == "image"
    accepted(request, ImageRequest, Abilities(frozenset({"image"})), "toy")


@pytest.mark.parametrize(
    ("controls", "problem"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": -3}, "-3"),
        ({"guidance_scale": 101.0}, "101"),
        ({"truncation": 0.0}, "truncation is 0"),
        ({"truncation": 1.1}, "1.1"),
        ({"image": PIXELS, "strength": 1.5}, "strength is 1.5"),
        ({"image": PIXELS, "upscale": 5}, "2, 3, 4, 8"),
        ({"mask": PIXELS}, "there is no image"),
        ({"strength": 0.5}, "no image"),
        ({"style": Path("s.png")}, "no image"),
        ({"upscale": 2}, "no image"),
        ({"guidance_scale": float("nan")}, "nan"),
        ({"width": 4}, "width is 4"),
    ],
)
def test_values_out_of_bounds_are_refused(
    controls: dict[str, object], problem: str
) -> None:
    with pytest.raises(BadInput, match=problem):
        ImageRequest(**controls)
