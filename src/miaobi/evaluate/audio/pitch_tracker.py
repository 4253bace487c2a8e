"""The pitch of a voice, by SwiftF0 (Nieradzik 2025), a starter pack of 0.1 MB."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from miaobi.data import packs

PACK = "swift-f0"
HOP = 256
"""Samples at 16 kHz from one frame to the next: 16 ms."""
LOWEST, HIGHEST = 50.0, 1000.0
"""Hz, of voices and most melodies."""
VOICED = 0.5
SILENT = 1e-3
"""Frames whose samples are smaller are not voiced: the network has never heard silence."""


class Pitch(NamedTuple):
    """By frames of HOP samples."""

    hertz: np.ndarray
    voiced: np.ndarray
    """bool."""


@cache
def packaged_pitch() -> Callable[[np.ndarray], Pitch]:
    """Return the tracker of the pack, fetched when it is not here yet."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(packs.path(PACK)), providers=["CPUExecutionProvider"]
    )
    bounds = {"fmin": np.float32(LOWEST), "fmax": np.float32(HIGHEST)}

    def track(samples: np.ndarray) -> Pitch:
        padded = np.pad(samples, (0, max(HOP - len(samples), 0))).astype(np.float32)
        hertz, confidence = session.run(
            ["pitch", "confidence"],
            {"audio": padded[None], **{k: np.array(v) for k, v in bounds.items()}},
        )
        count = confidence.shape[1]
        whole = np.pad(padded, (0, max(count * HOP - len(padded), 0)))[: count * HOP]
        peaks = np.abs(whole.reshape(count, HOP)).max(axis=1)
        voiced = (confidence[0] >= VOICED) & (peaks >= SILENT)
        return Pitch(hertz[0].astype(np.float64), voiced)

    return track
