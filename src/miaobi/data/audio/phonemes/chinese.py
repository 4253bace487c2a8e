"""Chinese text as phonemes: words (rjieba), their readings (pypinyin), and the symbols of
misaki 0.9.4 that Kokoro was trained with.

A syllable is an initial and a final with its tone as an arrow: 好 hǎo is xau↓, 是 shì
ʂɨ↘. Tone sandhi is left to the voice, as it was when it was trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

INITIALS = {
    "b": "p",
    "p": "pʰ",
    "m": "m",
    "f": "f",
    "d": "t",
    "t": "tʰ",
    "n": "n",
    "l": "l",
    "g": "k",
    "k": "kʰ",
    "h": "x",
    "j": "ʨ",
    "q": "ʨʰ",
    "x": "ɕ",
    "zh": "ꭧ",
    "ch": "ꭧʰ",
    "sh": "ʂ",
    "r": "ɻ",
    "z": "ʦ",
    "c": "ʦʰ",
    "s": "s",
}
FINALS = {
    "a": "a0",
    "ai": "ai0",
    "an": "a0n",
    "ang": "a0ŋ",
    "ao": "au0",
    "e": "ɤ0",
    "ei": "ei0",
    "en": "ə0n",
    "eng": "ə0ŋ",
    "i": "i0",
    "ia": "ja0",
    "ian": "jɛ0n",
    "iang": "ja0ŋ",
    "iao": "jau0",
    "ie": "je0",
    "in": "i0n",
    "iou": "jou0",
    "ing": "i0ŋ",
    "iong": "jʊ0ŋ",
    "ong": "ʊ0ŋ",
    "ou": "ou0",
    "u": "u0",
    "uei": "wei0",
    "ua": "wa0",
    "uai": "wai0",
    "uan": "wa0n",
    "uen": "wə0n",
    "uang": "wa0ŋ",
    "ueng": "wə0ŋ",
    "uo": "wo0",
    "o": "wo0",
    "ü": "y0",
    "üe": "ɥe0",
    "üan": "ɥɛ0n",
    "ün": "y0n",
}
"""0 stands where the tone is written."""
WHOLE = {
    "io": "jɔ0",
    "ê": "ɛ0",
    "er": "ɚ0",
    "o": "ɔ0",
    "m": "m0",
    "n": "n0",
    "ng": "ŋ0",
    "hm": "hm0",
    "hng": "hŋ0",
}
"""Syllables that are not an initial and a final."""
READINGS = {
    "还钱": ["huan2", "qian2"],
    "还款": ["huan2", "kuan3"],
    "还债": ["huan2", "zhai4"],
    "还书": ["huan2", "shu1"],
    "还清": ["huan2", "qing1"],
    "还给": ["huan2", "gei3"],
}
"""Words that pypinyin reads character by character, and wrongly."""
APICAL = ("z", "c", "s", "zh", "ch", "sh", "r")
"""Initials whose i is ɨ."""
TONES = ("", "→", "↗", "↓", "↘", "")
SYLLABLE = re.compile(r"([^\d]+)(\d)")


def phonemes(text: str) -> str:
    """Return the phonemes of a text of Chinese characters, words set apart by spaces.

    A character without a known reading is left out.
    """
    from pypinyin import Style, lazy_pinyin

    words = list[str]()
    for word in _words(text):
        syllables = READINGS.get(word) or lazy_pinyin(
            word,
            style=Style.TONE3,
            neutral_tone_with_five=True,
            v_to_u=True,
            errors=_left_out,
        )
        words.append("".join(map(syllable_phonemes, syllables)))
    return " ".join(words)


def _words(text: str) -> Iterator[str]:
    import rjieba

    for part in re.split(f"({'|'.join(READINGS)})", text):
        if part in READINGS:
            yield part
        else:
            yield from rjieba.cut(part)


def _left_out(characters: str) -> str:
    """Nothing, for characters without a known reading."""
    return ""


@cache
def syllable_phonemes(syllable: str) -> str:
    """Return the phonemes of one syllable in pinyin, as in "hao3" or "lüe4"."""
    from pypinyin.contrib.tone_convert import to_finals, to_initials

    match = SYLLABLE.fullmatch(syllable)
    if match is None:
        return ""
    letters, tone = match[1], TONES[int(match[2])]
    if letters in WHOLE:
        return WHOLE[letters].replace("0", tone)
    initial = to_initials(letters, strict=True)
    final = to_finals(letters, strict=True, v_to_u=True)
    shape = "ɨ0" if final == "i" and initial in APICAL else FINALS[final]
    return INITIALS.get(initial, "") + shape.replace("0", tone)
