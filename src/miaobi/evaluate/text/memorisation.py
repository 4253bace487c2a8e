"""How much of what the model writes stands word for word in its training text.

For each sample, the longest run of characters that also occurs in the training text,
exactly. Natural text repeats itself too, so held-out passages of the same length are
measured the same way: a model that learned rather than copied stays near them. The
threshold for "copied" is the length that only one held-out passage in twenty exceeds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.score import Score, mean_interval
from miaobi.evaluate.text.subject import HELD_OUT, SAMPLES, TRAINING, Subject

MODALITY = "text"
NEEDS = frozenset({SAMPLES, TRAINING, HELD_OUT})
KEY = 8
"""Bytes of the windows by which the training text is sifted once."""
BLOCK = 1 << 24


def measure(subject: Subject) -> list[Score]:
    assert subject.training is not None
    written = [sample.text for sample in subject.samples if sample.text.strip()]
    held = [
        text[: len(other)]
        for text, other in zip(subject.held_out, written, strict=False)
    ]
    copies = longest_copies([*written, *held], subject.training)
    lengths = [len(copy) for copy in copies[: len(written)]]
    beside = [len(copy) for copy in copies[len(written) :]]
    limit = float(np.percentile(beside, 95))
    unit = say("characters", "字符")
    value, low, high = mean_interval(lengths, subject.seed)
    usual, usual_low, usual_high = mean_interval(beside, subject.seed)
    share, share_low, share_high = mean_interval(
        [float(length > limit) for length in lengths], subject.seed
    )
    longest = copies[lengths.index(max(lengths))]
    return [
        Score(
            "longest_copy",
            value,
            low,
            high,
            len(lengths),
            unit,
            "lower",
            say(
                f"mean over samples; the longest has {max(lengths)}: “{longest}”",
                f"样本平均；最长 {max(lengths)} 字：“{longest}”",
            ),
            say("Longest verbatim copy", "最长逐字复制"),
        ),
        Score(
            "longest_copy_held_out",
            usual,
            usual_low,
            usual_high,
            len(beside),
            unit,
            None,
            say(
                "held-out text of the same length: what is natural",
                "同样长度的留出文本：自然水平",
            ),
            say("The same, held-out text", "留出文本的同一指标"),
        ),
        Score(
            "copied_share",
            share,
            share_low,
            share_high,
            len(lengths),
            "",
            "lower",
            say(
                f"samples with a copy above {limit:.0f} characters, which 5 % "
                "of held-out passages exceed; samples resampled",
                f"复制超过 {limit:.0f} 字符的样本占比（留出文本中仅 5% 超过）；按样本重采样",
            ),
            say("Samples that copy", "存在复制的样本"),
        ),
    ]


def longest_copies(texts: Sequence[str], training: Path) -> list[str]:
    """For each text, its longest substring that occurs in the file `training`; the
    first of equals.
    """
    raw = [text.encode() for text in texts]
    with _mapped(training) as corpus:
        found = _occurring(
            {item[at : at + KEY] for item in raw for at in range(len(item) - KEY + 1)},
            corpus,
        )
        return [_longest(text, corpus, found) for text in texts]


def _longest(text: str, corpus: mmap.mmap | bytes, found: set[bytes]) -> str:
    """Two pointers: grow the best run from each start only while it beats what is known."""
    raw = text.encode()
    starts = [0, *np.cumsum([len(character.encode()) for character in text]).tolist()]
    best, length = 0, 0
    for first in range(len(text)):
        while first + length < len(text) and _occurs(
            raw[starts[first] : starts[first + length + 1]], corpus, found
        ):
            best, length = first, length + 1
    return text[best : best + length]


def _occurs(piece: bytes, corpus: mmap.mmap | bytes, found: set[bytes]) -> bool:
    """Whether `piece` stands in the corpus. Most that do not hold a window that is
    nowhere, which spares the search.
    """
    if any(piece[at : at + KEY] not in found for at in range(len(piece) - KEY + 1)):
        return False
    return corpus.find(piece) >= 0


def _occurring(keys: Iterable[bytes], corpus: mmap.mmap | bytes) -> set[bytes]:
    """Those of the 8-byte `keys` that stand anywhere in the corpus: one pass, block by block."""
    wanted = np.array(
        sorted(int.from_bytes(key, "little") for key in keys), dtype=np.uint64
    )
    if not len(wanted) or len(corpus) < KEY:
        return set()
    table = np.zeros(1 << 20, dtype=bool)
    table[_slot(wanted)] = True
    seen = set[int]()
    for at in range(0, len(corpus) - KEY + 1, BLOCK):
        block = np.frombuffer(corpus[at : at + BLOCK + KEY - 1], dtype=np.uint8)
        for phase in range(KEY):
            numbers = block[phase : phase + (len(block) - phase) // KEY * KEY].view(
                np.uint64
            )
            likely = numbers[table[_slot(numbers)]]
            seen.update(np.intersect1d(likely, wanted).tolist())
    return {number.to_bytes(KEY, "little") for number in seen}


def _slot(numbers: np.ndarray) -> np.ndarray:
    """Multiplicative hashing to 20 bits (Knuth, TAOCP 6.4)."""
    return (numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(44)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    if path.stat().st_size == 0:
        yield b""
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as corpus,
    ):
        yield corpus
