"""How surprised the model is by text that it has not seen.

    perplexity = exp(-1/T Σ_t ln p(x_t | x_<t))        per token: compares only within one tokenizer
    bits per byte = -1/B Σ_t log2 p(x_t | x_<t)        per UTF-8 byte: compares across tokenizers

Every token is scored exactly once. A document that fits the context is scored whole,
after the token that begins documents where the model has one. A longer one is scored in
windows that overlap by half: the first half of a window is read only as context
(Hugging Face, "Perplexity of fixed-length models", stride = half the context).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from miaobi.core.language import say
from miaobi.evaluate.score import Score, ratio_interval
from miaobi.evaluate.subject import HELD_OUT, LIKELIHOOD
from miaobi.evaluate.text.subject import TextSubject, TokenSpan

MODALITY = "text"
NEEDS = frozenset({LIKELIHOOD, HELD_OUT})
SEARCH = 16
"""Tokens that an end of a window may move, to fall where words separate."""


class Window(NamedTuple):
    """A stretch of a document that is scored at once."""

    text: str
    new_tokens: int
    """How many of its last tokens no earlier window scored."""
    new_bytes: int
    """UTF-8 bytes of the new tokens."""


class PassageLosses(NamedTuple):
    """Sums over each passage of which at least one token was scored."""

    nats: list[float]
    """Σ -ln p."""
    tokens: list[int]
    sizes: list[int]
    """UTF-8 bytes."""


def measure(subject: TextSubject) -> list[Score]:
    nats, tokens, sizes = losses(subject)
    mean = ratio_interval(nats, tokens, subject.seed)
    bits = [value / math.log(2) for value in nats]
    detail = say(
        f"tokenizer {subject.tokenizer}, {sum(tokens):,} tokens, each scored once, context {subject.context_length}; "
        "documents (passages of long ones) resampled",
        f"分词器 {subject.tokenizer}，{sum(tokens):,} 个词元各计一次，上下文 "
        f"{subject.context_length}；按文档（长文按段）重采样",
    )
    return [
        Score(
            "perplexity",
            math.exp(mean.value),
            math.exp(mean.low),
            math.exp(mean.high),
            n=len(nats),
            unit=say("per token", "每词元"),
            better="lower",
            detail=detail,
            label=say("Perplexity", "困惑度"),
        ),
        Score(
            "bits_per_byte",
            *ratio_interval(bits, sizes, subject.seed),
            n=len(nats),
            unit=say("bits/byte", "比特/字节"),
            better="lower",
            detail=say(
                f"{sum(sizes):,} UTF-8 bytes; documents resampled",
                f"{sum(sizes):,} 个 UTF-8 字节；按文档重采样",
            ),
            label=say("Bits per byte", "每字节比特数"),
        ),
    ]


def losses(subject: TextSubject) -> PassageLosses:
    """Return the losses of the held-out passages."""
    assert subject.score is not None
    result = PassageLosses([], [], [])
    for index, text in enumerate(subject.held_out):
        nats = 0.0
        tokens = 0
        size = 0
        for window in windows(subject, text):
            logprobs = subject.score(window.text)
            new = logprobs[len(logprobs) - window.new_tokens :]
            nats -= sum(token.logprob for token in new)
            tokens += window.new_tokens
            size += window.new_bytes
        if tokens:
            result.nats.append(nats)
            result.tokens.append(tokens)
            result.sizes.append(size)
        subject.progress((index + 1) / len(subject.held_out))
    return result


def windows(subject: TextSubject, text: str) -> Iterator[Window]:
    """Yield windows of a document, so that each token counts once.

    The very first token counts only where `subject.start` precedes it.
    """
    spans = _encode(subject, text)
    longest = subject.context_length - bool(subject.start)
    scored = 0 if subject.start else 1
    while scored < len(spans):
        begin = 0
        if len(spans) > longest and scored > 1:
            begin = max(0, scored - longest // 2)
        end = min(begin + longest, len(spans))
        begin, end = _align(subject, text, spans, begin, scored, end)
        prefix = subject.start if begin == 0 else ""
        last_character = spans[end - 1].end
        new_text = text[spans[scored].start : last_character]
        yield Window(
            prefix + text[spans[begin].start : last_character],
            end - scored,
            len(new_text.encode()),
        )
        scored = end


def _encode(subject: TextSubject, text: str) -> list[TokenSpan]:
    assert subject.encode is not None
    return [TokenSpan(*span) for span in subject.encode(text)]


def _align(
    subject: TextSubject,
    text: str,
    spans: list[TokenSpan],
    begin: int,
    scored: int,
    end: int,
) -> tuple[int, int]:
    """Move a window's ends inwards until its text alone has the document's tokens.

    Args:
        subject: The model, with its tokenizer.
        text: The document.
        spans: Its tokens.
        begin: The first token of the window.
        scored: How many tokens were scored before: the window still begins before
            them and ends after them.
        end: The token after the last of the window.
    """
    tokens = [span.token for span in spans]
    begins = range(begin, min(begin + SEARCH, scored)) if begin else range(1)
    for last in range(end, max(end - SEARCH, scored), -1):
        for first in begins:
            piece = text[spans[first].start : spans[last - 1].end]
            alone = [span.token for span in _encode(subject, piece)]
            if alone == tokens[first:last]:
                return first, last
    return begin, end
