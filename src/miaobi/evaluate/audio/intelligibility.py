"""STOI: how much of the words is kept where a recording is generated again (Taal, Hendriks,
Heusdens and Jensen 2011), by pystoi.
"""

from __future__ import annotations

import warnings

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.audio.subject import RATE, SoundSubject
from miaobi.evaluate.score import Score, mean_interval
from miaobi.evaluate.subject import RECONSTRUCTION

MODALITY = "audio"
NEEDS = frozenset({RECONSTRUCTION})


def stoi(recorded: np.ndarray, generated: np.ndarray, rate: int) -> float | None:
    """Return 0 to 1; None where less than 0.4 s of the recording is not silence."""
    import pystoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(recorded, generated, rate))
        except RuntimeWarning:  # too few frames
            return None


def measure(subject: SoundSubject) -> list[Score]:
    values = list[float]()
    for number, (recorded, generated) in enumerate(subject.pairs, 1):
        value = stoi(recorded, generated, RATE)
        values += [] if value is None else [value]
        subject.progress(number / len(subject.pairs))
    if not values:
        return []
    short = len(subject.pairs) - len(values)
    return [
        Score(
            "stoi",
            *mean_interval(values, subject.seed),
            len(values),
            better="higher",
            detail=say(
                f"pystoi; {short} sounds too short to measure; sounds resampled",
                f"pystoi；{short} 段过短未计；按声音重采样",
            ),
            label=say("intelligibility (STOI)", "可懂度（STOI）"),
        )
    ]
