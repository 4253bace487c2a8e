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
from miaobi.evaluate.subject import HELD_OUT, SAMPLES, TRAINING
from miaobi.evaluate.text.subject import TextSubject

MODALITY = "text"
NEEDS = frozenset({SAMPLES, TRAINING, HELD_OUT})
KEY = 8
"""Bytes of the windows that the training text is filtered by."""
BLOCK = 1 << 24
"""Bytes of the training text that are filtered at a time."""

Corpus = mmap.mmap | bytes


def measure(subject: TextSubject) -> list[Score]:
    assert subject.training is not None
    texts = [sample.text for sample in subject.samples if sample.text.strip()]
    held_out = [
        passage[: len(text)]
        for passage, text in zip(subject.held_out, texts, strict=False)
    ]
    copies = longest_copies([*texts, *held_out], subject.training)
    lengths = [len(copy) for copy in copies[: len(texts)]]
    natural = [len(copy) for copy in copies[len(texts) :]]
    longest = max(lengths)
    example = copies[lengths.index(longest)]
    threshold = float(np.percentile(natural, 95))
    copied = [float(length > threshold) for length in lengths]
    unit = say("characters", "字符")
    return [
        Score(
            "longest_copy",
            *mean_interval(lengths, subject.seed),
            n=len(lengths),
            unit=unit,
            better="lower",
            detail=say(
                f"mean over samples; the longest has {longest}: “{example}”",
                f"样本平均；最长 {longest} 字：“{example}”",
            ),
            label=say("Longest verbatim copy", "最长逐字复制"),
        ),
        Score(
            "longest_copy_held_out",
            *mean_interval(natural, subject.seed),
            n=len(natural),
            unit=unit,
            detail=say(
                "held-out text of the same length: what is natural",
                "同样长度的留出文本：自然水平",
            ),
            label=say("The same, held-out text", "留出文本的同一指标"),
        ),
        Score(
            "copied_share",
            *mean_interval(copied, subject.seed),
            n=len(lengths),
            better="lower",
            detail=say(
                f"samples with a copy above {threshold:.0f} characters, which 5 % "
                "of held-out passages exceed; samples resampled",
                f"复制超过 {threshold:.0f} 字符的样本占比（留出文本中仅 5% 超过）；按样本重采样",
            ),
            label=say("Samples that copy", "存在复制的样本"),
        ),
    ]


def longest_copies(texts: Sequence[str], training: Path) -> list[str]:
    """Return, for each text, its longest substring that occurs in the file `training`.

    The first of equals; empty where not one character occurs.
    """
    with _mapped(training) as corpus:
        keys = {key for text in texts for key in _keys(text.encode())}
        occurring = _occurring_keys(keys, corpus)
        return [_longest_copy(text, corpus, occurring) for text in texts]


def _keys(piece: bytes) -> Iterator[bytes]:
    """Yield every window of KEY bytes."""
    for start in range(len(piece) - KEY + 1):
        yield piece[start : start + KEY]


def _longest_copy(text: str, corpus: Corpus, occurring: set[bytes]) -> str:
    """Return the longest copy in one text, by two pointers.

    From each start the run grows only while it is longer than the best so far.
    """
    raw = text.encode()
    sizes = [len(character.encode()) for character in text]
    offsets = [0, *np.cumsum(sizes).tolist()]

    def occurs(start: int, end: int) -> bool:
        return _occurs(raw[offsets[start] : offsets[end]], corpus, occurring)

    best = 0
    length = 0
    for start in range(len(text)):
        while start + length < len(text) and occurs(start, start + length + 1):
            best = start
            length += 1
    return text[best : best + length]


def _occurs(piece: bytes, corpus: Corpus, occurring: set[bytes]) -> bool:
    """Return whether `piece` stands in the corpus.

    A key that occurs nowhere rules most pieces out without a search.
    """
    if not all(key in occurring for key in _keys(piece)):
        return False
    return corpus.find(piece) >= 0


def _occurring_keys(keys: Iterable[bytes], corpus: Corpus) -> set[bytes]:
    """Return those of the 8-byte `keys` that stand anywhere in the corpus.

    One pass, block by block: a table of hashes filters out nearly all windows, a
    sorted array decides on the rest.
    """
    numbers = sorted(int.from_bytes(key, "little") for key in keys)
    wanted = np.array(numbers, dtype=np.uint64)
    if not len(wanted) or len(corpus) < KEY:
        return set()
    table = np.zeros(1 << 20, dtype=bool)
    table[_hash(wanted)] = True
    occurring = set[int]()
    for start in range(0, len(corpus) - KEY + 1, BLOCK):
        block = np.frombuffer(corpus[start : start + BLOCK + KEY - 1], dtype=np.uint8)
        for phase in range(KEY):
            whole = (len(block) - phase) // KEY * KEY
            windows = block[phase : phase + whole].view(np.uint64)
            candidates = windows[table[_hash(windows)]]
            occurring.update(np.intersect1d(candidates, wanted).tolist())
    return {number.to_bytes(KEY, "little") for number in occurring}


def _hash(numbers: np.ndarray) -> np.ndarray:
    """Return multiplicative hashes of 20 bits (Knuth, TAOCP 6.4)."""
    return (numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(44)


@contextmanager
def _mapped(path: Path) -> Iterator[Corpus]:
    """Open a file as memory; an empty file cannot be mapped."""
    if path.stat().st_size == 0:
        yield b""
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as corpus,
    ):
        yield corpus
