"""Which task people's files are written for: told with its reason, never another than
their labels say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from miaobi.core.errors import BadInput, NotFound
from miaobi.tune.guess import Guess, guess
from miaobi.verbs.finetune import recipe_keys
from miaobi.verbs.finetune.settings import settle

CASES = Path(__file__).parents[1] / "cases" / "text"


def rows_of(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("file", "task"),
    [
        ("04_tool_calls.jsonl", "chat"),
        ("07_dpo_lists.jsonl", "preference"),
        ("08_dpo_multiturn.jsonl", "preference"),
        ("10_dpo_alpaca.jsonl", "preference"),
        ("39_openai_dpo.jsonl", "preference"),
        ("14_alpaca_history.jsonl", "chat"),
        ("26_int_labels.jsonl", "text-classification"),
        ("26c_missing.jsonl", "text-classification"),
        ("26h_rare.jsonl", "text-classification"),
        ("37_broken.jsonl", "chat"),
    ],
)
def test_peoples_files_are_recognised(file: str, task: str) -> None:
    assert guess(str(CASES / file), "").task == task


@pytest.mark.parametrize(
    "file",
    ["11_kto_messages_label.jsonl", "12_kto_words.jsonl", "12b_kto_numbers.jsonl"],
)
def test_thumbs_are_nothing_else_in_silence(file: str) -> None:
    """The nearest task says what is missing; with that head it is recognised."""
    nearest = r"nearest is (preference|chat): .*:1: .*thumb"
    with pytest.raises(BadInput, match=nearest) as none:
        guess(str(CASES / file), "")
    assert "--head.loss kto" in none.value.remedy.splitlines()[0]
    assert guess(str(CASES / file), "", head={"loss": "kto"}).task == "preference"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "a", "completion": "b", "label": "odd"},
        {"instruction": "a", "output": "b", "kto_tag": "perhaps"},
        {"text": "a", "chosen": 3},
        {"text": "a", "entities": "none"},
    ],
    ids=lambda record: ", ".join(record),
)
def test_labels_are_never_left_unused(
    tmp_path: Path, record: Mapping[str, Any]
) -> None:
    with pytest.raises(BadInput, match=r"fit no task. The nearest is .*x.jsonl:1: "):
        guess(rows_of(tmp_path / "x.jsonl", [record]), "")


def test_the_reason_and_the_count_are_told_in_one_line(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": f"a {at}", "label": "x", "note": 1} for at in range(30)]
    rows[3]["label"] = None
    found = guess(rows_of(tmp_path / "x.jsonl", rows), "")
    assert found == Guess("text-classification", 19, 20, ("text", "label"))
    line = str(found)
    assert "19 of the first 20 records fit it (text, label)" in line
    assert "\n" not in line and "--task NAME" in line


def test_columns_and_head_count(tmp_path: Path) -> None:
    rows = [{"review": f"a {at}", "stars": "good"} for at in range(3)]
    path = rows_of(tmp_path / "x.jsonl", rows)
    own = {"text": "review", "label": "stars"}
    assert guess(path, "", columns=own).task == "text-classification"
    settled = settle({"base": "smollm2"}, {"data": path, "data.columns": own})
    assert settled.guess is not None and settled.task.NAME == "text-classification"
    several = [{"text": f"a {at}", "label": ["x", "y"]} for at in range(3)]
    path = rows_of(tmp_path / "y.jsonl", several)
    head = {"problem": "multi"}
    assert guess(path, "", head=head).task == "text-classification"
    with pytest.raises(BadInput, match=r"y.jsonl:1: "):
        guess(path, "")


def test_a_head_on_the_command_line_counts_before_its_options_are_known() -> None:
    argv = ["--head.loss", "kto"]
    path = str(CASES / "12_kto_words.jsonl")
    known = recipe_keys({}, {"data": path}, "", argv)
    assert "head.undesirable_weight" in {option.key for option in known.options}


def test_a_file_that_is_not_there_says_so_first(tmp_path: Path) -> None:
    rows_of(tmp_path / "chats.jsonl", [{"text": "a"}])
    with pytest.raises(NotFound, match="There is no file") as missing:
        guess(str(tmp_path / "chat.jsonl"), "")
    assert "chats.jsonl" in missing.value.remedy


def test_what_cannot_be_read_is_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\0\1\2\3")
    with pytest.raises(BadInput, match="zero bytes"):
        guess(str(path), "")
