"""What is judged, and everything a metric may ask of it, made when first asked.

A metric is a module in the metrics registry with MODALITY, NEEDS (names of its
subject's parts, below) and `measure(subject) -> list[Score]`. It is left out, and the
report says why, when the subject cannot give what it needs. This subject is for texts,
`pictures.PictureSubject` for pictures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from miaobi.core.artifacts import TokenLogprob
from miaobi.core.language import say
from miaobi.evaluate.score import Score

LIKELIHOOD, HELD_OUT, TRAINING, SAMPLES = (
    "likelihood",
    "held_out",
    "training",
    "samples",
)
REFERENCE, BOUND, REBUILDING = "reference", "bound", "rebuilding"
"""For pictures (see pictures.py): training or held-out ones to compare with; a bound on
likelihood; encoding or translating.
"""
PASSAGE = 600
"""Characters of a passage, where a text is too long or too few documents were given."""
FEW = 8


class Metric(Protocol):
    MODALITY: str
    NEEDS: frozenset[str]

    def measure(self, subject: Any) -> list[Score]: ...


@dataclass(frozen=True)
class Sample:
    prompt: str
    text: str
    """What the model wrote after the prompt."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with the texts it is judged by."""

    name: str
    generate: Callable[..., Sequence[Any]]
    """generate(prompt, max_new_tokens=, temperature=, top_p=, seed=) -> texts."""
    score: Callable[[str], Sequence[TokenLogprob]] | None = None
    """Log-probability of every token after the first; None where the engine does not tell."""
    encode: Callable[[str], list[tuple[int, int, int]]] | None = None
    """(token, first character, character after the last) of every token of a text."""
    tokenizer: str = ""
    """Its name, without which figures by token mean nothing."""
    start: str = ""
    """The token that stands before a document, as text; empty where the model knows none."""
    context_length: int = 1024
    held_out: Sequence[str] = ()
    """Documents, or passages of long ones, that the model was not trained on (see `chosen`)."""
    training: Path | None = None
    """The text it was trained on, in one UTF-8 file."""
    modality: str = "text"
    count: int = 20
    """How many samples to write."""
    max_new_tokens: int = 96
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    listeners: list[Callable[[float], None]] = field(default_factory=list)
    """Told the share of the measurement in hand that is done."""

    def progress(self, share: float) -> None:
        for listener in self.listeners:
            listener(share)

    @cached_property
    def samples(self) -> list[Sample]:
        """Continuations of the beginnings of held-out documents; of nothing where there
        are none.
        """
        draw = random.Random(self.seed)
        known = [opening(text) for text in self.held_out if text.strip()]
        prompts = draw.sample(known, min(self.count, len(known))) if known else [""]
        made = []
        for place in range(self.count):
            prompt = prompts[place % len(prompts)]
            texts = self.generate(
                prompt,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed + place,
            )
            made.append(Sample(prompt, str(texts[0])))
            self.progress((place + 1) / self.count)
        return made

    def lacks(self, needs: frozenset[str]) -> str:
        """Why a metric with these needs cannot be measured; empty when it can."""
        if LIKELIHOOD in needs and (self.score is None or self.encode is None):
            return say(
                "This engine does not tell how likely a text is; evaluate with engine native or llamacpp.",
                "此引擎不提供文本的概率；请用 native 或 llamacpp 引擎评估。",
            )
        if HELD_OUT in needs and not any(text.strip() for text in self.held_out):
            return say(
                "No held-out text is known for this model; give some with --data FILE.",
                "没有此模型的留出文本；请用 --data 文件 给出。",
            )
        if TRAINING in needs and self.training is None:
            return say(
                "Not measurable: what this model was trained on is not at hand.",
                "无法测量：手头没有此模型的训练文本。",
            )
        return ""


def chosen(documents: Iterable[str], limit: int, seed: int) -> list[str]:
    """At most `limit` documents, drawn from the first twenty times as many.

    Where there are fewer than eight they are cut into passages first, so that an
    interval can be given.
    """
    from itertools import islice

    found = [text for text in islice(documents, 20 * limit) if text.strip()]
    if len(found) < FEW:
        found = [piece for text in found for piece in cut(text, PASSAGE)]
    return random.Random(seed).sample(found, min(limit, len(found)))


def cut(text: str, length: int) -> list[str]:
    """`text` in pieces of about `length` characters, cut at line ends where one is near."""
    pieces, at = list[str](), 0
    while at < len(text):
        end = text.rfind("\n", at + length // 2, at + length) + 1 or at + length
        pieces.append(text[at:end])
        at = end
    return [piece for piece in pieces if piece.strip()]


def opening(text: str, longest: int = 24) -> str:
    """The beginning of a text that a model is asked to continue: at most half of it,
    not ending inside a word.
    """
    text = text.lstrip()
    share = min(longest, max(len(text) // 2, 1))
    piece = text[:share]
    if spaced(text) and " " in piece and not text[share : share + 1].isspace():
        piece = piece[: piece.rindex(" ")]
    return piece.rstrip() if spaced(text) else piece


def spaced(text: str) -> bool:
    """Whether words stand apart by spaces, judged by the first thousand characters;
    Chinese and Japanese are not.
    """
    head = text[:1000]
    return sum(character > "\u2e7f" for character in head) < 0.2 * len(head)
