"""Text told by its wording: the rules of rules.yaml, in English and Chinese.

A rule holds where one of its expressions matches and nothing around the match says it
is about something else. Texts are normalised first, so that full-width letters,
invisible characters and gaps between characters hide nothing.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

AROUND = 60
"""Characters on either side of a match in which `unless` is looked for."""
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f]"
)
GAPS = re.compile(r"(?<=[\u4e00-\u9fff])[\s·.*_|/-]{1,3}(?=[\u4e00-\u9fff])")
SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Rule:
    category: str
    score: float
    any: tuple[re.Pattern[str], ...]
    unless: re.Pattern[str] | None

    def holds(self, text: str) -> bool:
        """For a normalised text."""
        for pattern in self.any:
            for match in pattern.finditer(text):
                around = text[max(0, match.start() - AROUND) : match.end() + AROUND]
                if self.unless is None or not self.unless.search(around):
                    return True
        return False


def found(text: str) -> list[Rule]:
    """The rules that hold for a text, as it was written."""
    plain = normalised(text)
    return [rule for rule in rules() if rule.holds(plain)]


def normalised(text: str) -> str:
    plain = (
        INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
        .lower()
        .replace("\u2019", "'")
    )
    return SPACES.sub(" ", GAPS.sub("", plain))


@cache
def rules() -> tuple[Rule, ...]:
    told: dict[str, Any] = yaml.safe_load(
        files("miaobi.engines.moderation")
        .joinpath("rules.yaml")
        .read_text(encoding="utf-8")
    )

    def compiled(pattern: str) -> re.Pattern[str]:
        for name, words in told["words"].items():
            pattern = pattern.replace(f"{{{name}}}", words)
        return re.compile(pattern)

    return tuple(
        Rule(
            item["category"],
            item["score"],
            tuple(map(compiled, item["any"])),
            compiled(item["unless"]) if "unless" in item else None,
        )
        for item in told["rules"]
    )
