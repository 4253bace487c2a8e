"""Loudness by ITU-R BS.1770-4 (LUFS): K-weighting, blocks of 400 ms, two gates.

The filters are the recommendation's analogue prototypes at any rate (De Man 2014), applied
by FFT to pieces of sound; an impulse through them is over in far less than LEAD.
"""

from __future__ import annotations

import numpy as np

HOP = 0.1
"""Seconds from one block to the next: 400 ms, three quarters of them shared."""
HOPS_A_BLOCK = 4
LEAD = 0.5
"""Seconds of sound before a piece that its filtering needs."""
ABSOLUTE_GATE = -70.0
"""LUFS; quieter blocks do not count."""
RELATIVE_GATE = -10.0
"""LU below the mean of those; quieter ones do not count either."""
OFFSET = -0.691
"""dB, so that 997 Hz at full scale in one channel is -3.01 LUFS."""

SHELF = (1681.974450955533, 3.999843853973347, 0.7071752369554196)
HIGH_PASS = (38.13547087602444, 0.5003270373238773)
"""Hz, dB and Q of the two stages of K-weighting."""


def shelf(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (b, a) of the first stage, which raises what is above 1.7 kHz by 4 dB."""
    hertz, decibels, q = SHELF
    k = np.tan(np.pi * hertz / rate)
    square = k * k
    high = 10 ** (decibels / 20)
    middle = high**0.4996667741545416 * k / q
    b = [
        high + middle + square,
        2 * (square - high),
        high - middle + square,
    ]
    a = _denominator(k, q)
    return np.array(b) / a[0], a / a[0]


def high_pass(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (b, a) of the second stage, which takes away what is below 38 Hz."""
    hertz, q = HIGH_PASS
    k = np.tan(np.pi * hertz / rate)
    a = _denominator(k, q)
    return np.array([1.0, -2.0, 1.0]), a / a[0]


def _denominator(k: float, q: float) -> np.ndarray:
    """The poles of both, by the bilinear transform with k = tan(πf/rate)."""
    square = k * k
    return np.array(
        [
            1 + k / q + square,
            2 * (square - 1),
            1 - k / q + square,
        ]
    )


def k_weighted(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return float64 [samples] through both stages."""
    size = len(samples) + round(LEAD * rate)
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones_like(delay)
    for b, a in (shelf(rate), high_pass(rate)):
        response *= np.polyval(b[::-1], delay)
        response /= np.polyval(a[::-1], delay)
    spectrum = np.fft.rfft(samples, size)
    filtered = np.fft.irfft(spectrum * response, size)
    return filtered[: len(samples)]


def integrated(powers: np.ndarray) -> float | None:
    """Return the loudness of a sound in LUFS; None for one below the absolute gate.

    Args:
        powers: mean squares of its K-weighted samples, [hops] of HOP seconds.
    """
    if not len(powers):
        return None
    width = min(HOPS_A_BLOCK, len(powers))
    blocks = np.convolve(powers, np.full(width, 1 / width), mode="valid")
    audible = blocks[_lufs(blocks) > ABSOLUTE_GATE]
    if not len(audible):
        return None
    gate = _lufs(audible.mean()) + RELATIVE_GATE
    loud = audible[_lufs(audible) > gate]
    return float(_lufs(loud.mean()))


def loudness(samples: np.ndarray, rate: int) -> float | None:
    """Return the loudness of float32 [samples] in LUFS; None for silence."""
    weighted = k_weighted(samples, rate)
    hop = round(HOP * rate)
    whole = len(weighted) // hop * hop
    if not whole:
        return integrated(np.array([np.mean(weighted**2)]))
    return integrated((weighted[:whole] ** 2).reshape(-1, hop).mean(axis=1))


def _lufs(power: np.ndarray) -> np.ndarray:
    decibels: np.ndarray = OFFSET + 10 * np.log10(np.maximum(power, 1e-20))
    return decibels
