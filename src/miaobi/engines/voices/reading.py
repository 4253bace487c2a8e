"""What reads texts aloud: a model of voices, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from miaobi.data.audio.spoken import Language
from miaobi.engines.voices.sessions import Sessions, Stop


class VoiceModel(Protocol):
    """A model of one or more voices."""

    names: Sequence[str]
    """Its voices."""
    rate: int
    """Of its samples, in Hz."""
    longest: int
    """Phonemes that it reads at once."""
    speeds: tuple[float, float]
    """The speeds that it reads well by itself."""
    sessions: Sessions

    def default_voice(self, text: str) -> str:
        """Return the voice for a text where none is named."""
        ...

    def language(self, voice: str) -> Language:
        """Return the language of a mixture of voices."""
        ...

    def phonemes(self, text: str, voice: str) -> str:
        """Return the phonemes of a sentence in which everything is written in words.

        Raises BadInput for letters that it cannot read.
        """
        ...

    def check(self, phonemes: str) -> None:
        """Raise BadInput for phonemes, given by the caller, that it does not have."""
        ...

    def read(self, phonemes: str, voice: str, speed: float, stop: Stop) -> np.ndarray:
        """Return phonemes as they sound, float32 [samples].

        Raises BadInput for an unknown voice, Stopped when `stop` was set.
        """
        ...

    def close(self) -> None: ...
