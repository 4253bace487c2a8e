"""Phonemes of English words that no dictionary has, by the network of g2p_en 2.1.

A GRU reads the letters and another writes ARPAbet (Park and Kim 2019,
github.com/Kyubyong/g2p), in NumPy: a word takes about a millisecond.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np


def _split(words: str) -> list[str]:
    return words.split()


LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = _split("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW")
CONSONANTS = _split("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH")
START, END = 2, 3
LONGEST = 20
"""Phonemes of a word."""
SYMBOLS = dict(
    zip(
        [*VOWELS, *CONSONANTS],
        [
            "ɑ",
            "æ",
            "ʌ",
            "ɔ",
            "W",
            "I",
            "ɛ",
            "ɜɹ",
            "A",
            "ɪ",
            "i",
            "O",
            "Y",
            "ʊ",
            "u",
            "b",
            "ʧ",
            "d",
            "ð",
            "f",
            "ɡ",
            "h",
            "ʤ",
            "k",
            "l",
            "m",
            "n",
            "ŋ",
            "p",
            "ɹ",
            "s",
            "ʃ",
            "t",
            "θ",
            "v",
            "w",
            "j",
            "z",
            "ʒ",
        ],
        strict=True,
    )
)
"""ARPAbet in the symbols of misaki."""
UNSTRESSED = {"AH": "ə", "ER": "əɹ"}
STRESS = {"0": "", "1": "ˈ", "2": "ˌ"}


def _names() -> list[str]:
    """What the network's outputs are, in its order."""
    stressed = [f"{vowel}{mark}" for vowel in VOWELS for mark in "012"]
    return ["<pad>", "<unk>", "<s>", "</s>", *sorted([*CONSONANTS, *stressed, "UW"])]


class UnknownWords:
    """The network, read from `checkpoint20.npz`."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as archive:
            self._weights = {name: archive[name] for name in archive.files}
        self._names = _names()
        self._cached = lru_cache(10_000)(self._phonemes)

    def __call__(self, word: str) -> str:
        """Return the phonemes of a word of the letters a to z."""
        return self._cached(word)

    def _phonemes(self, word: str) -> str:
        return "".join(map(symbol, self._arpabet(word)))

    def _arpabet(self, word: str) -> list[str]:
        weights = self._weights
        state = np.zeros(weights["enc_w_hh"].shape[1], np.float32)
        for letter in [*word, "</s>"]:
            index = LETTERS.index(letter) if letter in LETTERS else 1
            state = self._step("enc", weights["enc_emb"][index], state)
        names = list[str]()
        last = START
        for _ in range(LONGEST):
            state = self._step("dec", weights["dec_emb"][last], state)
            logits = weights["fc_w"] @ state + weights["fc_b"]
            last = int(logits.argmax())
            if last == END:
                break
            names.append(self._names[last])
        return names

    def _step(self, side: str, inputs: np.ndarray, state: np.ndarray) -> np.ndarray:
        """One step of a GRU (Cho et al. 2014): gates in the order reset, update, new."""
        weights = self._weights
        from_input = weights[f"{side}_w_ih"] @ inputs + weights[f"{side}_b_ih"]
        from_state = weights[f"{side}_w_hh"] @ state + weights[f"{side}_b_hh"]
        reset_input, update_input, new_input = np.split(from_input, 3)
        reset_state, update_state, new_state = np.split(from_state, 3)
        reset = _sigmoid(reset_input + reset_state)
        update = _sigmoid(update_input + update_state)
        new = np.tanh(new_input + reset * new_state)
        following: np.ndarray = (1 - update) * new + update * state
        return following


def symbol(name: str) -> str:
    """Return the symbols of a phoneme of ARPAbet: AH0 is ə, EY1 ˈA."""
    if name in SYMBOLS:
        return SYMBOLS[name]
    vowel, mark = name[:-1], name[-1]
    if vowel not in SYMBOLS:
        return ""
    if mark == "0" and vowel in UNSTRESSED:
        return UNSTRESSED[vowel]
    return STRESS[mark] + SYMBOLS[vowel]


def _sigmoid(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-values))
    return result
