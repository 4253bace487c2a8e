"""Text as phonemes: English, Chinese and both in one sentence, in the symbols of misaki
0.9.4, which Kokoro was trained with.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.audio.phonemes import chinese
from miaobi.data.audio.phonemes.english import English

HAN = r"㐀-䶿一-鿿〇豈-﫿"
RUNS = re.compile(rf"[{HAN}]+|[^{HAN}]+")
SENTENCE_MARKS = str.maketrans(dict(zip("，、。．！？；：", ",,..!?;:", strict=True)))
MARKS = {
    **dict.fromkeys("《「『【«", " “"),
    **dict.fromkeys("》」』】»", "” "),
    **dict.fromkeys("～–─", "—"),
    **dict.fromkeys("·-/\\", " "),
    "（": " (",
    "）": ") ",
    "⋯": "…",
    "‘": "",
    "’": "'",
}
"""Marks as the voices know them."""
KEPT = frozenset(";:,.!?—…\"()“” '")


@dataclass(frozen=True)
class Phonemizer:
    """Phonemes of texts.

    Attributes:
        dictionaries: The folder of misaki's English dictionaries.
        network: The file of g2p_en's network.
    """

    dictionaries: Path
    network: Path

    @cached_property
    def american(self) -> English:
        return English(self.dictionaries, self.network, british=False)

    @cached_property
    def british(self) -> English:
        return English(self.dictionaries, self.network, british=True)

    def phonemes(self, text: str, british: bool = False) -> str:
        """Return the phonemes of a text that is written as it is spoken (`spoken`).

        Raises BadInput for letters that are neither Latin nor Chinese.
        """
        text = unicodedata.normalize("NFC", text)
        check_letters(text)
        english = self.british if british else self.american
        parts = list[str]()
        for run in RUNS.findall(text):
            if re.match(f"[{HAN}]", run):
                parts.append(f" {chinese.phonemes(run)} ")
            else:
                parts.append(english.phonemes(_marked(run)))
        joined = re.sub(r"\s+", " ", "".join(parts))
        return re.sub(r" (?=[,.!?;:…)”])", "", joined).strip()


def _marked(text: str) -> str:
    """Only letters and the marks that voices know."""
    text = re.sub("([，、。．！？；：])", r"\1 ", text).translate(SENTENCE_MARKS)
    text = "".join(MARKS.get(it, it) for it in text)
    return "".join(it if it.isalpha() or it in KEPT else " " for it in text)


def check_letters(text: str) -> None:
    """Raise BadInput for letters of scripts that cannot be read here."""
    foreign = dict[str, None]()
    for it in text:
        if it.isalpha() and not re.match(f"[{HAN}A-Za-zÀ-ɏᴀ-ỿ々ʰ-˿]", it):
            foreign[it] = None
    if foreign:
        shown = "".join(list(foreign)[:10])
        raise BadInput(
            say(
                f"The text has letters that cannot be read aloud here: {shown}",
                f"文本含有此处无法朗读的文字：{shown}",
            ),
            say(
                "The voices read Chinese and English; write it in one of them.",
                "语音支持中文与英文，请改用其中一种书写。",
            ),
            field="prompt",
        )
