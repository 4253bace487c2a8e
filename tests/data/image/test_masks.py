"""Masks as editors save them say what is repainted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miaobi.data.image.masks import mask_remark, outside_kept, read_mask

INSIDE = np.zeros((8, 8), bool)
INSIDE[2:5, 3:7] = True


def layer(colour: tuple[int, int, int]) -> np.ndarray:
    """Drawn in one colour on a transparent layer."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[INSIDE] = (*colour, 255)
    return pixels


def photo_with_hole() -> np.ndarray:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (8, 8, 4)).astype(np.uint8)
    pixels[..., 3] = np.where(INSIDE, 0, 255)
    return pixels


def black_and_white_on_a_layer() -> np.ndarray:
    """Black is drawn around white; the rest was never touched."""
    pixels = layer((255, 255, 255))
    pixels[0] = (0, 0, 0, 255)
    return pixels


def plain() -> np.ndarray:
    return np.where(INSIDE, 255, 0).astype(np.uint8)


MASKS = {
    "white on a layer": layer((255, 255, 255)),
    "black on a layer": layer((0, 0, 0)),
    "red on a layer": layer((255, 0, 0)),
    "a photo with a hole": photo_with_hole(),
    "black and white on a layer": black_and_white_on_a_layer(),
    "black and white": plain(),
}


@pytest.mark.parametrize("name", MASKS)
def test_what_is_drawn_is_repainted(name: str, tmp_path: Path) -> None:
    expected = np.where(INSIDE, 255, 0)[..., None].repeat(3, 2)
    np.testing.assert_array_equal(read_mask(MASKS[name]), expected)
    file = tmp_path / "mask.png"
    Image.fromarray(MASKS[name]).save(file)
    np.testing.assert_array_equal(read_mask(file), expected)
    np.testing.assert_array_equal(read_mask(file.read_bytes()), expected)


def test_a_palette_with_transparency() -> None:
    picture = Image.fromarray(plain()).convert("P")
    held = io.BytesIO()
    picture.save(held, "PNG", transparency=0)
    np.testing.assert_array_equal(read_mask(held.getvalue())[..., 0] > 0, INSIDE)


def test_masks_of_one_colour_are_reported() -> None:
    white = np.full((4, 4, 3), 255, np.uint8)
    assert "all black" in mask_remark(0 * white)
    assert "all white" in mask_remark(white)
    assert not mask_remark(read_mask(plain()))


def test_outside_every_byte_is_the_original_s() -> None:
    draw = np.random.default_rng(1)
    painted, original = draw.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    mask = read_mask(plain())
    kept = outside_kept(painted, original, mask)
    np.testing.assert_array_equal(kept[~INSIDE], original[~INSIDE])
    np.testing.assert_array_equal(kept[INSIDE], painted[INSIDE])
