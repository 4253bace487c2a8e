"""Text models whose scores are known on paper, to test metrics by."""

import math
import random
from collections.abc import Sequence

from miaobi.core.artifacts import TokenLogprob
from miaobi.evaluate.text.subject import TextSubject, TokenSpan


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
