"""Kokoro-82M: StyleTTS 2 (Li et al. 2023, arXiv:2306.07691) with an ISTFTNet decoder,
by hexgrad. Phonemes in, 24 kHz out; a voice is a table of styles, one for each length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.audio.phonemes import Phonemizer
from miaobi.data.audio.spoken import Language
from miaobi.engines.voices.mixture import mixture
from miaobi.engines.voices.sessions import Sessions, Stop

STYLE_SIZE = 256
HAN = re.compile(r"[㐀-䶿一-鿿]")
ENGLISH_VOICE, CHINESE_VOICE = "af_heart", "zf_xiaoxiao"


class Kokoro:
    """The pack `kokoro`, opened.

    Args:
        folder: Of the pack.
        styles: The folder of its voices.
        sessions: What runs the network.
    """

    rate = 24_000
    longest = 510
    speeds = (0.25, 1.5)

    def __init__(self, folder: Path, styles: Path, sessions: Sessions) -> None:
        self.sessions = sessions
        self.names: Sequence[str] = sorted(file.stem for file in styles.glob("*.bin"))
        self._styles = styles
        self._phonemizer = Phonemizer(
            folder / "misaki/misaki/data", folder / "g2p-en/g2p_en/checkpoint20.npz"
        )
        vocabulary = Path(__file__).with_name("kokoro.json")
        self._ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
        self._table = lru_cache(64)(self._mixed_table)

    def default_voice(self, text: str) -> str:
        return CHINESE_VOICE if HAN.search(text) else ENGLISH_VOICE

    def language(self, voice: str) -> Language:
        shares = mixture(voice, self.names)
        chinese = sum(share for name, share in shares.items() if name[0] == "z")
        return "zh" if chinese > 0.5 else "en"

    def phonemes(self, text: str, voice: str) -> str:
        shares = mixture(voice, self.names)
        british = sum(share for name, share in shares.items() if name[0] == "b")
        sounds = self._phonemizer.phonemes(text, british=british > 0.5)
        return "".join(it for it in sounds if it in self._ids)

    def check(self, phonemes: str) -> None:
        """Raise BadInput for symbols that the model does not have."""
        unknown = dict.fromkeys(it for it in phonemes if it not in self._ids)
        if unknown:
            raise BadInput(
                say(
                    f"The phonemes {phonemes!r} have symbols that no voice knows: {' '.join(unknown)}",
                    f"音标 {phonemes!r} 含有未知符号：{' '.join(unknown)}",
                ),
                say("Use those of misaki (IPA).", "请使用 misaki 的音标（IPA）。"),
                field="prompt",
            )

    def read(self, phonemes: str, voice: str, speed: float, stop: Stop) -> np.ndarray:
        ids = [self._ids[it] for it in phonemes]
        table = self._table(voice)
        style = table[min(len(ids), len(table)) - 1]
        inputs = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": style[None],
            "speed": np.array([speed], np.float32),
        }
        return self.sessions.run(inputs, stop)

    def close(self) -> None:
        self.sessions.close()

    def _mixed_table(self, voice: str) -> np.ndarray:
        """The styles of a mixture, float32 [lengths, STYLE_SIZE]: the weighted mean."""
        shares = mixture(voice, self.names)
        mean = np.zeros(STYLE_SIZE, np.float32)
        for name, share in shares.items():
            styles = np.fromfile(self._styles / f"{name}.bin", np.float32)
            mean = mean + np.float32(share) * styles.reshape(-1, STYLE_SIZE)
        return mean
