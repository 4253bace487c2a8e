"""How surprised the model is by text that it has not seen.

    perplexity = exp(-1/T Σ_t ln p(x_t | x_<t))        per token: compares only within one tokenizer
    bits per byte = -1/B Σ_t log2 p(x_t | x_<t)        per UTF-8 byte: compares across tokenizers

Every token is scored exactly once. A document that fits the context is scored whole,
after the token that begins documents where the model has one. A longer one passes in
windows that overlap by half: the first half of a window is read only as context
(Hugging Face, "Perplexity of fixed-length models", stride = half the context).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from miaobi.core.language import say
from miaobi.evaluate.score import Score, ratio_interval
from miaobi.evaluate.text.subject import HELD_OUT, LIKELIHOOD, Subject

MODALITY = "text"
NEEDS = frozenset({LIKELIHOOD, HELD_OUT})
SEARCH = 16
"""Tokens that a window's end may move to find a place where words part."""


def measure(subject: Subject) -> list[Score]:
    nats, tokens, sizes = losses(subject)
    mean, low, high = ratio_interval(nats, tokens, subject.seed)
    bits, bits_low, bits_high = ratio_interval(
        [value / math.log(2) for value in nats], sizes, subject.seed
    )
    detail = say(
        f"tokenizer {subject.tokenizer}, {sum(tokens):,} tokens, each scored once, context {subject.context_length}; "
        "documents (passages of long ones) resampled",
        f"分词器 {subject.tokenizer}，{sum(tokens):,} 个词元各计一次，上下文 "
        f"{subject.context_length}；按文档（长文按段）重采样",
    )
    return [
        Score(
            "perplexity",
            math.exp(mean),
            math.exp(low),
            math.exp(high),
            len(nats),
            say("per token", "每词元"),
            "lower",
            detail,
            say("Perplexity", "困惑度"),
        ),
        Score(
            "bits_per_byte",
            bits,
            bits_low,
            bits_high,
            len(nats),
            say("bits/byte", "比特/字节"),
            "lower",
            say(
                f"{sum(sizes):,} UTF-8 bytes; documents resampled",
                f"{sum(sizes):,} 个 UTF-8 字节；按文档重采样",
            ),
            say("Bits per byte", "每字节比特数"),
        ),
    ]


def losses(subject: Subject) -> tuple[list[float], list[int], list[int]]:
    """For each passage: the sum of -ln p over its scored tokens, how many they are, and
    the bytes they spell.
    """
    nats, tokens, sizes = list[float](), list[int](), list[int]()
    for place, text in enumerate(subject.held_out):
        total, count, size = 0.0, 0, 0
        for piece, fresh, spelled in windows(subject, text):
            scored = subject.score(piece) if subject.score else []
            total -= sum(item.logprob for item in scored[len(scored) - fresh :])
            count, size = count + fresh, size + spelled
        if count:
            nats.append(total)
            tokens.append(count)
            sizes.append(size)
        subject.progress((place + 1) / len(subject.held_out))
    return nats, tokens, sizes


def windows(subject: Subject, text: str) -> Iterator[tuple[str, int, int]]:
    """(text to score, how many of its last tokens count, the bytes they spell), so that
    each token counts once.

    The very first token counts only where `subject.start` gives it something to follow.
    """
    assert subject.encode is not None
    marks = subject.encode(text)
    room = subject.context_length - bool(subject.start)
    done = 0 if subject.start else 1
    while done < len(marks):
        begin = 0 if len(marks) <= room or done <= 1 else max(0, done - room // 2)
        begin, end = _same_tokens(
            subject, text, marks, begin, done, min(begin + room, len(marks))
        )
        head = subject.start if begin == 0 else ""
        piece = text[marks[begin][1] : marks[end - 1][2]]
        yield (
            head + piece,
            end - done,
            len(text[marks[done][1] : marks[end - 1][2]].encode()),
        )
        done = end


def _same_tokens(
    subject: Subject,
    text: str,
    marks: list[tuple[int, int, int]],
    begin: int,
    done: int,
    end: int,
) -> tuple[int, int]:
    """Move a window's ends inwards until its text alone gives the same tokens as it
    does within the document.

    `done` tokens were scored before: the window still begins before them and ends after them.
    """
    assert subject.encode is not None
    wanted = [token for token, _, _ in marks]
    for last in range(end, max(end - SEARCH, done), -1):
        for first in range(begin, min(begin + SEARCH, done) if begin else 1):
            if [
                token
                for token, _, _ in subject.encode(
                    text[marks[first][1] : marks[last - 1][2]]
                )
            ] == wanted[first:last]:
                return first, last
    return begin, end
