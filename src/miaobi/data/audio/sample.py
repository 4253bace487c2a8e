"""Recordings to try commands with: melodies of a whistle, with a line of metadata.csv for
each. All are computed, always in the same way, and have no author. One is silent.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator

import numpy as np

RATE = 16_000
NOTE = 0.4
"""Seconds."""
HERTZ = {
    "do": 523.25,
    "re": 587.33,
    "mi": 659.26,
    "fa": 698.46,
    "sol": 783.99,
    "la": 880.0,
}
MELODIES = {
    "up": "do re mi fa sol la",
    "down": "la sol fa mi re do",
    "bells": "mi do re sol sol re mi do",
    "question": "do mi sol",
    "answer": "sol mi do do",
    "rest": "",
}
"""What each recording sings; the last is silent."""
TEXTS = {**MELODIES, "rest": "la la la"}


def sounds() -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a folder of recordings."""
    lines = [f"{name}|{text}\n" for name, text in TEXTS.items()]
    yield "recordings/metadata.csv", "".join(lines).encode()
    for name, melody in MELODIES.items():
        yield f"recordings/wavs/{name}.wav", _wav(_melody(melody.split()))


def _melody(notes: list[str]) -> np.ndarray:
    """float64 [samples]: each note swells and fades, and a breath follows it."""
    time = np.arange(round(NOTE * RATE)) / RATE
    envelope = np.sin(np.pi * time / NOTE) ** 0.5
    breath = np.zeros(RATE // 20)
    parts = [breath]
    for note in notes:
        whistle = np.sin(2 * np.pi * HERTZ[note] * time)
        parts += [0.3 * envelope * whistle, breath]
    if not notes:
        parts.append(np.zeros(RATE))
    return np.concatenate(parts)


def _wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(RATE)
        opened.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return file.getvalue()
