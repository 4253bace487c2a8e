"""Measures a recording while it is decoded, in little memory however long it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from miaobi.data.audio import loudness
from miaobi.data.audio.clips import Clip
from miaobi.data.audio.media import decoding

PIECE = 30.0
"""Seconds that are measured at once."""
FRAME = 0.02
"""Seconds of a frame whose level is measured."""
FULL_SCALE = 0.999
"""From here on a sample may have been clipped."""
CLIPPED_RUN = 3
"""Neighbours at full scale that are clipping; a peak may touch it."""
SILENT = -60.0
"""dBFS; frames below it are silent."""
QUIET = 40.0
"""dB below the loud frames; frames below it are silent too."""
LARGEST_SNR = 100.0
"""dB; more is digital silence between the words."""


@dataclass(frozen=True)
class Measures:
    """What is measured of one clip."""

    seconds: float
    rate: int
    channels: int
    peak: float
    """The largest magnitude, 1 is full scale."""
    clipped: float
    """Share of the samples that are clipped."""
    offset: float
    """The mean of the samples (DC)."""
    silence: float
    """Share of the frames that are silent."""
    snr: float | None
    """dB, estimated: the loud half of the frames beside the quietest tenth."""
    loudness: float | None
    """LUFS; None for silence."""
    damaged: int
    """Packets that could not be decoded."""
    missing: float
    """Seconds that the header promises and that are not there."""
    content: str
    """Names the samples: files with the same have the same sound."""

    @property
    def is_silent(self) -> bool:
        return self.loudness is None

    @property
    def sounding(self) -> float:
        """Seconds that are not silent."""
        return self.seconds * (1 - self.silence)


def measure(clip: Clip) -> Measures:
    """Return the measures of a clip, or of the part of a file that it is.

    Raises BadInput for what cannot be read.
    """
    with decoding(clip.path, channels=None) as opened:
        meter: Meter | None = None
        position = 0
        for block in opened.blocks():
            if meter is None:
                meter = Meter(opened.rate, len(block))
            first = round(clip.begin * opened.rate) - position
            position += block.shape[1]
            last = block.shape[1]
            if clip.end is not None:
                last += round(clip.end * opened.rate) - position
            part = block[:, max(first, 0) : max(min(last, block.shape[1]), 0)]
            if part.size:
                meter.add(part)
        if meter is None:
            meter = Meter(opened.rate or 1, opened.stream.channels)
        length = position / (opened.rate or 1)
        missing = max((opened.promised or 0.0) - length, 0.0)
        return meter.finish(opened.damaged, missing)


class Meter:
    """Takes a sound block by block, float32 [channels, samples]."""

    def __init__(self, rate: int, channels: int) -> None:
        self._rate = rate
        self._channels = channels
        self._waiting = list[np.ndarray]()
        self._waiting_samples = 0
        self._lead = np.zeros(0)
        self._samples = 0
        self._peak = 0.0
        self._clipped = 0
        self._sum = 0.0
        self._frame_powers = list[np.ndarray]()
        self._weighted_powers = list[np.ndarray]()
        self._content = hashlib.sha256(f"{rate} {channels}".encode())
        self._piece = round(PIECE / loudness.HOP) * self._hop

    @property
    def _hop(self) -> int:
        return max(round(loudness.HOP * self._rate), 1)

    def add(self, block: np.ndarray) -> None:
        self._waiting.append(block)
        self._waiting_samples += block.shape[1]
        if self._waiting_samples >= self._piece:
            joined = np.concatenate(self._waiting, axis=1)
            self._measure(joined[:, : self._piece])
            self._waiting = [joined[:, self._piece :]]
            self._waiting_samples -= self._piece

    def finish(self, damaged: int = 0, missing: float = 0.0) -> Measures:
        """Return what was measured, with what was not there to be."""
        if self._waiting_samples:
            self._measure(np.concatenate(self._waiting, axis=1))
        powers = np.concatenate([*self._frame_powers, np.zeros(0)])
        levels = 10 * np.log10(np.maximum(powers, 1e-20))
        silence, snr = _silence_and_snr(powers, levels)
        samples = max(self._samples, 1)
        weighted = np.concatenate([*self._weighted_powers, np.zeros(0)])
        return Measures(
            seconds=self._samples / self._rate,
            rate=self._rate,
            channels=self._channels,
            peak=self._peak,
            clipped=self._clipped / (samples * self._channels),
            offset=self._sum / samples,
            silence=silence,
            snr=snr,
            loudness=loudness.integrated(weighted),
            damaged=damaged,
            missing=missing,
            content=self._content.hexdigest(),
        )

    def _measure(self, piece: np.ndarray) -> None:
        self._content.update(np.round(piece * 32768).astype("<i4").tobytes())
        magnitude = np.abs(piece)
        self._peak = max(self._peak, float(magnitude.max()))
        self._clipped += sum(_clipped(row) for row in magnitude)
        mono = piece.mean(axis=0, dtype=np.float64)
        self._samples += len(mono)
        self._sum += float(mono.sum())
        self._frame_powers.append(_powers(mono, max(round(FRAME * self._rate), 1)))
        with_lead = np.concatenate([self._lead, mono])
        weighted = loudness.k_weighted(with_lead, self._rate)[len(self._lead) :]
        self._weighted_powers.append(_powers(weighted, self._hop))
        self._lead = with_lead[-round(loudness.LEAD * self._rate) :]


def _powers(samples: np.ndarray, size: int) -> np.ndarray:
    """Mean squares of whole frames of `size`; of all where there is less than one."""
    whole = len(samples) // size * size
    if not whole:
        return np.array([np.mean(samples**2)])
    frames: np.ndarray = (samples[:whole] ** 2).reshape(-1, size).mean(axis=1)
    return frames


def _clipped(magnitude: np.ndarray) -> int:
    """The samples in runs at full scale."""
    at_scale = np.concatenate([[0], (magnitude >= FULL_SCALE).astype(np.int8), [0]])
    edges = np.diff(at_scale)
    lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    return int(lengths[lengths >= CLIPPED_RUN].sum())


def _silence_and_snr(
    powers: np.ndarray, levels: np.ndarray
) -> tuple[float, float | None]:
    """The share of silent frames, and signal over noise in dB."""
    if not len(powers):
        return 1.0, None
    loud = np.percentile(levels, 95)
    is_silent = levels < max(SILENT, loud - QUIET)
    if loud < SILENT:
        return 1.0, None
    rising = np.sort(powers)
    noise = rising[: max(len(rising) // 10, 1)].mean()
    signal = rising[len(rising) // 2 :].mean()
    ratio = max(signal - noise, 1e-20) / max(noise, 1e-20)
    snr = min(10 * np.log10(ratio), LARGEST_SNR)
    return float(is_silent.mean()), float(snr)
