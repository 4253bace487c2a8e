"""Word and character errors of speech: a recogniser writes down what it hears, and that is
compared with the text. What it gets wrong of real recordings is named beside, for no
voice can be better than that.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.score import Score, ratio_interval
from miaobi.evaluate.subject import HEARING

if TYPE_CHECKING:
    from miaobi.data.audio.media import Sound
    from miaobi.evaluate.audio.subject import SoundSubject

MODALITY = "audio"
NEEDS = frozenset({HEARING})


def normalised(text: str) -> str:
    """Return a text as errors are counted: NFKC, without case, punctuation and signs;
    apostrophes inside words are left out too, and spaces are single.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    spaced = (
        char if unicodedata.category(char)[0] in "LNM" else _space(char)
        for char in folded
    )
    return " ".join("".join(spaced).split())


def _space(char: str) -> str:
    """What stands for a character that is not said."""
    return "" if char in "'’" else " "


def edits(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Return the fewest insertions, deletions and substitutions from one to the other
    (Levenshtein 1966).
    """
    positions = np.arange(len(heard) + 1)
    row = positions.copy()
    codes = {token: number for number, token in enumerate({*reference, *heard})}
    columns = np.array([codes[token] for token in heard], dtype=int)
    for number, token in enumerate(reference, 1):
        changed = row[:-1] + (columns != codes[token])
        best = np.minimum(changed, row[1:] + 1)
        best = np.concatenate([[number], best])
        # An insertion costs one for each position that it goes to the right.
        row = np.minimum.accumulate(best - positions) + positions
    return int(row[-1])


def character_errors(text: str, heard: str) -> tuple[int, int]:
    """Return (errors, characters of the text); spaces do not count."""
    reference = normalised(text).replace(" ", "")
    return edits(reference, normalised(heard).replace(" ", "")), len(reference)


def word_errors(text: str, heard: str) -> tuple[int, int]:
    """Return (errors, words of the text)."""
    reference = normalised(text).split()
    return edits(reference, normalised(heard).split()), len(reference)


RATES = {
    "cer": (character_errors, ("character errors (CER)", "字错误率（CER）")),
    "wer": (word_errors, ("word errors (WER)", "词错误率（WER）")),
}


def measure(subject: SoundSubject) -> list[Score]:
    """Return CER, and WER where the texts have spaces between words."""
    assert subject.hear is not None
    heard = _heard(subject, subject.generated)
    recorded = subject.recorded or ()
    heard_recordings = _heard(subject, recorded)
    names = ["cer", "wer"]
    if not all(" " in text.strip() for text in subject.texts):
        names = ["cer"]
    scores = list[Score]()
    for name in names:
        count, label = RATES[name]
        counts = [count(*pair) for pair in zip(subject.texts, heard, strict=True)]
        errors, lengths = zip(*counts)
        ceiling = ""
        if recorded:
            pairs = zip(subject.texts, heard_recordings, strict=True)
            own = [count(*pair) for pair in pairs]
            share = sum(wrong for wrong, _ in own) / sum(length for _, length in own)
            ceiling = say(
                f"; the recordings themselves: {share:.1%}",
                f"；录音本身为 {share:.1%}",
            )
        scores.append(
            Score(
                name,
                *ratio_interval(errors, lengths, subject.seed),
                len(heard),
                better="lower",
                detail=say(
                    f"heard by {subject.recogniser}; NFKC, no case, no punctuation{ceiling}; sounds resampled",
                    f"由 {subject.recogniser} 识别；NFKC，不计大小写与标点{ceiling}；按声音重采样",
                ),
                label=say(*label),
            )
        )
    return scores


def _heard(subject: SoundSubject, sounds: Sequence[Sound]) -> list[str]:
    """What the recogniser writes for each sound."""
    assert subject.hear is not None
    texts = list[str]()
    for number, sound in enumerate(sounds, 1):
        texts.append(subject.hear(sound))
        subject.progress(number / len(sounds))
    return texts
