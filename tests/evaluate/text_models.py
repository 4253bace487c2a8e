"""Models whose scores are known on paper, to judge the judges by."""

import math
import random
from collections.abc import Sequence

from miaobi.core.artifacts import TokenLogprob
from miaobi.evaluate.text.subject import TextSubject


def by_character(text: str) -> list[tuple[int, int, int]]:
    return [(ord(letter), place, place + 1) for place, letter in enumerate(text)]


def unigram(probability: dict[str, float], start: str = "") -> TextSubject:
    """Tells every character's probability without looking at what came before."""

    def score(text: str) -> list[TokenLogprob]:
        marks = (
            list(text)
            if not start or not text.startswith(start)
            else [start, *text[len(start) :]]
        )
        return [
            TokenLogprob(letter, math.log(probability[letter])) for letter in marks[1:]
        ]

    def generate(
        prompt: str, seed: int, max_new_tokens: int, **controls: float
    ) -> Sequence[str]:
        letters = list(probability)
        return [
            "".join(
                random.Random(seed).choices(
                    letters, list(probability.values()), k=max_new_tokens
                )
            )
        ]

    return TextSubject(
        "unigram", generate, score, by_character, "characters", start, context_length=40
    )
