"""Samples of speech: silence cut off, pauses, and another speed at the same pitch."""

from __future__ import annotations

import numpy as np

FRAME_SECONDS = 0.01
QUIET = 0.01
"""Of the loudest frame (-40 dB): what is below it at the ends is silence."""
MARGIN_SECONDS = 0.04
"""Of silence that stays at the ends."""
WINDOW_SECONDS = 0.03
"""Of a piece that `stretched` moves as a whole: two or three periods of a low voice."""
SEARCH_SECONDS = 0.01
"""How far it may be moved to fit its neighbour."""


def trimmed(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return float32 [samples] without the silence at its ends."""
    frame = int(rate * FRAME_SECONDS)
    count = len(samples) // frame
    if count == 0:
        return samples
    frames = samples[: count * frame].reshape(count, frame)
    levels = np.sqrt(np.square(frames).mean(axis=1))
    loud = np.flatnonzero(levels > QUIET * levels.max())
    if not len(loud):
        return samples[:0]
    margin = int(rate * MARGIN_SECONDS)
    first = max(0, int(loud[0]) * frame - margin)
    last = min(len(samples), int(loud[-1] + 1) * frame + margin)
    return samples[first:last]


def silence(seconds: float, rate: int) -> np.ndarray:
    return np.zeros(round(seconds * rate), np.float32)


def stretched(samples: np.ndarray, speed: float, rate: int) -> np.ndarray:
    """Return float32 [samples / speed], as fast as asked for and as high as before.

    WSOLA (Verhelst and Roelands 1993): windows are taken `speed` times as far apart as
    they are laid, each moved to where it goes on best from the one before.
    """
    window = 2 * int(rate * WINDOW_SECONDS / 2)
    hop = window // 2
    search = int(rate * SEARCH_SECONDS)
    length = round(len(samples) / speed)
    if speed == 1 or len(samples) < 2 * window:
        return samples
    padded = np.pad(samples, (search, window + 2 * search))
    shape = np.hanning(window + 1)[:window].astype(np.float32)
    output = np.zeros(length + 2 * window, np.float32)
    weights = np.zeros_like(output)
    source = search
    for target in range(0, length, hop):
        if target:
            wanted = round(target * speed) + search
            source = _best(padded, source + hop, wanted, hop, search)
        output[target : target + window] += shape * padded[source : source + window]
        weights[target : target + window] += shape
    result: np.ndarray = output[:length] / np.maximum(weights[:length], 1e-3)
    return result


def _best(
    samples: np.ndarray, continued: int, wanted: int, size: int, search: int
) -> int:
    """Where near `wanted` the samples look most like those at `continued`."""
    pattern = samples[continued : continued + size]
    low = max(0, wanted - search)
    region = samples[low : wanted + search + len(pattern)]
    if len(pattern) < size or len(region) < size:
        return min(wanted, len(samples) - 2 * size)
    likeness = np.correlate(region, pattern, mode="valid")
    energy = np.convolve(np.square(region), np.ones(size, np.float32), mode="valid")
    best = int(np.argmax(likeness / np.sqrt(energy + 1e-9)))
    return min(low + best, len(samples) - 2 * size)
