"""Is a text harassment, hate, sexual, violent, about self-harm or a crime? By rules,
and by a small classifier where one is trained.

    verdict = moderate("...")                                        # rules alone
    verdict = moderate("...", await scores_of(classifier, "..."))    # and `miaobi finetune recipes/tune/text_safety.yaml`

Categories are OpenAI's. The score of a category is the higher of the two; what is
flagged, and how often both err, is in docs/guides/moderation.md. The classifier knows
six of the thirteen: the parts ("hate/threatening") are told by rules alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.engines.load import Model
from miaobi.engines.moderation import rules as text_rules

CLASSIFIER = "text-safety"
"""The name in the store under which the recipe leaves it."""
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
LEARNT = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
RULED = 0.5
"""From which score of a rule a category is flagged."""
THRESHOLDS = {
    "harassment": 0.86,
    "hate": 0.55,
    "illicit": 0.58,
    "self-harm": 0.52,
    "sexual": 0.73,
    "violence": 0.54,
}
"""From which probability of the classifier a category is flagged: what at most one in a
hundred of the texts without it reach, among validation texts, Chinese reviews and short
dialogues alike (bench/moderation.py).
"""
WINDOW, OVERLAP = 600, 100
"""Characters that the classifier, which reads the beginning of a text, is shown at a time."""


@dataclass(frozen=True)
class Verdict:
    scores: Mapping[str, float]
    flagged: frozenset[str]
    """The categories that apply."""
    ruled: frozenset[str]
    """Those of them that a rule told."""

    def __bool__(self) -> bool:
        """Whether anything is wrong with the text."""
        return bool(self.flagged)


def moderate(text: str, learnt: Mapping[str, float] | None = None) -> Verdict:
    """`learnt`: the classifier's probabilities by category, from `scores_of`."""
    scores = dict.fromkeys(CATEGORIES, 0.0)
    for rule in text_rules.found(text):
        for category in (rule.category, rule.category.partition("/")[0]):
            scores[category] = max(scores[category], rule.score)
    ruled = frozenset(category for category, score in scores.items() if score >= RULED)
    flagged = set(ruled)
    for category, score in (learnt or {}).items():
        scores[category] = max(scores[category], score)
        if score >= THRESHOLDS[category]:
            flagged.add(category)
    return Verdict(scores, frozenset(flagged), ruled)


async def scores_of(classifier: Model, text: str) -> dict[str, float]:
    """The highest probability of each category in any window of the text. Raises
    Unsupported for a model that tells none of them.
    """
    highest = dict.fromkeys(LEARNT, 0.0)
    for window in windows(text.encode("utf-8", "replace").decode()):
        # Named, since a prompt that looks like a record is taken for one: a text could
        # choose which part of it is read.
        asked = classifier.request(json.dumps({"text": window}, ensure_ascii=False))
        said = "".join(
            [chunk.text async for chunk in classifier.engine.generate(asked)]
        )
        for category, score in _scores(classifier, said).items():
            if category in highest:
                highest[category] = max(highest[category], score)
    return highest


def _scores(classifier: Model, said: str) -> dict[str, float]:
    try:
        scores: dict[str, float] = json.loads(said)["scores"]
    except (ValueError, KeyError, TypeError):
        scores = {}
    if not set(scores) & set(LEARNT):
        raise Unsupported(
            say(
                f"{classifier.weights.label} does not tell what is wrong with a text.",
                f"{classifier.weights.label} 不能判断文本的问题。",
            ),
            say(
                f"The name {CLASSIFIER} is kept for what recipes/tune/text_safety.yaml makes; give this model another.",
                f"名称 {CLASSIFIER} 保留给 recipes/tune/text_safety.yaml 的产物；请为此模型另取名称。",
            ),
        )
    return scores


def windows(text: str) -> Iterator[str]:
    """Stretches of a text that share their edges."""
    for start in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP):
        yield text[start : start + WINDOW]
