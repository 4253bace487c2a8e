"""Rules that recognise unsafe texts by their wording: those of rules.yaml, in English
and Chinese.

A rule applies where one of its expressions matches and nothing around the match says
that the text is about something else. Texts are normalised first, so that full-width
letters, invisible characters and gaps between characters hide nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

CONTEXT = 60
"""Characters on either side of a match in which `unless` is looked for."""
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f]"
)
GAPS = re.compile(r"(?<=[\u4e00-\u9fff])[\s·.*_|/-]{1,3}(?=[\u4e00-\u9fff])")
SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Rule:
    """What makes a category apply."""

    category: str
    score: float
    patterns: tuple[re.Pattern[str], ...]
    """Any of them is enough."""
    unless: re.Pattern[str] | None

    def applies(self, text: str) -> bool:
        """Return whether it applies to a normalised text."""
        for pattern in self.patterns:
            for match in pattern.finditer(text):
                start = max(0, match.start() - CONTEXT)
                context = text[start : match.end() + CONTEXT]
                if self.unless is None or not self.unless.search(context):
                    return True
        return False


def applying(text: str) -> list[Rule]:
    """Return the rules that apply to a text, as it was written."""
    normalised_text = normalised(text)
    return [rule for rule in rules() if rule.applies(normalised_text)]


def normalised(text: str) -> str:
    """Return the text as the rules read it: NFKC, lower case, nothing hidden."""
    text = unicodedata.normalize("NFKC", text)
    text = INVISIBLE.sub("", text).lower().replace("\u2019", "'")
    return SPACES.sub(" ", GAPS.sub("", text))


@cache
def rules() -> tuple[Rule, ...]:
    """Return the rules of rules.yaml, compiled."""
    path = files("miaobi.engines.moderation") / "rules.yaml"
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    groups: dict[str, str] = settings["words"]
    return tuple(_rule(item, groups) for item in settings["rules"])


def _rule(item: Mapping[str, Any], groups: Mapping[str, str]) -> Rule:
    def compiled(pattern: str) -> re.Pattern[str]:
        for name, group in groups.items():
            pattern = pattern.replace(f"{{{name}}}", group)
        return re.compile(pattern)

    return Rule(
        category=item["category"],
        score=item["score"],
        patterns=tuple(compiled(pattern) for pattern in item["any"]),
        unless=compiled(item["unless"]) if "unless" in item else None,
    )
