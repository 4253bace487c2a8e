"""Is an image pornographic? Yahoo's open_nsfw: a ResNet-50 of half the width, on 224 x
224 pixels.

The score is the network's own probability that editors at Yahoo would have called the
image "not suitable for work". Yahoo reads below 0.2 as very likely safe and above 0.8
as very likely not (github.com/yahoo/open_nsfw), gives no guarantee of accuracy, and no
error rates of the released model are known here. It was taught photographs: of
drawings, violence and anything else that may be unsuitable it knows nothing. The
package's own tests name scores of 17 photographs: of seven ordinary ones the highest is
0.09; of three suggestive ones 0.31, 0.35, 0.83; of seven explicit ones the lowest is
0.74.
"""

from __future__ import annotations

import io
import threading
from functools import cache
from pathlib import Path

import numpy as np

from miaobi.engines.packaged import Network

MEAN = np.array([104, 117, 123], np.float32)
"""Of blue, green and red in ImageNet, as the network was trained."""
_opening = threading.Lock()
"""So that two threads do not fetch the pack at once."""


def unsafe_probability(pixels: np.ndarray) -> float:
    """Return the probability that an image is pornographic. Threads may call it.

    `pixels`: uint8 [H, W, C] of 1, 3 or 4 channels; alpha is left aside, as in the
    original. The model pack is fetched at first use (see packs.path for the errors).
    """
    from miaobi.data import packs

    with _opening:
        network = _open(packs.path("opennsfw"))
    return float(network(prepare(pixels))[0, 1])


@cache
def _open(path: Path) -> Network:
    return Network(path)


def prepare(pixels: np.ndarray) -> np.ndarray:
    """Return the network's input, float32 [1, 224, 224, 3]: blue, green, red, less their
    means.

    Yahoo's steps in the package's order: squeezed to 256 x 256, the middle cut out,
    through JPEG (the network was trained on images that had been), channels turned
    round.
    """
    from PIL import Image

    grey = pixels.shape[2] == 1
    colours = np.repeat(pixels, 3, axis=2) if grey else pixels[..., :3]
    squeezed = Image.fromarray(colours).resize((256, 256), Image.Resampling.BILINEAR)
    middle = squeezed.crop((16, 16, 240, 240))
    buffer = io.BytesIO()
    middle.save(buffer, format="JPEG")
    levels = np.asarray(Image.open(buffer), np.float32)
    return levels[None, :, :, ::-1] - MEAN
