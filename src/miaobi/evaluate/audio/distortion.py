"""SI-SDR: signal over distortion where a recording is generated again, whatever its level
(Le Roux, Wisdom, Erdogan and Hershey 2019), in dB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.score import Score, mean_interval
from miaobi.evaluate.subject import RECONSTRUCTION

if TYPE_CHECKING:
    from miaobi.evaluate.audio.subject import SoundSubject

MODALITY = "audio"
NEEDS = frozenset({RECONSTRUCTION})
LIMIT = 100.0
"""dB, for what is the same, and for silence."""


def si_sdr(recorded: np.ndarray, generated: np.ndarray) -> float:
    """Return the SI-SDR of two float [samples] in dB, between -LIMIT and LIMIT."""
    target = recorded.astype(np.float64) - recorded.mean()
    estimate = generated.astype(np.float64) - generated.mean()
    energy = target @ target
    if energy == 0:
        return -LIMIT
    signal = (estimate @ target / energy) * target
    noise = estimate - signal
    ratio = (signal @ signal) / max(noise @ noise, 1e-30)
    decibels = 10 * np.log10(max(ratio, 1e-30))
    return float(np.clip(decibels, -LIMIT, LIMIT))


def measure(subject: SoundSubject) -> list[Score]:
    values = [si_sdr(recorded, generated) for recorded, generated in subject.pairs]
    subject.progress(1.0)
    return [
        Score(
            "si_sdr",
            *mean_interval(values, subject.seed),
            len(values),
            "dB",
            "higher",
            detail=say(
                "16 kHz, means taken out; sounds resampled",
                "16 kHz，去均值；按声音重采样",
            ),
            label=say("signal to distortion (SI-SDR)", "信号失真比（SI-SDR）"),
        )
    ]
