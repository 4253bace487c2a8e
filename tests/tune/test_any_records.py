"""Any records, for every task: an error that names its line, records left out with the
others read, or a right reading; never a traceback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.core.errors import BadInput, MiaobiError
from miaobi.data.progress import silent
from miaobi.data.text import files
from miaobi.data.text.shapes import Unusable
from miaobi.tune.config import DataConfig
from miaobi.tune.examples import prepare, records
from miaobi.tune.tasks import tasks

KEYS = st.sampled_from(
    (
        *("text", "label", "labels", "prompt", "completion", "messages"),
        *("conversations", "role", "content", "from", "value", "instruction"),
        *("input", "output", "chosen", "rejected", "tokens", "tags", "question"),
        *("context", "answers", "answer_start", "image", "images", "objects", "bbox"),
        *("source", "target", "anchor", "positive", "negative", "score", "system"),
        *("history", "tools", "tool_calls", "weight", "query", "response", "data"),
        *("paragraphs", "qas", "translation", "sentence1", "sentence2", "mask"),
    )
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from((0.5, 1e308, float("nan"), float("inf"), 2**70)),
    st.sampled_from(
        (
            "",
            " ",
            "a",
            "好",
            "user",
            "assistant",
            "\ud800",
            "a\udfff",
            "\0",
            "1.0",
            "true",
        )
    ),
    st.text(st.characters(), max_size=3),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=6,
)
ROWS = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.dictionaries(KEYS, st.sampled_from(("a", "好", "\ud800")), max_size=5),
    VALUES,
)


def as_jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_array(rows: list[Any]) -> str:
    return json.dumps(rows, indent=1)


def as_csv(rows: list[Any]) -> str:
    """A table whose header may have one name twice, or none."""
    lines = [json.dumps(row).strip("{}[]") for row in rows]
    return "".join(line + "\n" for line in lines)


FILES = st.sampled_from(
    (
        ("a.jsonl", as_jsonl),
        ("a.jsonl", as_array),
        ("a.json", as_array),
        ("a.json", as_jsonl),
        ("a.csv", as_csv),
    )
)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


SOUND: dict[str, Any] = {
    "causal": {"text": "Once {} time."},
    "chat": {
        "messages": [
            {"role": "user", "content": "Question {}?"},
            {"role": "assistant", "content": "Answer {}."},
        ]
    },
    "distillation": {"prompt": "Say {}.", "completion": "{}"},
    "embedding": {"text": "refund {}", "positive": "7 days {}", "negative": "no {}"},
    "extractive-questions": {
        "question": "Where is {}?",
        "context": "Ada {} lives in Paris.",
        "answers": [{"text": "Paris", "answer_start": 15}],
    },
    "preference": {"prompt": "Say {}.", "chosen": "good {}", "rejected": "bad {}"},
    "seq2seq": {"source": "hello {}", "target": "bonjour {}"},
    "text-classification": {"text": "fine {}", "label": "good"},
    "token-classification": {"tokens": ["Ada", "{}"], "tags": ["B-PER", "O"]},
}
"""A sound record of each task that reads text; {} is a number."""


TRUTH: dict[str, Callable[[Any], Any]] = {
    "causal": lambda row: {"prompt": "", "text": row["text"]},
    "chat": lambda row: {"messages": row["messages"]},
    "distillation": lambda row: row,
    "embedding": lambda row: {
        "text": row["text"],
        "positive": row["positive"],
        "negatives": [row["negative"]],
    },
    "extractive-questions": lambda row: {
        "question": row["question"],
        "context": row["context"],
        "answers": [
            {"text": answer["text"], "start": answer["answer_start"]}
            for answer in row["answers"]
        ],
    },
    "preference": lambda row: row,
    "seq2seq": lambda row: row,
    "text-classification": lambda row: {**row, "label": row["label"].strip()},
    "token-classification": lambda row: {
        "text": " ".join(row["tokens"]),
        "entities": [
            {"start": 0, "end": len(row["tokens"][0]), "label": row["tags"][0][2:]}
        ],
    },
}
"""The columns of a record that is written as the sound ones are."""


def is_like(value: Any, other: Any) -> bool:
    """Whether a value has the keys, lengths and types of another, at every depth."""
    if type(value) is not type(other):
        return False
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(
            is_like(value[key], other[key]) for key in value
        )
    if isinstance(value, list):
        return len(value) == len(other) and all(map(is_like, value, other))
    return True


def stripped(value: Any) -> Any:
    """A value without the white space around its texts, which most tasks take off."""
    if isinstance(value, dict):
        return {key: stripped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [stripped(inner) for inner in value]
    return value.strip() if isinstance(value, str) else value


def sound(name: str, number: int) -> Any:
    """Sound records that differ, with two labels where there is one."""
    text = json.dumps(SOUND[name]).replace("{}", str(number))
    if number % 2:
        text = text.replace('"good"', '"bad"').replace("B-PER", "B-LOC")
    return json.loads(text)


@st.composite
def damaged(draw: st.DrawFn, name: str) -> Any:
    """A sound record in which one value, at any depth, is another, or is gone."""
    record = sound(name, 7)
    place: Any = record
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        value = place[key]
        if not (isinstance(value, dict | list) and value and draw(st.booleans())):
            break
        place = value
    change = draw(st.sampled_from(("value", "gone", "inside", "listed")))
    if change == "gone":
        del place[key]
    elif change == "listed":
        place[key] = [value]
    elif change == "inside" and isinstance(value, str):
        place[key] = value + draw(st.sampled_from(("\ud800", "\0", " ", "\x85", "<s>")))
    else:
        place[key] = draw(VALUES)
    return record


def prepared(folder: Path, name: str, path: Path, strict: bool) -> records.Records:
    """What a run does with records before there is a model."""
    task = tasks.get(name)
    head = task.Config()
    config = DataConfig(path=str(path), strict=strict, validation=0.2, test=0.2)
    read = records.read(config, task, head, silent)
    prepare(config, task, head, progress=False, root=folder)
    if name == "distillation":
        return read  # the survey asks the teacher
    spec = task.survey(read.examples, head)
    json.dumps(spec).encode()
    for example in read.examples:
        with suppress(Unusable):
            task.check(example, spec, head)
    return read


@pytest.mark.parametrize("name", tasks.names())
@given(rows=st.lists(ROWS, min_size=1, max_size=4), form=FILES, strict=st.booleans())
@settings(max_examples=10)
def test_any_records(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    rows: list[Any],
    form: tuple[str, Any],
    strict: bool,
) -> None:
    ending, write = form
    folder = tmp_path_factory.mktemp("any")
    path = written(folder, ending, write(rows))
    with suppress(MiaobiError):
        prepared(folder / "examples", name, path, strict)


def scalars(value: Any) -> Iterator[str]:
    """Yield what stands in a value at any depth, as texts."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from scalars(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from scalars(inner)
    else:
        yield str(value)


@pytest.mark.parametrize("name", SOUND)
@given(data=st.data())
@settings(max_examples=20)
def test_one_damaged_record_among_sound_ones(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """It is read rightly, or named by its line and left out; the others are read as they
    were written.
    """
    rows = [sound(name, number) for number in range(6)]
    rows.insert(3, data.draw(damaged(name)))
    folder = tmp_path_factory.mktemp("damaged")
    path = written(folder, "a.jsonl", as_jsonl(rows))
    read = prepared(folder / "examples", name, path, strict=False)
    locations = [example.location for example in read.examples]
    whole = [f"{path}:{line}" for line in (1, 2, 3, 5, 6, 7)]
    assert [item for item in locations if item != f"{path}:4"] == whole
    truth = TRUTH[name]
    columns = {example.location: example.columns for example in read.examples}
    for location in whole:
        row = rows[int(location.rpartition(":")[2]) - 1]
        assert columns[location] == truth(row)
    if f"{path}:4" in columns and is_like(rows[3], sound(name, 7)):
        assert stripped(columns[f"{path}:4"]) == stripped(truth(rows[3]))
    if f"{path}:4" in locations:
        assert read.problem_count == 0
        written_texts = set(scalars(rows[3]))
        texts = scalars(read.examples[3].columns)
        assert {text for text in texts if text.startswith(("[", "{"))} <= (
            written_texts
        ), "a list or an object is no text"
        return
    [problem] = read.problems
    assert problem.startswith(f"{path}:4: ")
    with pytest.raises(BadInput) as caught:
        prepared(folder / "examples", name, path, strict=True)
    assert str(caught.value).startswith(problem)


@given(rows=st.lists(ROWS, min_size=1, max_size=4), form=FILES, strict=st.booleans())
@settings(max_examples=50)
def test_any_records_as_text(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    form: tuple[str, Any],
    strict: bool,
) -> None:
    ending, write = form
    path = written(tmp_path_factory.mktemp("any"), ending, write(rows))
    try:
        for document in files.read(path, strict=strict):
            document.training_text().encode()
    except BadInput as error:
        assert str(path) in str(error)  # noqa: PT017 - they may also be read


def test_white_space_and_number_forms_of_labels_are_one_label_and_told(
    tmp_path: Path,
) -> None:
    rows = [
        {"text": f"fine {number}", "label": label}
        for number, label in enumerate(
            (" good", "good", "good\t", 1, 1.0, "bad", "1.0", "1", "1.5")
        )
    ]
    path = written(tmp_path, "a.jsonl", as_jsonl(rows))
    read = prepared(tmp_path, "text-classification", path, strict=True)
    labels = [example.columns["label"] for example in read.examples]
    assert labels == [*["good"] * 3, "1", "1", "bad", "1", "1", "1.5"]
    assert read.relabelled == {
        "' good' → 'good'": 1,
        "'good\\t' → 'good'": 1,
        "1.0 → '1'": 1,
        "'1.0' → '1'": 1,
    }
    [manifest] = tmp_path.rglob("examples.json")
    assert json.loads(manifest.read_text())["relabelled"] == read.relabelled
