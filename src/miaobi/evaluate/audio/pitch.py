"""Pitch: how far the melody of a reading is from the recording's, and where one is voiced
and the other not. The subject has the tracker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.audio import warping
from miaobi.evaluate.audio.cepstrum import SPECTRA, distances, mel_cepstrum
from miaobi.evaluate.audio.pitch_tracker import HOP, Pitch
from miaobi.evaluate.score import Score, mean_interval, ratio_interval
from miaobi.evaluate.subject import REFERENCE

if TYPE_CHECKING:
    from miaobi.evaluate.audio.subject import SoundSubject

MODALITY = "audio"
NEEDS = frozenset({REFERENCE})
OCTAVE = 1200.0
"""Cents."""


def measure(subject: SoundSubject) -> list[Score]:
    errors = list[float]()
    differing, frames = list[float](), list[float]()
    for number, (recorded, generated) in enumerate(subject.pairs, 1):
        one, other = _together(subject, recorded, generated)
        both = one.voiced & other.voiced
        if both.any():
            cents = OCTAVE * np.log2(other.hertz[both] / one.hertz[both])
            errors.append(float(np.sqrt(np.mean(cents**2))))
        differing.append(float((one.voiced != other.voiced).sum()))
        frames.append(len(one.voiced))
        subject.progress(number / len(subject.pairs))
    tracker = "SwiftF0" if subject.track is None else say("own tracker", "自带算法")
    scores = list[Score]()
    if errors:
        scores.append(
            Score(
                "pitch_error",
                *mean_interval(errors, subject.seed),
                len(errors),
                say("cents", "音分"),
                "lower",
                detail=say(
                    f"{tracker}; root mean square where both are voiced; sounds resampled",
                    f"{tracker}；双方均浊音处的均方根；按声音重采样",
                ),
                label=say("pitch error", "音高误差"),
            )
        )
    scores.append(
        Score(
            "voicing_error",
            *ratio_interval(differing, frames, subject.seed),
            len(frames),
            better="lower",
            detail=say(
                f"{tracker}; share of frames where only one is voiced; sounds resampled",
                f"{tracker}；仅一方为浊音的帧占比；按声音重采样",
            ),
            label=say("voicing error", "清浊误差"),
        )
    )
    return scores


def _together(
    subject: SoundSubject, recorded: np.ndarray, generated: np.ndarray
) -> tuple[Pitch, Pitch]:
    """The pitch of both at the same moments, along the alignment of their spectra."""
    one, other = subject.pitch_of(recorded), subject.pitch_of(generated)
    if subject.aligned:
        count = min(len(one.hertz), len(other.hertz))
        i = j = np.arange(count)
    else:
        skip = HOP // SPECTRA.hop
        costs = distances(
            mel_cepstrum(recorded)[::skip][:, None],
            mel_cepstrum(generated)[::skip][None],
        )
        steps = warping.path(costs) * SPECTRA.hop * skip // HOP
        i = steps[:, 0].clip(max=len(one.hertz) - 1)
        j = steps[:, 1].clip(max=len(other.hertz) - 1)
    return Pitch(one.hertz[i], one.voiced[i]), Pitch(other.hertz[j], other.voiced[j])
