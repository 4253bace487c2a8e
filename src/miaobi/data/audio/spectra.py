"""Spectra of sound in NumPy, and the parameters that everything of one voice shares.

`nn.spectra` is its twin in PyTorch. A frame is centred at every `hop` samples, the ends
are padded with zeros: n samples have 1 + n // hop frames. Magnitudes are not scaled;
mel bands are triangles (Slaney 1998 or HTK) over magnitudes, their natural logarithm is
what models see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np

from miaobi.core.errors import BadInput, Damaged, Unsupported
from miaobi.core.language import say

DEFINITION = 1
"""Goes up when the same parameters come to mean other numbers."""
SLANEY_LINEAR = 200 / 3
"""Hz a mel below 1,000 Hz (Slaney 1998, Auditory Toolbox)."""
SLANEY_KNEE = 1000.0
SLANEY_STEP = np.log(6.4) / 27
"""Of the logarithm of the frequency, a mel above 1,000 Hz."""


@dataclass(frozen=True)
class Spectra:
    """How sound becomes frames: an acoustic model and a vocoder share every value."""

    rate: int = 24_000
    """Hz."""
    fft: int = 1024
    """Samples of a frame's transform; fft // 2 + 1 bins."""
    window: int = 1024
    """Samples of the Hann window, at most fft."""
    hop: int = 256
    """Samples from one frame to the next."""
    mels: int = 80
    low: float = 0.0
    """Hz, where the lowest band begins."""
    high: float = 12_000.0
    """Hz, where the highest band ends; at most rate / 2."""
    scale: Literal["slaney", "htk"] = "slaney"
    smallest: float = 1e-5
    """Smaller magnitudes of a band count as this much before the logarithm."""

    def __post_init__(self) -> None:
        problems = {
            "rate": self.rate < 1,
            "fft": self.fft < 2 or self.fft % 2 == 1,
            "window": not 2 <= self.window <= self.fft,
            "hop": not 1 <= self.hop <= self.window // 2,
            "mels": not 1 <= self.mels <= self.fft // 2,
            "low": not 0 <= self.low < self.high,
            "high": self.high > self.rate / 2,
            "scale": self.scale not in ("slaney", "htk"),
            "smallest": self.smallest <= 0,
        }
        for name, is_wrong in problems.items():
            if is_wrong:
                raise BadInput(
                    say(
                        f"spectra.{name} is {getattr(self, name)!r}, which does not go with {self}.",
                        f"spectra.{name} 为 {getattr(self, name)!r}，与 {self} 不相容。",
                    ),
                    say(
                        "hop ≤ window / 2, window ≤ fft, fft even, mels ≤ fft / 2, low < high ≤ rate / 2.",
                        "应满足 hop ≤ window / 2、window ≤ fft、fft 为偶数、mels ≤ fft / 2、low < high ≤ rate / 2。",
                    ),
                    field=f"spectra.{name}",
                )

    @property
    def bins(self) -> int:
        return self.fft // 2 + 1

    @property
    def hash(self) -> str:
        """Names the parameters and what they mean."""
        text = json.dumps([DEFINITION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def frames(self, samples: int) -> int:
        """The frames of this many samples."""
        return 1 + samples // self.hop

    def record(self) -> dict[str, Any]:
        """What a bundle stores."""
        return {**asdict(self), "hash": self.hash}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the parameters of a bundle. Raises Damaged where the hash is another's."""
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in record.items() if name in names}
        spectra = cls(**values)
        if record.get("hash") != spectra.hash or names | {"hash"} != set(record):
            raise Damaged(
                say(
                    f"The spectra of the bundle have the hash {record.get('hash')}; their values give {spectra.hash}.",
                    f"模型包中频谱参数的哈希为 {record.get('hash')}，而其数值的哈希为 {spectra.hash}。",
                ),
                say(
                    "Export or train it again with this version.",
                    "请用当前版本重新导出或训练。",
                ),
            )
        return spectra


def check_same(acoustic: Spectra, vocoder: Spectra) -> None:
    """Raise Unsupported where the frames that one model makes are not those that the
    other learned from, naming each parameter with both values.
    """
    values = asdict(vocoder)
    different = {
        name: (value, values[name])
        for name, value in asdict(acoustic).items()
        if value != values[name]
    }
    if not different:
        return
    listed = "; ".join(f"{name} {a} ≠ {b}" for name, (a, b) in different.items())
    raise Unsupported(
        say(
            f"The acoustic model and the vocoder do not agree (acoustic ≠ vocoder): {listed}.",
            f"声学模型与声码器的频谱参数不一致（声学模型 ≠ 声码器）：{listed}。",
        ),
        say(
            "Choose a vocoder that was trained with the same spectra.",
            "请选用以相同频谱参数训练的声码器。",
        ),
    )


@lru_cache(maxsize=16)
def window(spectra: Spectra) -> np.ndarray:
    """The periodic Hann window, centred in float32 [fft]."""
    phase = 2 * np.pi * np.arange(spectra.window) / spectra.window
    hann = 0.5 - 0.5 * np.cos(phase)
    before = (spectra.fft - spectra.window) // 2
    after = spectra.fft - spectra.window - before
    return _constant(np.pad(hann, (before, after)).astype(np.float32))


@lru_cache(maxsize=16)
def mel_filters(spectra: Spectra) -> np.ndarray:
    """Weights of the bins in each band, float32 [mels, bins].

    Triangles between neighbouring centres, evenly spaced in mel; each has the area one,
    in Hz. Raises BadInput where a band has no bin.
    """
    to_mel, to_hertz = SCALES[spectra.scale]
    edges_mel = np.linspace(
        to_mel(np.array(spectra.low)),
        to_mel(np.array(spectra.high)),
        spectra.mels + 2,
    )
    edges = to_hertz(edges_mel)
    bins = np.arange(spectra.bins) * spectra.rate / spectra.fft
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - low) / (centre - low)
    falling = (high - bins) / (high - centre)
    triangles = np.minimum(rising, falling).clip(0)
    filters = triangles * 2 / (high - low)
    empty = int((filters.max(axis=1) == 0).sum())
    if empty:
        raise BadInput(
            say(
                f"spectra.mels is {spectra.mels}: {empty} of the bands lie between two bins of fft {spectra.fft}.",
                f"spectra.mels 为 {spectra.mels}：其中 {empty} 个频带落在 fft {spectra.fft} 的两个频点之间。",
            ),
            say("Choose fewer mels or a larger fft.", "请减小 mels 或增大 fft。"),
            field="spectra.mels",
        )
    return _constant(filters.astype(np.float32))


@lru_cache(maxsize=16)
def mel_inverse(spectra: Spectra) -> np.ndarray:
    """The pseudo-inverse of `mel_filters`, float32 [bins, mels]."""
    inverse = np.linalg.pinv(mel_filters(spectra).astype(np.float64))
    return _constant(inverse.astype(np.float32))


def stft(samples: np.ndarray, spectra: Spectra) -> np.ndarray:
    """Return complex64 [bins, frames] of float32 [samples]."""
    half = spectra.fft // 2
    padded = np.pad(samples.astype(np.float32), half)
    views = np.lib.stride_tricks.sliding_window_view(padded, spectra.fft)
    frames = views[:: spectra.hop] * window(spectra)
    spectrum: np.ndarray = np.fft.rfft(frames, axis=1).T.astype(np.complex64)
    return spectrum


def istft(spectrum: np.ndarray, spectra: Spectra, length: int) -> np.ndarray:
    """Return float32 [length] whose `stft` comes nearest to complex [bins, frames].

    Overlapping frames are added and divided by the sum of the squared windows (Griffin
    and Lim 1984).
    """
    frames = np.fft.irfft(spectrum.T, n=spectra.fft, axis=1)
    weights = window(spectra).astype(np.float64)
    total = spectra.fft + spectra.hop * (len(frames) - 1)
    added, squares = np.zeros(total), np.zeros(total)
    for index, frame in enumerate(frames * weights):
        begin = index * spectra.hop
        added[begin : begin + spectra.fft] += frame
        squares[begin : begin + spectra.fft] += weights**2
    half = spectra.fft // 2
    within = slice(half, half + length)
    samples = added[within] / np.maximum(squares[within], 1e-11)
    missing = length - len(samples)
    padded: np.ndarray = np.pad(samples, (0, missing)).astype(np.float32)
    return padded


def log_mel(samples: np.ndarray, spectra: Spectra) -> np.ndarray:
    """Return float32 [mels, frames], natural logarithms, of float32 [samples]."""
    bands = mel_filters(spectra) @ np.abs(stft(samples, spectra))
    logarithms: np.ndarray = np.log(np.maximum(bands, spectra.smallest))
    return logarithms


def magnitudes(log_mels: np.ndarray, spectra: Spectra) -> np.ndarray:
    """Return magnitudes [bins, frames] that have these bands, by the pseudo-inverse."""
    bands = mel_inverse(spectra) @ np.exp(log_mels)
    positive: np.ndarray = np.maximum(bands, 0)
    return positive


def first_phases(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random phases, complex64 of length one, with which Griffin-Lim begins."""
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, shape)
    phases: np.ndarray = np.exp(1j * angles).astype(np.complex64)
    return phases


def griffin_lim(
    magnitude: np.ndarray,
    spectra: Spectra,
    length: int,
    steps: int = 32,
    momentum: float = 0.99,
    seed: int = 0,
) -> np.ndarray:
    """Return float32 [length] with nearly these magnitudes [bins, frames].

    The fast variant (Perraudin, Balazs and Søndergaard 2013): phases are improved in
    turns of istft and stft, with momentum.
    """
    phases = first_phases(magnitude.shape, seed)
    previous = np.zeros_like(phases)
    for _ in range(steps):
        samples = istft(magnitude * phases, spectra, length)
        rebuilt = stft(samples, spectra)
        moved = rebuilt + momentum * (rebuilt - previous)
        phases = moved / np.maximum(np.abs(moved), 1e-9)
        previous = rebuilt
    return istft(magnitude * phases, spectra, length)


def _slaney_mel(hertz: np.ndarray) -> np.ndarray:
    above = np.maximum(hertz, SLANEY_KNEE) / SLANEY_KNEE
    return np.where(
        hertz < SLANEY_KNEE,
        hertz / SLANEY_LINEAR,
        SLANEY_KNEE / SLANEY_LINEAR + np.log(above) / SLANEY_STEP,
    )


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    knee = SLANEY_KNEE / SLANEY_LINEAR
    return np.where(
        mel < knee,
        mel * SLANEY_LINEAR,
        SLANEY_KNEE * np.exp(SLANEY_STEP * (mel - knee)),
    )


def _htk_mel(hertz: np.ndarray) -> np.ndarray:
    mel: np.ndarray = 2595 * np.log10(1 + hertz / 700)
    return mel


def _htk_hertz(mel: np.ndarray) -> np.ndarray:
    hertz: np.ndarray = 700 * (10 ** (mel / 2595) - 1)
    return hertz


SCALES = {"slaney": (_slaney_mel, _slaney_hertz), "htk": (_htk_mel, _htk_hertz)}
"""Hz to mel and back."""


def _constant(array: np.ndarray) -> np.ndarray:
    """The array, which several callers share, made read-only."""
    array.setflags(write=False)
    return array
