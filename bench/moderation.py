"""How often /v1/moderations errs: rules, classifier and both on held-out texts, and the
judge of pictures on ordinary ones.

    miaobi finetune recipes/tune/text_safety.yaml
    python bench/moderation.py [--json figures.json]

- thresholds: the probability that at most `--alarms` (1 %) of the texts without a
  category reach, on the validation split, on shop reviews and on dialogues; a half at
  least. The constants in engines/moderation/texts.py are these.
- test split: for each category, the share found of the texts that have it, and the
  share flagged of those that do not.
- elsewhere, never taught: 200 wishes for harm (HarmBench), other dialogues and reviews,
  taken to be harmless, and 62 Chinese sentences written for this bench
  (moderation_zh.jsonl) by the author of the rules, before the classifier was trained.
- pictures: ordinary ones only, since no labelled unsafe pictures can be had; so only
  false alarms can be measured.

Shares with Wilson's 95 % intervals.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from miaobi.data import packs
from miaobi.data.image import loaders as image_loaders
from miaobi.data.image.files import read_picture
from miaobi.data.labelled.loaders.safety import wishes_for_harm
from miaobi.data.text import loaders as text_loaders
from miaobi.engines.load import load
from miaobi.engines.moderation.texts import (
    CLASSIFIED,
    CLASSIFIER,
    THRESHOLDS,
    classify,
    moderate,
)
from miaobi.evaluate.score import share_interval
from miaobi.tune import examples
from miaobi.tune.tasks import text_classification

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes/tune/text_safety.yaml"


@dataclass(frozen=True)
class Seen:
    text: str
    labels: frozenset[str]
    scores: dict[str, float]
    """By the classifier."""

    def flagged(self, judge: str) -> frozenset[str]:
        classified = frozenset(
            name for name, score in self.scores.items() if score >= THRESHOLDS[name]
        )
        return {
            "classifier": classified,
            "rules": moderate(self.text).flagged,
            "both": moderate(self.text, self.scores).flagged,
        }[judge]


def look(model: Any, texts: Iterable[tuple[str, Sequence[str]]]) -> list[Seen]:
    async def scored() -> list[Seen]:
        return [
            Seen(text, frozenset(labels), await classify(model, text))
            for text, labels in texts
        ]

    return asyncio.run(scored())


def split(name: str) -> list[tuple[str, Sequence[str]]]:
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    task: Any = text_classification
    folder = examples.prepare(
        examples.Config(**recipe["data"]),
        task,
        task.Config(**recipe["head"]),
        progress=False,
    )
    return [
        (example.columns["text"], example.columns["label"])
        for example in examples.read_split(folder, name, task)
    ]


def shown(hits: int, count: int) -> str:
    value, low, high = share_interval(hits / count, count)
    return f"{value:.3f} ({max(low, 0.0):.3f}-{high:.3f}) of {count}"


def thresholds(sources: Sequence[Sequence[Seen]], alarms: float) -> dict[str, float]:
    found = dict.fromkeys(CLASSIFIED, 0.5)
    for seen in sources:
        for name in CLASSIFIED:
            clean = sorted(
                (item.scores[name] for item in seen if name not in item.labels),
                reverse=True,
            )
            found[name] = max(
                found[name], round(clean[int(alarms * len(clean))] + 0.005, 2)
            )
    return found


def ordinary(
    count: int,
) -> dict[str, tuple[list[tuple[str, Sequence[str]]], list[tuple[str, Sequence[str]]]]]:
    """Texts that are taken to be harmless, twice `count` of each kind: to set the
    thresholds by, and to measure on.
    """
    reviews = [item.text for item in text_loaders.read("chinese-reviews")]
    dialogues = [
        item.messages[-1].content
        for item in text_loaders.read("chatterbot-corpus")
        if item.messages
    ]
    table = {}
    for name, texts in (
        ("Chinese shop reviews", reviews),
        ("dialogues, English and Chinese", dialogues),
    ):
        some: list[tuple[str, Sequence[str]]] = [
            (text, []) for text in random.Random(0).sample(texts, 2 * count)
        ]
        table[name] = (some[:count], some[count:])
    return table


def by_category(seen: Sequence[Seen], judge: str) -> dict[str, dict[str, str]]:
    told = [(item.labels, item.flagged(judge)) for item in seen]
    table = {}
    for name in CLASSIFIED:
        has, lacks = (
            [flags for labels, flags in told if name in labels],
            [flags for labels, flags in told if name not in labels],
        )
        table[name] = {
            "found": shown(sum(name in flags for flags in has), len(has)),
            "false alarms": shown(sum(name in flags for flags in lacks), len(lacks)),
        }
    has, lacks = (
        [flags for labels, flags in told if labels],
        [flags for labels, flags in told if not labels],
    )
    return {
        **table,
        "any": {
            "found": shown(sum(map(bool, has)), len(has)),
            "false alarms": shown(sum(map(bool, lacks)), len(lacks)),
        },
    }


def elsewhere(model: Any, count: int) -> dict[str, dict[str, str]]:
    zh = [
        json.loads(line)
        for line in (HERE / "moderation_zh.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    sets: dict[str, list[tuple[str, Sequence[str]]]] = {
        "wishes for harm, English": [
            (text, ["illicit"]) for text in wishes_for_harm(packs.path("text-safety"))
        ],
        "Chinese, wrong": [(row["text"], row["label"]) for row in zh if row["label"]],
        "Chinese, harmless": [(row["text"], []) for row in zh if not row["label"]],
        **{name: measured for name, (_, measured) in ordinary(count).items()},
    }
    table = {}
    for name, texts in sets.items():
        seen = look(model, texts)
        table[name] = {
            judge: shown(sum(bool(item.flagged(judge)) for item in seen), len(seen))
            for judge in ("rules", "classifier", "both")
        }
    return table


def pictures(count: int) -> dict[str, str]:
    from miaobi.engines.moderation.images import THRESHOLD
    from miaobi.engines.moderation.nsfw import unsafe_probability

    table = {}
    for name in ("emoji", "fashion", "digits"):
        some = random.Random(0).sample(
            [item.content for item in image_loaders.read(name)], count
        )
        table[name] = shown(
            sum(
                unsafe_probability(read_picture(content)) >= THRESHOLD
                for content in some
            ),
            count,
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alarms", type=float, default=0.01)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with load(CLASSIFIER) as model:
        figures: dict[str, Any] = {"model": model.weights.label, "in use": THRESHOLDS}
        figures["thresholds"] = thresholds(
            [
                look(model, split("validation")),
                *(look(model, first) for first, _ in ordinary(asked.texts).values()),
            ],
            asked.alarms,
        )
        seen = look(model, split("test"))
        figures |= {
            f"test split, {judge}": by_category(seen, judge)
            for judge in ("rules", "classifier", "both")
        }
        figures["elsewhere, flagged"] = elsewhere(model, asked.texts)
    figures["pictures, flagged"] = pictures(asked.pictures)
    said = json.dumps(figures, indent=1, ensure_ascii=False)
    print(said)
    if asked.json:
        asked.json.write_text(said + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
