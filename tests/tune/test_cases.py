"""Small files in the shapes of public bug reports (tests/cases/text), and what is right.

Each is read, prepared and encoded as `miaobi finetune` does it, with tiny bases.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.tune.talkers import base

from miaobi.core.errors import BadInput
from miaobi.data.encoding import encoding_of
from miaobi.models.base import Base
from miaobi.tune import examples, labels
from miaobi.tune.config import DataConfig
from miaobi.tune.guess import guess
from miaobi.tune.learner import Example, Learner
from miaobi.tune.tasks import tasks
from miaobi.tune.text.turns import BUILT_IN
from miaobi.verbs import data
from miaobi.verbs.finetune import finetune

CASES = Path(__file__).parents[1] / "cases/text"
SIMPLE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""SmolLM2's: it writes no tools, no calls and no thoughts."""
THINKING = SIMPLE.replace(
    "{{ message['content'] }}",
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n"
    "</think>\n\n{% endif %}{{ message['content'] }}",
)
"""Writes thoughts as Qwen3 does."""
ALTERNATING = (
    "{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% endfor %}" + SIMPLE
)
TEMPLATES = {"simple": SIMPLE, "thinking": THINKING, "alternating": ALTERNATING}
CALL = '<tool_call>\n{"name": "stock_of", "arguments": {"item": "kettle"}}\n</tool_call><|im_end|>'


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Base]:
    made = {"chatml": base(tmp_path_factory.mktemp("chatml"))}
    made["chatml"].folder.joinpath("chat_template.jinja").write_text(
        BUILT_IN["chatml"], encoding="utf-8"
    )
    for name, template in TEMPLATES.items():
        made[name] = base(tmp_path_factory.mktemp(name), template=template)
    return made


@dataclass(frozen=True)
class Taught:
    """A file as a base is taught it."""

    rows: Sequence[Example]
    """In the order of the file."""
    learner: Learner
    facts: Mapping[str, Any]
    fit: examples.Fit

    def learned(self, number: int = 0) -> list[str]:
        """The texts that the loss looks at in an example."""
        pieces = self.preview(number)
        return [text for text, is_learned in pieces if is_learned]

    def preview(self, number: int = 0) -> list[tuple[str, bool]]:
        features = self.learner.encode(self.rows[number].columns, 0)
        return [tuple(piece) for piece in self.learner.preview(features)]


def taught(
    folder: Path,
    tuned: Base,
    name: str,
    task_name: str = "chat",
    strict: bool = True,
    encoding: str = "",
    **head: Any,
) -> Taught:
    task = tasks.get(task_name)
    config = DataConfig(
        str(CASES / name), encoding=encoding, validation=0.0, test=0.0, strict=strict
    )
    settings = task.Config(**head)
    prepared = examples.prepare(config, task, settings, False, folder)
    rows = examples.read_split(prepared, "train", task)
    learner = task.learner(tuned, task.survey(rows, settings), settings)
    fit = examples.fit(prepared, task, learner, strict)
    return Taught(
        sorted(rows, key=lambda row: int(row.location.rpartition(":")[2])),
        learner,
        examples.manifest(prepared),
        fit,
    )


def refused(folder: Path, tuned: Base, name: str, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(BadInput) as caught:
        taught(folder, tuned, name, *args, **kwargs)
    return str(caught.value)


def test_both_turns_of_one_speaker_stay(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    read = taught(tmp_path, bases["chatml"], "01_consecutive.jsonl")
    assert len(read.rows) == 12
    assert read.learned() == [
        "A kettle can be mended.<|im_end|>",
        "Which part is broken?<|im_end|>",
        "Then order handle 0.<|im_end|>",
    ]
    whole = "".join(text for text, _ in read.preview())
    assert "I have a kettle." in whole and "can it be mended?" in whole
    problem = refused(tmp_path, bases["alternating"], "01_consecutive.jsonl")
    assert "01_consecutive.jsonl:" in problem and "must alternate" in problem


LEARNED: dict[str, list[str]] = {
    "02_system_middle.jsonl": ["The kettle is in store 0.", "0 COINS"],
    "14_alpaca_history.jsonl": ["In hall 0.", "Guard 0."],
    "15_alpaca_null.jsonl": ["It is number 0."],
    "16_messages_system.jsonl": ["Hall0"],
    "17_parts.jsonl": ["In hall 0."],
    "18c_assistant_first.jsonl": ["On shelf 0."],
    "24h_trailing_comma.json": ["In hall 0."],
    "36_mixed_newlines.jsonl": ["In hall 0."],
    "22_u2028.jsonl": ["In hall\u20290.\u000b\f done"],
    "43_query_response.jsonl": ["In hall 0."],
    "43c_dolly.jsonl": ["In hall 0."],
    "43d_input_output.jsonl": ["In hall 0."],
    "43e_prompt_response.jsonl": ["In hall 0."],
    "43g_alpaca_output_list.jsonl": ["In hall 0."],
    "05_weight0.jsonl": ["The kettle was made in town 0."],
}


@pytest.mark.parametrize("name", LEARNED)
def test_dialogues_are_read_whole_and_the_assistant_is_learned(
    tmp_path: Path, bases: Mapping[str, Base], name: str
) -> None:
    read = taught(tmp_path, bases["simple"], name)
    assert len(read.rows) == 12
    assert read.learned() == [f"{text}<|im_end|>" for text in LEARNED[name]]
    assert data.inspect(CASES / name).problems == 0  # type: ignore[attr-defined]


def test_emoji_and_scripts_from_right_to_left(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    read = taught(tmp_path, bases["simple"], "35_emoji_rtl.jsonl")
    [question, answer] = read.rows[0].columns["messages"]
    assert question["content"].startswith("👩‍👩‍👧‍👦 kettle مرحبا")
    assert read.learned() == [answer["content"] + "<|im_end|>"]
    assert len(read.rows) == 12


def test_the_system_beside_the_turns_is_the_systems_turn(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    read = taught(tmp_path, bases["simple"], "16_messages_system.jsonl")
    first = read.rows[0].columns["messages"][0]
    assert first["role"] == "system"
    assert first["content"].startswith("You are the keeper")


def test_earlier_turns_are_in_the_conversation(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    read = taught(tmp_path, bases["simple"], "14_alpaca_history.jsonl")
    contents = [turn["content"] for turn in read.rows[0].columns["messages"]]
    assert contents == [
        "Where is the kettle?",
        "In hall 0.",
        "And who has the key?",
        "Guard 0.",
    ]


CALLS = (
    "03_function_call.jsonl",
    "03b_function_as_told.jsonl",
    "04_tool_calls.jsonl",
    "04d_legacy_function_call.jsonl",
    "41_tool_calls_no_tools.jsonl",
)


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_learned_as_the_template_writes_them(
    tmp_path: Path, bases: Mapping[str, Base], name: str
) -> None:
    read = taught(tmp_path, bases["chatml"], name)
    said = "Let me look.\n" if "legacy" in name else ""
    assert read.learned() == [said + CALL, "There are 0 left.<|im_end|>"]
    whole = "".join(text for text, _ in read.preview())
    assert ("how many are left" in whole) == ("no_tools" not in name)
    assert not read.facts["unused"]


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_a_template_does_not_write_are_refused(
    tmp_path: Path, bases: Mapping[str, Base], name: str
) -> None:
    problem = refused(tmp_path, bases["simple"], name)
    assert f"{name}:" in problem
    assert "calls stock_of, and the base's chat template does not write" in problem
    assert "--head.template chatml" in problem
    left = taught(tmp_path, bases["simple"], name, strict=False)
    assert len(left.fit.left_out) == len(left.fit.problems) == 12


def test_a_call_without_arguments(tmp_path: Path, bases: Mapping[str, Base]) -> None:
    read = taught(tmp_path, bases["chatml"], "04b_tool_calls_noargs.jsonl")
    assert '{"name": "is_open", "arguments": {}}' in read.learned()[0]
    assert read.rows[0].columns["messages"][2]["content"] == ""


def test_a_turn_of_weight_0_is_read(tmp_path: Path, bases: Mapping[str, Base]) -> None:
    read = taught(tmp_path, bases["chatml"], "05_weight0.jsonl")
    assert "WRONG ANSWER 0<|im_end|>" in "".join(text for text, _ in read.preview())
    assert "WRONG" not in "".join(read.learned())


def test_reasoning_is_written_or_named(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    name = "06_reasoning_content.jsonl"
    read = taught(tmp_path, bases["thinking"], name)
    assert read.learned() == [
        "<think>\n0 and 1 make 1.\n</think>\n\nIt is 1.<|im_end|>"
    ]
    assert read.fit.unwritten == {}
    read = taught(tmp_path, bases["simple"], name)
    assert read.learned() == ["It is 1.<|im_end|>"]
    assert read.fit.unwritten == {"messages[].reasoning_content": 12}


PAIRS: dict[str, Any] = {
    "07_dpo_lists.jsonl": [{"role": "user", "content": "Where is the kettle?"}],
    "08c_dpo_prompt_human.jsonl": [{"role": "user", "content": "Where is the kettle?"}],
    "10_dpo_alpaca.jsonl": [{"role": "user", "content": "Where is the kettle?"}],
    "39_openai_dpo.jsonl": [{"role": "user", "content": "Where is the kettle?"}],
    "08_dpo_multiturn.jsonl": [
        {"role": "user", "content": "Where is the kettle?"},
        {"role": "assistant", "content": "In hall 0."},
        {"role": "user", "content": "And who has the key?"},
    ],
}


@pytest.mark.parametrize("name", PAIRS)
def test_preferences_are_split_at_their_common_beginning(
    tmp_path: Path, bases: Mapping[str, Base], name: str
) -> None:
    read = taught(tmp_path, bases["simple"], name, "preference")
    first = read.rows[0].columns
    assert first["prompt"] == PAIRS[name]
    assert first["rejected"] in ("No idea.", "Nobody.")
    assert first["chosen"] != first["rejected"]
    assert not read.facts["unused"]
    assert read.learned()[0] == first["chosen"] + "<|im_end|>"
    assert f"{name}:1: " in refused(tmp_path, bases["simple"], name, "chat")


THUMBS = ("11_kto_messages_label.jsonl", "12_kto_words.jsonl", "12b_kto_numbers.jsonl")


@pytest.mark.parametrize("name", THUMBS)
def test_thumbs_are_never_taught_as_good_answers(
    tmp_path: Path, bases: Mapping[str, Base], name: str
) -> None:
    read = taught(tmp_path, bases["simple"], name, "preference", loss="kto")
    labels = [row.columns["label"] for row in read.rows]
    assert labels[:4] == [False, True, False, True]
    problem = refused(tmp_path, bases["simple"], name, "chat")
    assert f"{name}:1: label is" in problem
    assert "--task preference --head.loss kto" in problem


@pytest.mark.parametrize("name", ["17b_parts_image.jsonl", "17c_image_tag.jsonl"])
def test_pictures_are_refused_by_line(
    tmp_path: Path, bases: Mapping[str, Base], name: str
) -> None:
    problem = refused(tmp_path, bases["simple"], name)
    assert f"{name}:1: " in problem and "cannot read" in problem


def test_an_empty_turn_is_named_and_can_be_left_out(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    problem = refused(tmp_path, bases["simple"], "18_empty_turn.jsonl")
    assert "18_empty_turn.jsonl:" in problem
    assert "turn 2, the assistant's, is empty" in problem
    both = tmp_path / "both.jsonl"
    files = (CASES / "18_empty_turn.jsonl", CASES / "18c_assistant_first.jsonl")
    both.write_text("".join(file.read_text() for file in files))
    read = taught(tmp_path, bases["simple"], str(both), strict=False)
    assert [row.location for row in read.rows] == [
        f"{both}:{line}" for line in range(13, 25)
    ]
    assert read.facts["problems"]["count"] == 12


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("18_empty_turn.jsonl", ":1: turn 2, the assistant's, is empty."),
        ("24_lists.jsonl", ":1: [{"),
        ("20j_noheader.csv", ':2: The "kettle" is, well, bad, bad.'),
        ("17c_image_tag.jsonl", ":1: the conversation holds images"),
        ("24f_splits.json", ":1: train, test."),
    ],
)
def test_where_no_task_fits_the_reason_is_the_nearests(name: str, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        guess(str(CASES / name), "")
    problem = caught.value.args[0]
    assert name + reason in problem
    for other in ("extractive-questions", "object-detection", "image-"):
        assert other not in problem


@pytest.mark.parametrize(
    "name", ["24_lists.jsonl", "24c_nulls.jsonl", "24f_splits.json"]
)
def test_what_is_no_record_is_an_error_by_line(
    tmp_path: Path, bases: Mapping[str, Base], name: str
) -> None:
    assert f"{name}:" in refused(tmp_path, bases["simple"], name)
    if name == "24c_nulls.jsonl":
        read = taught(tmp_path, bases["simple"], name, strict=False)
        assert (len(read.rows), read.facts["problems"]["count"]) == (12, 3)


def test_what_is_not_used_is_named(tmp_path: Path, bases: Mapping[str, Base]) -> None:
    read = taught(tmp_path, bases["simple"], "43c_dolly.jsonl")
    assert read.facts["unused"] == {"category": 12}
    question = read.rows[0].columns["messages"][0]["content"]
    assert question == "Where is the kettle?\n\nThe kettle is in hall 0."
    read = taught(tmp_path, bases["simple"], "43g_alpaca_output_list.jsonl")
    assert read.facts["unused"] == {"output[1:]": 12}


def test_control_tokens_in_peoples_text_are_letters(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    read = taught(tmp_path, bases["simple"], "27_special_tokens.jsonl")
    features = read.learner.encode(read.rows[0].columns, 0)
    end = bases["simple"].tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (features["ids"] == end).sum() == 2  # of the two turns
    assert read.learned() == [
        "The mark <|im_end|> ends a turn. <|endoftext|> ends text 0.<|im_end|>"
    ]


def test_lines_that_cannot_be_parsed_are_left_out(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    problem = refused(tmp_path, bases["simple"], "37_broken.jsonl")
    assert "37_broken.jsonl:2: not valid JSON" in problem
    read = taught(tmp_path, bases["simple"], "37_broken.jsonl", strict=False)
    assert (len(read.rows), read.facts["problems"]["count"]) == (3, 1)


def test_what_was_left_out_is_that_of_this_file(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    """The same examples stand in both files, and in one also what is no record."""
    broken = taught(tmp_path, bases["simple"], "24c_nulls.jsonl", strict=False)
    whole = taught(tmp_path, bases["simple"], "43_query_response.jsonl", strict=False)
    assert broken.facts["problems"]["count"] == 3
    assert whole.facts["problems"]["count"] == 0


def test_few_examples_are_all_trained_on(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    for name, count in (("25_one", 1), ("25b_two", 2), ("25c_three", 3)):
        read = taught(tmp_path, bases["simple"], f"{name}.jsonl")
        assert len(read.rows) == count


def classified(folder: Path, name: str, strict: bool = True) -> list[Example]:
    task = tasks.get("text-classification")
    config = DataConfig(str(CASES / name), validation=0.0, test=0.0, strict=strict)
    prepared = examples.prepare(config, task, task.Config(), False, folder)
    return examples.read_split(prepared, "train", task)


THINGS = (
    *("kettle", "ladder", "lantern", "saddle", "anchor", "basket"),
    *("candle", "drawer", "engine", "funnel", "girder", "hammer"),
)
"""What the records are about, in the order of every file."""


def test_mixed_line_ends_are_line_ends(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    """Some lines end with a carriage return alone."""
    read = taught(tmp_path, bases["simple"], "36_mixed_newlines.jsonl")
    contents = [row.columns["messages"][0]["content"] for row in read.rows]
    assert contents == [f"Where is the {thing}?" for thing in THINGS]
    assert [row.location[-3:].strip("l:") for row in read.rows] == [
        str(line) for line in range(1, 13)
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("20_bom", "20b_semicolon", "20c_newlines", "20d_sep", "20e_pipe"),
        *("20f_utf16", "20g_cr", "20h_index"),
    ],
)
def test_tables_are_read_whole(tmp_path: Path, name: str) -> None:
    rows = classified(tmp_path, f"{name}.csv")
    whole = 'The "{}" is, well, {}'
    if name == "20g_cr":
        whole = "The {} is {}"
    if name == "20c_newlines":
        whole += "\nsecond line"
    expected = set[tuple[str, str]]()
    for bad, good in zip(THINGS[::2], THINGS[1::2]):
        expected.add((whole.format(bad, "bad"), "bad"))
        expected.add((whole.format(good, "fine"), "good"))
    read = {(row.columns["text"], row.columns["label"]) for row in rows}
    assert read == expected
    assert guess(str(CASES / f"{name}.csv"), "").task == "text-classification"


def test_a_table_without_a_header_or_label_is_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"20j_noheader\.csv:2: no text"):
        classified(tmp_path, "20j_noheader.csv")
    with pytest.raises(BadInput, match=r"20l_header_semis\.csv:2: no label"):
        classified(tmp_path, "20l_header_semis.csv")


def test_delimiters_inside_quotes_are_text(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    read = taught(tmp_path, bases["simple"], "20l_header_semis.csv", "causal")
    assert read.rows[0].columns["text"] == 'The "kettle" is, well, bad'
    assert read.facts["unused"] == {"label;a;b;c": 12}


ENCODINGS = {
    "19_latin1_de.txt": "latin-1",
    "19b_cp1252_fr.txt": "cp1252",
    "19d_sjis.txt": "shift_jis",
    "19g_euckr.txt": "euc_kr",
    "19h_utf16_nobom.txt": "utf-16-le",
    "19i_latin1_de.csv": "latin-1",
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_other_encodings_are_read_rightly(
    tmp_path: Path, bases: Mapping[str, Base], name: str
) -> None:
    encoding = ENCODINGS[name]
    whole = (CASES / name).read_bytes().decode(encoding).replace("\r\n", "\n")
    if name.endswith(".csv"):
        whole = "".join(row["text"] for row in csv.DictReader(io.StringIO(whole)))
    assert encoding_of(CASES / name).name != "GB18030"
    for named in ("", encoding):
        read = taught(tmp_path, bases["simple"], name, "causal", encoding=named)
        assert "".join(row.columns["text"] for row in read.rows) == whole


RUNS = {
    "25_one.jsonl": "Only 1 to train on, 0 for validation",
    "25b_two.jsonl": "Only 2 to train on, 0 for validation",
    "25c_three.jsonl": "Only 1 to train on, 1 for validation",
    "25e_tiny.txt": "Only 1 to train on, 0 for validation",
    "25f_short.txt": "Only 1 to train on, 0 for validation",
    "26b_dirty_labels.jsonl": "stay apart: 'Bad' / 'bad'",
    "38b_some_long_prompts.jsonl": "lose the beginning of their prompt and keep their answer",
}
"""What is told before the run."""


@pytest.mark.parametrize("name", RUNS)
def test_a_run_says_what_to_know_of_its_data_and_goes_to_its_end(
    tmp_path: Path,
    bases: Mapping[str, Base],
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    done = finetune(
        {"train": {"trackers": []}, "report": {"forgetting": False}},
        base=str(bases["simple"].folder),
        data=CASES / name,
        method="lora",
        name="case",
        settings={"train.max_steps": 2, "train.patience": 1, "train.validate_every": 1},
        runs=tmp_path / "runs",
    )
    shown = capsys.readouterr().err
    assert shown.index(RUNS[name]) < shown.index("1/2")
    if "0 for validation" in RUNS[name]:
        assert (done.step, done.validation_loss) == (2, None)
        assert "no validation (the last weights)" in str(done)


def test_answers_to_long_prompts_are_whole(
    tmp_path: Path, bases: Mapping[str, Base]
) -> None:
    read = taught(tmp_path, bases["simple"], "38b_some_long_prompts.jsonl")
    for number, row in enumerate(read.rows):
        features = read.learner.encode(row.columns, 100)
        assert len(features["ids"]) <= 100
        pieces = read.learner.preview(features)
        learned = [text for text, is_learned in pieces if is_learned]
        assert learned == [f"Hall {number}.<|im_end|>"]


LABELS: dict[str, tuple[set[str], dict[str, int], str]] = {
    "26_int_labels": ({"0", "1"}, {}, ""),
    "26b_dirty_labels": (
        {"good", "bad", "Bad"},
        {"'good ' → 'good'": 3},
        "'Bad' / 'bad'",
    ),
    "26c_missing": ({"good", "bad", "N/A"}, {}, "none, and are learned: 'N/A' (3)"),
    "26e_multi_string": ({"a", "b", "a,b"}, {}, "learned as one: 'a,b' (4)"),
    "26f_float_labels": ({"0", "1"}, {"1.0 → '1'": 3, "0.0 → '0'": 3}, ""),
    "26h_rare": ({"rare", "x", "y"}, {}, "a single example to learn from: 'rare'"),
}
"""Labels, those that are read otherwise than written, and what is remarked."""


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_normalised_and_doubts_are_told(tmp_path: Path, name: str) -> None:
    task = tasks.get("text-classification")
    config = DataConfig(
        str(CASES / f"{name}.jsonl"), validation=0.0, test=0.0, strict=False
    )
    assert guess(config.path, "").task == "text-classification"
    prepared = examples.prepare(config, task, task.Config(), False, tmp_path)
    spec = task.survey(examples.read_split(prepared, "train", task), task.Config())
    names, relabelled, remark = LABELS[name]
    assert set(spec["labels"]) == names
    assert examples.manifest(prepared)["relabelled"] == relabelled
    remarks = labels.remarks(spec["counts"])
    assert [remark in line for line in remarks] == ([True] if remark else [])


@pytest.mark.parametrize("name", ["26c_missing", "26g_text_list", "34_surrogate_cls"])
def test_texts_and_labels_that_are_none_are_errors_by_line(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(BadInput, match=rf"{name}\.jsonl:\d+"):
        classified(tmp_path, f"{name}.jsonl")


def test_no_case_is_without_a_right_value() -> None:
    """Every file is named by a test of this one."""
    source = Path(__file__).read_text(encoding="utf-8")
    for file in CASES.iterdir():
        assert f'"{file.name}"' in source or f'"{file.stem}"' in source, file.name
