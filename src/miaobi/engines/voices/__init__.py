"""Voices: texts read aloud by Kokoro and by Piper, through onnxruntime.

This module imports nothing large; engine.py does what runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import SpeechRequest

if TYPE_CHECKING:
    from miaobi.engines.voices.engine import Voices

FORMATS = ("kokoro", "piper")
TAKES = SpeechRequest
ABILITIES = Abilities(frozenset({"prompt", "seed", "voice", "speed"}))
"""The seed changes nothing: the same text is always read the same way."""
STYLES = "kokoro-js/package/voices"
"""Where Kokoro's voices lie in its pack."""


def installed() -> str | None:
    if all(map(find_spec, ("onnx", "onnxruntime", "pypinyin", "rjieba"))):
        return None
    return 'pip install "miaobi[audio]"'


def reads(weights: Weights) -> bool:
    return weights.format in FORMATS


def names(weights: Weights) -> list[str]:
    """Return the voices of a model, without opening it."""
    if weights.format == "piper":
        return [weights.name]
    return sorted(file.stem for file in (weights.path / STYLES).glob("*.bin"))


def open_engine(
    weights: Weights, *, streams: int = 1, threads: int | None = None
) -> Voices:
    """Open a model of voices. `threads`: of the processor; its physical cores unless
    given.
    """
    from miaobi.engines.voices.convolutions import rewritten
    from miaobi.engines.voices.engine import Voices
    from miaobi.engines.voices.kokoro import Kokoro
    from miaobi.engines.voices.piper import Piper
    from miaobi.engines.voices.sessions import Sessions

    path = Path(weights.path)
    if weights.format == "piper":
        sessions = Sessions(path, streams, threads)
        return Voices(Piper(path, weights.name, sessions), weights.name, ABILITIES)
    sessions = Sessions(rewritten(path / "kokoro.onnx"), streams, threads)
    voice = Kokoro(path, path / STYLES, sessions)
    return Voices(voice, weights.name, ABILITIES)
