"""Text models whose scores are known on paper, to test metrics by."""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from miaobi.core.artifacts import TokenLogprob
from miaobi.data.text.tokens import TokenSpec
from miaobi.evaluate.text.subject import TextSubject, TokenSpan


class Lengths:
    """A model of sentences that keeps their length and their first token."""

    spec = TokenSpec(100_000, 64, 0, 0, 0, "letters")
    latent_shape = (3,)

    def encode(self, texts: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([[len(text), text[0], 1.0] for text in texts])

    def decode(self, z: Tensor) -> list[list[int]]:
        return [[int(first)] * int(length) for length, first, _ in z]

    def bound(
        self,
        texts: Sequence[Sequence[int]],
        samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return torch.tensor([-2.0 * len(text) for text in texts])


def by_character(text: str) -> list[TokenSpan]:
    """Return every character as a token."""
    return [
        TokenSpan(ord(character), index, index + 1)
        for index, character in enumerate(text)
    ]


def unigram(probabilities: dict[str, float], start: str = "") -> TextSubject:
    """Return a model that predicts characters without looking at what came before."""

    def score(text: str) -> list[TokenLogprob]:
        tokens = list(text)
        if start and text.startswith(start):
            tokens = [start, *text[len(start) :]]
        return [
            TokenLogprob(token, math.log(probabilities[token])) for token in tokens[1:]
        ]

    def generate(
        prompt: str, seed: int, max_new_tokens: int, **controls: float
    ) -> Sequence[str]:
        characters = random.Random(seed).choices(
            list(probabilities), list(probabilities.values()), k=max_new_tokens
        )
        return ["".join(characters)]

    return TextSubject(
        "unigram",
        generate,
        score,
        by_character,
        "characters",
        start,
        context_length=40,
    )
