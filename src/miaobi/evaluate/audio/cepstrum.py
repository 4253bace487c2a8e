"""Mel-cepstral distortion: how far the envelope of the spectrum is from the recording's,
in dB (Kubichek 1993), frame by frame along the cheapest alignment of the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miaobi.core.language import say
from miaobi.data.audio.spectra import Spectra, log_mel
from miaobi.evaluate.audio import warping
from miaobi.evaluate.score import Score, mean_interval
from miaobi.evaluate.subject import REFERENCE

if TYPE_CHECKING:
    from miaobi.evaluate.audio.subject import SoundSubject

MODALITY = "audio"
NEEDS = frozenset({REFERENCE})
SPECTRA = Spectra(rate=16_000, fft=1024, window=400, hop=80, mels=80, high=8_000.0)
"""25 ms every 5 ms."""
ORDER = 24
"""Coefficients; the first, which is the level, does not count."""
LONGEST = 4000
"""Frames of one sound that are aligned, 20 s: an alignment takes their square."""


def mel_cepstrum(samples: np.ndarray, order: int = ORDER) -> np.ndarray:
    """Return float64 [frames, order]: the first cosines of the log-mel of each frame.

    c_m = 2/M Σ_k log|H_k| cos(πm (k + ½) / M), so that a distance in dB is the distance
    of the smoothed spectra.
    """
    bands = log_mel(samples, SPECTRA).astype(np.float64)
    return cosines(bands, order).T


def cosines(bands: np.ndarray, order: int) -> np.ndarray:
    """Return [order, frames] of logarithms [M, frames]."""
    count = len(bands)
    numbers = np.arange(1, order + 1)[:, None]
    basis = np.cos(np.pi * numbers * (np.arange(count) + 0.5) / count)
    coefficients: np.ndarray = 2 / count * basis @ bands
    return coefficients


def distortion(
    recorded: np.ndarray, generated: np.ndarray, aligned: bool = False
) -> float:
    """Return the mean distance of two float32 [samples] at 16 kHz, in dB."""
    one, other = mel_cepstrum(recorded)[:LONGEST], mel_cepstrum(generated)[:LONGEST]
    if aligned:
        frames = min(len(one), len(other))
        return float(distances(one[:frames], other[:frames]).mean())
    costs = distances(one[:, None], other[None])
    i, j = warping.path(costs).T
    return float(costs[i, j].mean())


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the distances in dB of coefficients [..., order]."""
    squares = ((one - other) ** 2).sum(axis=-1)
    decibels: np.ndarray = 10 / np.log(10) * np.sqrt(2 * squares)
    return decibels


def measure(subject: SoundSubject) -> list[Score]:
    values = list[float]()
    for number, (recorded, generated) in enumerate(subject.pairs, 1):
        values.append(distortion(recorded, generated, subject.aligned))
        subject.progress(number / len(subject.pairs))
    way = (
        say("frame by frame", "逐帧") if subject.aligned else say("by DTW", "DTW 对齐")
    )
    return [
        Score(
            "mel_cepstral_distortion",
            *mean_interval(values, subject.seed),
            len(values),
            "dB",
            "lower",
            detail=say(
                f"{ORDER} coefficients without the level, 25 ms every 5 ms, {way}; sounds resampled",
                f"{ORDER} 阶（不含电平），窗 25 毫秒、步 5 毫秒，{way}；按声音重采样",
            ),
            label=say("mel-cepstral distortion", "梅尔倒谱失真"),
        )
    ]
