"""Masks that say which part of a picture is repainted: white is, black is not.

Editors export what was drawn on a layer of its own, transparent elsewhere; such a mask
means what was drawn. A picture with transparent holes means the holes, as OpenAI's
masks do.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from miaobi.core.language import say
from miaobi.data.image.files import FORMATS, read_picture

HALF = 128
"""Values from here on are repainted."""
DRAWN_COLOURS = 2
"""A drawing on a layer has one colour, or black and white; a picture has more."""


def read_mask(content: Path | str | bytes | np.ndarray, name: str = "") -> np.ndarray:
    """Return a mask, uint8 [H, W, 3], white where it is to be repainted.

    Args:
        content: a file, its bytes, or pixels uint8 [H, W] or [H, W, 1, 3 or 4]
        name: of the mask in errors, by default the file's

    Raises BadInput with the name, the reason and the remedy.
    """
    pixels = read_picture(content, name)
    layer = _layer(content)
    if layer is None:
        return pixels
    return np.repeat(_of_layer(layer)[..., None], 3, axis=2)


def _layer(content: Path | str | bytes | np.ndarray) -> np.ndarray | None:
    """The pixels with alpha, uint8 [H, W, 4], of a picture that is partly transparent;
    None for another.
    """
    if isinstance(content, np.ndarray):
        has_alpha = content.ndim == 3 and content.shape[2] == 4
        layer = content if has_alpha else None
    else:
        layer = _layer_of_file(content)
    if layer is None or layer[..., 3].min() == 255:
        return None
    return layer


def _layer_of_file(content: Path | str | bytes) -> np.ndarray | None:
    from PIL import Image, ImageOps

    raw = content if isinstance(content, bytes) else Path(content).expanduser()
    file = io.BytesIO(raw) if isinstance(raw, bytes) else raw
    try:
        with Image.open(file, formats=FORMATS) as picture:
            if not picture.has_transparency_data:
                return None
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGBA"))
    # A drawing (SVG), which read_picture has drawn on white.
    except OSError:
        return None


def _of_layer(layer: np.ndarray) -> np.ndarray:
    """What a partly transparent picture masks, uint8 [H, W]."""
    alpha = layer[..., 3]
    opaque = layer[alpha >= HALF][:, :3]
    colours = np.unique(opaque, axis=0)
    if len(colours) > DRAWN_COLOURS:
        transparency: np.ndarray = 255 - alpha
        return transparency
    is_black_and_white = len(colours) == DRAWN_COLOURS and colours.max() > HALF
    if not is_black_and_white:
        return np.asarray(alpha)
    grey = layer[..., :3].astype(np.float64).mean(2)
    whiteness: np.ndarray = np.round(grey * alpha / 255).astype(np.uint8)
    return whiteness


def mask_remark(mask: np.ndarray) -> str:
    """Return what to say of a mask of one colour, uint8 [H, W, 3]; "" for another."""
    if mask.max() < HALF:
        return say(
            "The mask is all black: nothing is repainted. White is what is repainted.",
            "蒙版全黑：不会重绘任何部分。白色为要重绘的部分。",
        )
    if mask.min() >= HALF:
        return say(
            "The mask is all white: the whole picture is repainted. Black is what stays.",
            "蒙版全白：整张图片都会重绘。黑色为保留的部分。",
        )
    return ""


def outside_kept(
    painted: np.ndarray, original: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Return a painted picture with the original's bytes wherever the mask is black.

    All are uint8 [H, W, 3] of one size.
    """
    kept: np.ndarray = np.where(mask < HALF, original, painted)
    return kept
