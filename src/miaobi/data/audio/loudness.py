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
    high = 10 ** (decibels / 20)
    band = high**0.4996667741545416
    a0 = 1 + k / q + k * k
    b = np.array(
        [
            high + band * k / q + k * k,
            2 * (k * k - high),
            high - band * k / q + k * k,
        ]
    )
    a = np.array([a0, 2 * (k * k - 1), 1 - k / q + k * k])
    return b / a0, a / a0


def high_pass(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (b, a) of the second stage, which takes away what is below 38 Hz."""
    hertz, q = HIGH_PASS
    k = np.tan(np.pi * hertz / rate)
    a0 = 1 + k / q + k * k
    b = np.array([1.0, -2.0, 1.0])
    a = np.array([1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0])
    return b, a


def k_weighted(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return float64 [samples] through both stages."""
    size = len(samples) + round(LEAD * rate)
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones_like(delay)
    for b, a in (shelf(rate), high_pass(rate)):
        response *= np.polyval(b[::-1], delay) / np.polyval(a[::-1], delay)
    filtered = np.fft.irfft(np.fft.rfft(samples, size) * response, size)
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
    return float(_lufs(audible[_lufs(audible) > gate].mean()))


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
