"""What a text model is evaluated by: held-out and training text, samples, scores."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miaobi.core.artifacts import TokenLogprob
from miaobi.core.language import say
from miaobi.evaluate.subject import (
    BOUND,
    FILLS,
    HELD_OUT,
    LIKELIHOOD,
    TRAINING,
    Subject,
)

if TYPE_CHECKING:
    import numpy as np

    from miaobi.nn.language import SentenceLatents

PASSAGE = 600
"""Characters of a passage, where texts are too long or documents too few."""
MIN_DOCUMENTS = 8
"""Fewer documents than this are cut into passages."""


class TokenSpan(NamedTuple):
    """A token of a text: characters `start` up to `end`."""

    token: int
    start: int
    end: int


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote."""

    prompt: str
    text: str
    """What the model wrote after the prompt."""


@dataclass(frozen=True, eq=False)
class Completer:
    """A model of source files that writes what is missing in one."""

    fill: Callable[[str, str], str]
    """fill(before, behind) -> the rest of the line, greedily."""
    training: np.ndarray
    """The tokens that it was trained on, [tokens]."""
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]


@dataclass(frozen=True, eq=False)
class TextSubject(Subject):
    """A model with the texts it is evaluated by."""

    modality = "text"

    name: str
    generate: Callable[..., Sequence[Any]]
    """generate(prompt, max_new_tokens=, temperature=, top_p=, seed=) -> texts."""
    score: Callable[[str], Sequence[TokenLogprob]] | None = None
    """Log-probability of every token after the first; None if the engine has none."""
    encode: Callable[[str], Sequence[tuple[int, int, int]]] | None = None
    """The tokens of a text, as `TokenSpan`s."""
    tokenizer: str = ""
    """Its name, without which scores per token mean nothing."""
    start: str = ""
    """The token that begins documents, as text; empty if the model has none."""
    context_length: int = 1024
    held_out: Sequence[str] = ()
    """Documents, or passages of long ones, that the model was not trained on (see
    `choose_documents`).
    """
    training: Path | None = None
    """The text it was trained on, in one UTF-8 file."""
    count: int = 20
    """How many samples to write."""
    max_new_tokens: int = 96
    temperature: float = 0.8
    top_p: float = 0.95
    net: SentenceLatents | None = None
    """The network, where it is a model of sentences with a latent space."""
    completer: Completer | None = None
    """Where it was trained to fill in Python."""

    @cached_property
    def samples(self) -> list[Sample]:
        """Continuations of the beginnings of held-out documents.

        Without held-out documents the prompt is empty.
        """
        prompts = self._prompts()
        samples = list[Sample]()
        for index in range(self.count):
            prompt = prompts[index % len(prompts)]
            texts = self.generate(
                prompt,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed + index,
            )
            samples.append(Sample(prompt, str(texts[0])))
            self.progress((index + 1) / self.count)
        return samples

    def _prompts(self) -> list[str]:
        openings = [opening(text) for text in self.held_out if text.strip()]
        if not openings:
            return [""]
        count = min(self.count, len(openings))
        return random.Random(self.seed).sample(openings, count)

    def concerns(self, needs: frozenset[str]) -> bool:
        """Return False for a bound where the model has no latent space of sentences, and
        for fills where it was not trained to fill in.
        """
        if FILLS in needs and self.completer is None:
            return False
        return BOUND not in needs or (self.net is not None and self.encode is not None)

    def lacks(self, needs: frozenset[str]) -> str:
        if LIKELIHOOD in needs and (self.score is None or self.encode is None):
            return say(
                "This engine has no log-probabilities of texts; evaluate with engine native or llamacpp.",
                "此引擎不提供文本的概率；请用 native 或 llamacpp 引擎评估。",
            )
        if HELD_OUT in needs and not any(text.strip() for text in self.held_out):
            return say(
                "No held-out text is known for this model; give some with --data FILE.",
                "没有此模型的留出文本；请用 --data 文件 给出。",
            )
        if TRAINING in needs and self.training is None:
            return say(
                "Not measurable: the training text of this model is not available.",
                "无法测量：手头没有此模型的训练文本。",
            )
        return ""


def choose_documents(documents: Iterable[str], limit: int, seed: int) -> list[str]:
    """Return at most `limit` documents, drawn from the first twenty times as many.

    Fewer than eight are cut into passages first, so that an interval can be given.
    """
    candidates = [text for text in islice(documents, 20 * limit) if text.strip()]
    if len(candidates) < MIN_DOCUMENTS:
        candidates = [piece for text in candidates for piece in cut(text, PASSAGE)]
    count = min(limit, len(candidates))
    return random.Random(seed).sample(candidates, count)


def cut(text: str, length: int) -> list[str]:
    """Return `text` in pieces of about `length` characters.

    Pieces end at line ends where one is near; blank ones are left out.
    """
    pieces = list[str]()
    start = 0
    while start < len(text):
        line_end = text.rfind("\n", start + length // 2, start + length) + 1
        end = line_end or start + length
        pieces.append(text[start:end])
        start = end
    return [piece for piece in pieces if piece.strip()]


def opening(text: str, longest: int = 24) -> str:
    """Return the beginning of a text, for a model to continue.

    It is at most half of the text and does not end inside a word.
    """
    text = text.lstrip()
    length = min(longest, max(len(text) // 2, 1))
    piece = text[:length]
    if not spaced(text):
        return piece
    inside_word = not text[length : length + 1].isspace()
    if " " in piece and inside_word:
        piece = piece[: piece.rindex(" ")]
    return piece.rstrip()


def spaced(text: str) -> bool:
    """Return whether spaces separate words, from the first thousand characters.

    In Chinese and Japanese they do not.
    """
    head = text[:1000]
    ideographs = sum(character > "\u2e7f" for character in head)
    return ideographs < 0.2 * len(head)
