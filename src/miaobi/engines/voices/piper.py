"""Piper: VITS (Kim et al. 2021, arXiv:2106.06103), exported by Michael Hansen's Piper.
espeak's phonemes in, samples out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput, Damaged, Unsupported
from miaobi.core.language import say
from miaobi.data.audio.phonemes import HAN
from miaobi.data.audio.spoken import Language
from miaobi.engines.voices.espeak import Espeak
from miaobi.engines.voices.mixture import mixture
from miaobi.engines.voices.sessions import Sessions, Stop

MARKS = re.compile(r"([.!?…。！？,;:，；：、]+)")
NARROW = {"。": ".", "！": "!", "？": "?", "，": ",", "；": ";", "：": ":", "、": ","}
PAD, BEGIN, END = "_", "^", "$"
SWITCH = re.compile(r"\([^)]+\)")
"""espeak's remark that it changed its language."""


class Piper:
    """A voice in two files, NAME.onnx and NAME.onnx.json.

    Noise is left out (`noise_scale` 0), so that the same text is always read the same
    way.
    """

    longest = 1000
    speeds = (0.25, 4.0)

    def __init__(self, file: Path, name: str, sessions: Sessions) -> None:
        self.sessions = sessions
        self.names: Sequence[str] = (name,)
        config = _config(file)
        if config.get("phoneme_type", "espeak") != "espeak":
            raise Unsupported(
                say(
                    f"{name} was trained on phonemes of {config['phoneme_type']}; those of espeak are supported.",
                    f"{name} 使用 {config['phoneme_type']} 音标训练；此处支持 espeak 音标。",
                ),
                say("Choose another voice of Piper.", "请选用其他 Piper 声音。"),
            )
        self.rate = int(config["audio"]["sample_rate"])
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._speakers = int(config.get("num_speakers", 1))
        self._espeak = Espeak(config["espeak"]["voice"], name)
        self._language: str = config["espeak"]["voice"]

    def default_voice(self, text: str) -> str:
        return self.names[0]

    def language(self, voice: str) -> Language:
        mixture(voice, self.names)
        return "en"

    def phonemes(self, text: str, voice: str) -> str:
        if self._language.startswith("en") and re.search(f"[{HAN}]", text):
            raise BadInput(
                say(
                    f"{voice} reads English only, and the text holds Chinese: {text[:20]}",
                    f"{voice} 只能读英文，而文本含有中文：{text[:20]}",
                ),
                say("Take a voice of kokoro.", "请选用 kokoro 的声音。"),
                field="prompt",
            )
        pieces = list[str]()
        for part in MARKS.split(text):
            if MARKS.fullmatch(part):
                pieces.append(NARROW.get(part[0], part[0]) + " ")
            elif part.strip():
                pieces.append(SWITCH.sub("", self._espeak(part.strip())))
        phonemes = unicodedata.normalize("NFD", "".join(pieces).strip())
        return "".join(it for it in phonemes if it in self._ids)

    def check(self, phonemes: str) -> None:
        unknown = dict.fromkeys(it for it in phonemes if it not in self._ids)
        if unknown:
            raise BadInput(
                say(
                    f"The phonemes {phonemes!r} have symbols that the voice does not know: {' '.join(unknown)}",
                    f"音标 {phonemes!r} 含有未知符号：{' '.join(unknown)}",
                ),
                say("Use those of espeak (IPA).", "请使用 espeak 的音标（IPA）。"),
                field="prompt",
            )

    def read(self, phonemes: str, voice: str, speed: float, stop: Stop) -> np.ndarray:
        ids = [*self._ids[BEGIN], *self._ids[PAD]]
        for it in phonemes:
            ids += [*self._ids[it], *self._ids[PAD]]
        ids += self._ids[END]
        inputs: dict[str, np.ndarray] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([0, 1 / speed, 0], np.float32),
        }
        if self._speakers > 1:
            inputs["sid"] = np.array([0], np.int64)
        return self.sessions.run(inputs, stop)

    def close(self) -> None:
        self._espeak.close()
        self.sessions.close()


def _config(file: Path) -> dict[str, Any]:
    """What NAME.onnx.json says. Raises Damaged where it is missing or not whole."""
    path = file.with_name(f"{file.name}.json")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config["audio"]["sample_rate"], config["phoneme_id_map"], config["espeak"]
    except (OSError, ValueError, KeyError) as error:
        raise Damaged(
            say(
                f"{path} is missing or not whole: {error}",
                f"{path} 缺失或不完整：{error}",
            ),
            say(
                "A voice of Piper is two files, NAME.onnx and NAME.onnx.json.",
                "Piper 声音由 NAME.onnx 与 NAME.onnx.json 两个文件组成。",
            ),
        ) from None
    return config
