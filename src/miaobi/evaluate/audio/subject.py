"""What a model that makes sound is evaluated by: what it generated, beside recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from miaobi.core.language import say
from miaobi.data.audio.media import Sound, resample
from miaobi.evaluate.audio.pitch_tracker import Pitch, packaged_pitch
from miaobi.evaluate.audio.speaker_encoder import packaged_encoder
from miaobi.evaluate.subject import (
    HEARING,
    RECONSTRUCTION,
    REFERENCE,
    VOICE,
    Subject,
)

RATE = 16_000
"""Hz; everything is measured at it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SoundSubject(Subject):
    """Sounds that a model generated, with recordings of the same and of the same speaker."""

    modality = "audio"

    name: str
    generated: Sequence[Sound]
    recorded: Sequence[Sound] | None = None
    """Recordings of the same words or sounds, in the order of `generated`."""
    aligned: bool = False
    """Whether a sound and its recording are alike sample by sample: a vocoder's or a
    codec's, rather than another reading of the same words.
    """
    voice: Sequence[Sound] | None = None
    """Other recordings of the speaker; two at least."""
    strangers: Sequence[Sound] = ()
    """Recordings of other speakers."""
    texts: Sequence[str] = ()
    """What was to be said, in the order of `generated`; with letters in each."""
    hear: Callable[[Sound], str] | None = None
    """A recogniser: what it writes down of a sound."""
    recogniser: str = ""
    """Its name, for the report."""
    track: Callable[[np.ndarray], Pitch] | None = None
    """Pitch of float32 [samples] at RATE; None for the packaged one."""
    embed: Callable[[np.ndarray], np.ndarray] | None = None
    """A speaker's vector, of length one, of float32 [samples] at RATE; None for the
    packaged one.
    """

    @cached_property
    def pitch_of(self) -> Callable[[np.ndarray], Pitch]:
        return self.track or packaged_pitch()

    @cached_property
    def speaker_of(self) -> Callable[[np.ndarray], np.ndarray]:
        return self.embed or packaged_encoder()

    @cached_property
    def pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(recorded, generated), float32 [samples] at RATE; of aligned ones the part that both
        have.
        """
        recorded = [samples_of(sound) for sound in self.recorded or ()]
        pairs = list(zip(recorded, map(samples_of, self.generated), strict=True))
        if not self.aligned:
            return pairs
        lengths = [min(len(one), len(other)) for one, other in pairs]
        return [
            (one[:length], other[:length])
            for (one, other), length in zip(pairs, lengths)
        ]

    def lacks(self, needs: frozenset[str]) -> str:
        if REFERENCE in needs and not self.recorded:
            return say("no recordings to compare with", "没有可对照的录音")
        if RECONSTRUCTION in needs and not (self.recorded and self.aligned):
            return say(
                "it does not make recordings again sample by sample",
                "不是对录音的逐采样重建",
            )
        if HEARING in needs and (self.hear is None or not self.texts):
            return say("no recogniser, or no texts", "没有识别器或文本")
        if VOICE in needs and len(self.voice or ()) < 2:
            return say(
                "fewer than two other recordings of the speaker",
                "该说话人的其他录音不足两段",
            )
        return ""


def samples_of(sound: Sound) -> np.ndarray:
    """Return float32 [samples] at RATE, the mean of the channels."""
    mono = np.atleast_2d(sound.samples).mean(axis=0, dtype=np.float32)
    return resample(mono, sound.rate, RATE)
