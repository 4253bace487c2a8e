"""Is a text harassment, hate, sexual, violent, about self-harm or a crime? By rules,
and by a small classifier where one is trained.

    verdict = moderate(text)                                    # rules alone
    verdict = moderate(text, await classify(classifier, text))  # and the classifier

The classifier is what `miaobi finetune recipes/tune/text_safety.yaml` makes. Categories
are OpenAI's. The score of a category is the higher of the two; what is flagged, and how
often both err, is in docs/guides/moderation.md. The classifier knows six of the
thirteen: the parts ("hate/threatening") are recognised by rules alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.engines.model import Model
from miaobi.engines.moderation import rules

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
CLASSIFIED = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
"""Those that the classifier knows."""

RULE_THRESHOLD = 0.5
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
"""Characters that the classifier, which reads the beginning of a text, gets at a time."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a text. True if anything is."""

    scores: Mapping[str, float]
    flagged: frozenset[str]
    """The categories that apply."""
    by_rule: frozenset[str]
    """Those of them that a rule recognised."""

    def __bool__(self) -> bool:
        return bool(self.flagged)


def moderate(text: str, probabilities: Mapping[str, float] | None = None) -> Verdict:
    """Return the verdict on a text.

    `probabilities`: the classifier's, by category, from `classify`.
    """
    scores = dict.fromkeys(CATEGORIES, 0.0)
    for rule in rules.applying(text):
        whole = rule.category.partition("/")[0]
        for category in (rule.category, whole):
            scores[category] = max(scores[category], rule.score)
    by_rule = {name for name, score in scores.items() if score >= RULE_THRESHOLD}
    flagged = set(by_rule)
    for category, probability in (probabilities or {}).items():
        scores[category] = max(scores[category], probability)
        if probability >= THRESHOLDS[category]:
            flagged.add(category)
    return Verdict(scores, frozenset(flagged), frozenset(by_rule))


async def classify(classifier: Model, text: str) -> dict[str, float]:
    """Return the highest probability of each category in any window of the text.

    Raises Unsupported for a model that knows none of them.
    """
    highest = dict.fromkeys(CLASSIFIED, 0.0)
    for window in windows(text.encode("utf-8", "replace").decode()):
        # As JSON, since a prompt that looks like JSON is taken for such: a text could
        # choose which part of it is read.
        prompt = json.dumps({"text": window}, ensure_ascii=False)
        request = classifier.request(prompt)
        chunks = [chunk async for chunk in classifier.engine.generate(request)]
        answer = "".join(chunk.text for chunk in chunks)
        for category, score in _scores(classifier, answer).items():
            if category in highest:
                highest[category] = max(highest[category], score)
    return highest


def _scores(classifier: Model, answer: str) -> dict[str, float]:
    try:
        scores: dict[str, float] = json.loads(answer)["scores"]
    except (ValueError, KeyError, TypeError):
        scores = {}
    if not set(scores) & set(CLASSIFIED):
        raise Unsupported(
            say(
                f"{classifier.weights.label} does not say what is wrong with a text.",
                f"{classifier.weights.label} 不能判断文本的问题。",
            ),
            say(
                f"The name {CLASSIFIER} is kept for what recipes/tune/text_safety.yaml makes; "
                "give this model another.",
                f"名称 {CLASSIFIER} 保留给 recipes/tune/text_safety.yaml 的产物；请为此模型另取名称。",
            ),
        )
    return scores


def windows(text: str) -> Iterator[str]:
    """Yield stretches of a text that share their edges."""
    for start in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP):
        yield text[start : start + WINDOW]
