"""Every layout that people have, read as it is; every key that nothing is made of, named."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.core.errors import BadInput
from miaobi.data.text import files
from miaobi.data.text.shapes import Record, Unusable, conversation, pair, thumb
from miaobi.verbs import data

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
EARLIER = [
    {"role": "user", "content": "q0"},
    {"role": "assistant", "content": "a0"},
]
TOOL = {"name": "weather", "parameters": {"type": "object"}}
CALL = {
    "type": "function",
    "function": {"name": "weather", "arguments": {"day": "today"}},
}
CALL_TEXT = '{"name": "weather", "arguments": {"day": "today"}}'
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "dry"}

CONVERSATIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "OpenAI": ({"messages": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
    "developer": (
        {"messages": [{"role": "developer", "content": "s"}, USER, ASSISTANT]},
        [SYSTEM, USER, ASSISTANT],
    ),
    "parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "q"},
                        {"type": "text", "text": "!"},
                    ],
                },
                ASSISTANT,
            ]
        },
        [{"role": "user", "content": "q!"}, ASSISTANT],
    ),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ],
            "system": "s",
        },
        [SYSTEM, USER, ASSISTANT],
    ),
    "ShareGPT of ms-swift": (
        {
            "system": "s",
            "conversation": [
                {"human": "q0", "assistant": "a0"},
                {"human": "q", "assistant": "a"},
            ],
        },
        [SYSTEM, *EARLIER, USER, ASSISTANT],
    ),
    "OpenAssistant": (
        {"messages": [{"role": "prompter", "content": "q"}, ASSISTANT]},
        [USER, ASSISTANT],
    ),
    "capitals": (
        {
            "conversations": [
                {"from": "Human", "value": "q"},
                {"from": "GPT", "value": "a"},
            ]
        },
        [USER, ASSISTANT],
    ),
    "Alpaca": ({"instruction": "q", "input": "", "output": "a"}, [USER, ASSISTANT]),
    "Alpaca with input": (
        {"instruction": "q", "input": "i", "output": "a"},
        [{"role": "user", "content": "q\n\ni"}, ASSISTANT],
    ),
    "Alpaca with nulls": (
        {"instruction": "q", "input": None, "output": "a", "history": None},
        [USER, ASSISTANT],
    ),
    "Alpaca with history": (
        {"instruction": "q", "output": "a", "system": "s", "history": [["q0", "a0"]]},
        [SYSTEM, *EARLIER, USER, ASSISTANT],
    ),
    "history as JSON": (
        {"query": "q", "response": "a", "history": '[["q0", "a0"]]'},
        [*EARLIER, USER, ASSISTANT],
    ),
    "history as turns": (
        {"query": "q", "response": "a", "history": EARLIER},
        [*EARLIER, USER, ASSISTANT],
    ),
    "Dolly": (
        {"instruction": "q", "context": "c", "response": "a"},
        [{"role": "user", "content": "q\n\nc"}, ASSISTANT],
    ),
    "OpenOrca": (
        {"system_prompt": "s", "question": "q", "response": "a"},
        [SYSTEM, USER, ASSISTANT],
    ),
    "query, response": ({"query": "q", "response": "a"}, [USER, ASSISTANT]),
    "input, output": ({"input": "q", "output": "a"}, [USER, ASSISTANT]),
    "question, answer": ({"question": "q", "answer": "a"}, [USER, ASSISTANT]),
    "prompt, completion": ({"prompt": "q", "completion": "a"}, [USER, ASSISTANT]),
    "prompt and completion of turns": (
        {"prompt": [USER], "completion": [ASSISTANT]},
        [USER, ASSISTANT],
    ),
    "JSON in a table": (
        {"messages": json.dumps([USER, ASSISTANT]), "tools": ""},
        [USER, ASSISTANT],
    ),
    "Python in a table": ({"messages": str([USER, ASSISTANT])}, [USER, ASSISTANT]),
    "weights": (
        {
            "messages": [
                {**EARLIER[0], "weight": None},
                {**EARLIER[1], "weight": 0},
                USER,
                {**ASSISTANT, "weight": 1},
            ]
        },
        [EARLIER[0], {**EARLIER[1], "weight": 0}, USER, ASSISTANT],
    ),
    "loss": (
        {"messages": [EARLIER[0], {**EARLIER[1], "loss": False}, USER, ASSISTANT]},
        [EARLIER[0], {**EARLIER[1], "weight": 0}, USER, ASSISTANT],
    ),
    "reasoning": (
        {"messages": [USER, {**ASSISTANT, "reasoning_content": "r"}]},
        [USER, {**ASSISTANT, "reasoning_content": "r"}],
    ),
    "calls": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                RESULT,
                ASSISTANT,
            ]
        },
        [USER, CALLING, RESULT, ASSISTANT],
    ),
    "a call as OpenAI first had it": (
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {
                        "name": "weather",
                        "arguments": '{"day": "today"}',
                    },
                },
                {"role": "function", "name": "weather", "content": "dry"},
                ASSISTANT,
            ]
        },
        [USER, CALLING, {**RESULT, "name": "weather"}, ASSISTANT],
    ),
    "a call in ShareGPT": (
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": CALL_TEXT},
                {"from": "observation", "value": "dry"},
                {"from": "gpt", "value": "a"},
            ]
        },
        [USER, CALLING, RESULT, ASSISTANT],
    ),
    "a call from a function": (
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function", "value": CALL_TEXT},
                {"from": "observation", "value": "dry"},
                {"from": "gpt", "value": "a"},
            ]
        },
        [USER, CALLING, RESULT, ASSISTANT],
    ),
    "two calls of ms-swift": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": "I look."},
                {"role": "tool_call", "content": CALL_TEXT},
                {"role": "tool_call", "content": CALL_TEXT},
                {"role": "tool_response", "content": "dry"},
                ASSISTANT,
            ]
        },
        [
            USER,
            {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
            RESULT,
            ASSISTANT,
        ],
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(name: str) -> None:
    record, messages = CONVERSATIONS[name]
    tracked = Record(record)
    assert conversation(tracked).messages == messages
    assert tracked.unused() == set()


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_keys_that_nothing_is_made_of_are_named(name: str) -> None:
    record, messages = CONVERSATIONS[name]
    tracked = Record({**record, "id": 7, "note": "n", "nothing": None, "empty": []})
    assert conversation(tracked).messages == messages
    assert tracked.unused() == {"id", "note"}


def test_keys_of_turns_are_named_too() -> None:
    turns = [{**USER, "time": 3}, {**ASSISTANT, "time": 4, "weight": 1}]
    tracked = Record({"messages": turns})
    conversation(tracked)
    assert tracked.unused() == {"messages[].time"}
    tracked = Record({"messages": [{**USER, "weight": 1}, ASSISTANT]})
    conversation(tracked)
    assert tracked.unused() == {"messages[].weight"}  # users are never learned


@pytest.mark.parametrize(
    "tools", [[TOOL], json.dumps([TOOL]), [{"type": "function", "function": TOOL}]]
)
@pytest.mark.parametrize("key", ["tools", "functions"])
def test_tools_are_functions(key: str, tools: Any) -> None:
    record = Record({"messages": [USER, ASSISTANT], key: tools})
    assert conversation(record).tools == [{"type": "function", "function": TOOL}]
    assert record.unused() == set()


def test_no_arguments_are_an_empty_object() -> None:
    call = {"function": {"name": "is_open", "arguments": ""}}
    turns = [USER, {"role": "assistant", "tool_calls": [call]}]
    messages = conversation(Record({"messages": turns})).messages
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == {}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, "the weight of a turn is 0.5"),
    ({"messages": [USER, ASSISTANT], "images": ["a.png"]}, "holds images"),
    ({"prompt": "<image>q", "completion": "a", "image": "a.png"}, "holds image"),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
                ASSISTANT,
            ]
        },
        "holds image_url",
    ),
    ({"messages": [USER, ASSISTANT], "label": False}, "label is False: a thumb"),
    ({"prompt": "q", "completion": "a", "label": -1}, "label is -1: a thumb"),
    ({"instruction": "q", "output": "a", "kto_tag": "👎"}, "kto_tag is '👎': a thumb"),
    ({"messages": [USER, ASSISTANT], "rejected_response": "b"}, "a preference"),
    ({"prompt": "q", "completion": "a", "rejected": "b"}, "a preference"),
    ({"messages": [SYSTEM, USER, ASSISTANT], "system": "t"}, "also the system's"),
    ({"query": "q", "response": "a", "history": [["q0"]]}, "not a question and its"),
    ({"messages": [USER, {"role": "tool_call", "content": "run"}]}, "is no JSON"),
    ({"messages": "[{", "x": "y"}, "is no JSON"),
]


@pytest.mark.parametrize(("record", "problem"), REFUSED)
def test_what_would_be_dropped_or_bent_is_refused(
    record: dict[str, Any], problem: str
) -> None:
    with pytest.raises(Unusable, match=problem):
        conversation(Record(record))


CHOSEN = {"role": "assistant", "content": "a"}
REJECTED = {"role": "assistant", "content": "b"}
PAIRS: dict[str, tuple[dict[str, Any], Any]] = {
    "texts": ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q"),
    "turns of the answer": (
        {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]},
        [USER],
    ),
    "whole conversations": (
        {
            "chosen": [SYSTEM, *EARLIER, USER, CHOSEN],
            "rejected": [SYSTEM, *EARLIER, USER, REJECTED],
        },
        [SYSTEM, *EARLIER, USER],
    ),
    "whole conversations and their first question": (
        {
            "prompt": "q0",
            "chosen": [*EARLIER, USER, CHOSEN],
            "rejected": [*EARLIER, USER, REJECTED],
        },
        [*EARLIER, USER],
    ),
    "whole conversations after a system's turn": (
        {
            "prompt": "q",
            "chosen": [SYSTEM, USER, CHOSEN],
            "rejected": [SYSTEM, USER, REJECTED],
        },
        [SYSTEM, USER],
    ),
    "roles": (
        {
            "prompt": [{"role": "human", "content": "q"}],
            "chosen": "a",
            "rejected": "b",
        },
        [USER],
    ),
    "Anthropic": (
        {
            "chosen": "\n\nHuman: q0\n\nAssistant: a0\n\nHuman: q\n\nAssistant: a",
            "rejected": "\n\nHuman: q0\n\nAssistant: a0\n\nHuman: q\n\nAssistant: b",
        },
        [*EARLIER, USER],
    ),
    "LLaMA-Factory, Alpaca": (
        {"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"},
        [{"role": "user", "content": "q\n\ni"}],
    ),
    "LLaMA-Factory, first form": (
        {"instruction": "q", "input": "", "output": ["a", "b"]},
        [USER],
    ),
    "LLaMA-Factory, ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        [USER],
    ),
    "ms-swift, text": (
        {"messages": [SYSTEM, USER, ASSISTANT], "rejected_response": "b"},
        [SYSTEM, USER],
    ),
    "ms-swift, turns": (
        {"messages": [USER, ASSISTANT], "rejected_messages": [USER, REJECTED]},
        [USER],
    ),
    "ms-swift, query": (
        {
            "system": "s",
            "query": "q",
            "response": "a",
            "rejected_response": "b",
            "history": [["q0", "a0"]],
        },
        [SYSTEM, *EARLIER, USER],
    ),
    "OpenAI": (
        {
            "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [CHOSEN],
            "non_preferred_output": [REJECTED],
        },
        [USER],
    ),
    "JSON in a table": (
        {
            "chosen": json.dumps([USER, CHOSEN]),
            "rejected": json.dumps([USER, REJECTED]),
        },
        [USER],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str) -> None:
    record, question = PAIRS[name]
    tracked = Record({**record, "score": 3})
    found = pair(tracked)
    assert found == (question, "a", "b")
    assert tracked.unused() == {"score"}


WRONG_PAIRS: list[tuple[dict[str, Any], str]] = [
    (
        {
            "chosen": [USER, CHOSEN, USER, CHOSEN],
            "rejected": [USER, REJECTED, USER, CHOSEN],
        },
        "part at turn 2, and chosen goes on to turn 4",
    ),
    ({"prompt": "q", "chosen": [RESULT], "rejected": [REJECTED]}, "ends with the tool"),
    (
        {"prompt": "p", "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
        "another turn than the prompt",
    ),
    ({"prompt": "q", "chosen": "a", "rejected": " a"}, "the same"),
    ({"chosen": [USER, CHOSEN], "rejected": [USER, CHOSEN]}, "the same"),
    ({"chosen": "a", "rejected": "b"}, "no prompt"),
    ({"prompt": "q", "rejected": "b"}, "no answer was chosen"),
    ({"prompt": "q", "chosen": " ", "rejected": "b"}, "chosen is empty"),
    ({"prompt": "q", "chosen": [CALLING], "rejected": "b"}, "a call of weather"),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "tools": [TOOL]},
        "with tools",
    ),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "images": ["p.png"]},
        "holds images",
    ),
]


@pytest.mark.parametrize(("record", "problem"), WRONG_PAIRS)
def test_pairs_that_do_not_fit(record: dict[str, Any], problem: str) -> None:
    with pytest.raises(Unusable, match=problem):
        pair(Record(record))


@pytest.mark.parametrize(
    ("label", "liked"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (-1, False),
        (1.0, True),
        ("True", True),
        (" false ", False),
        ("-1", False),
        ("good", True),
        ("dislike", False),
        ("👍", True),
        ("差评", False),
    ],
)
@pytest.mark.parametrize("key", ["label", "kto_tag"])
@pytest.mark.parametrize(
    ("record", "question"),
    [
        ({"prompt": "q", "completion": "a"}, "q"),
        ({"messages": [USER, ASSISTANT]}, [USER]),
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            [USER],
        ),
        ({"instruction": "q", "input": "", "output": "a"}, [USER]),
    ],
)
def test_thumbs(
    record: dict[str, Any], question: Any, key: str, label: Any, liked: bool
) -> None:
    tracked = Record({**record, key: label})
    assert thumb(tracked) == (question, "a", liked)
    assert tracked.unused() == set()


def written(folder: Path, *records: Any) -> Path:
    path = folder / "my.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_inspect_names_the_keys_that_are_not_used(tmp_path: Path) -> None:
    turns = [USER, {**ASSISTANT, "id": 1}]
    path = written(
        tmp_path,
        {"messages": turns, "source": "x"},
        {"messages": [USER, ASSISTANT], "source": "y", "nothing": None},
    )
    content: Any = data.inspect(path)
    assert content.unused == {"source": 2, "messages[].id": 1}
    assert "source (2), messages[].id (1)" in str(content)


@pytest.mark.parametrize(
    ("record", "task"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "q", "completion": "b", "label": False}, "preference"),
        ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "chat"),
    ],
)
def test_training_from_scratch_learns_no_answer_that_people_rejected(
    tmp_path: Path, record: dict[str, Any], task: str
) -> None:
    path = written(tmp_path, record)
    assert data.inspect(path).problems == 0  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match=r"my\.jsonl:1") as caught:
        list(files.read(path))
    assert f"--task {task}" in caught.value.remedy


def test_nulls_that_parquet_fills_in_are_gone(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    calls = [
        {"function": {"name": "f", "arguments": {"item": "kettle"}}},
        {"function": {"name": "g", "arguments": {"day": "today"}}},
    ]
    rows = [
        {"messages": [USER, {"role": "assistant", "tool_calls": [call]}, ASSISTANT]}
        for call in calls
    ]
    path = tmp_path / "calls.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    read = [conversation(Record(record)) for _, record in files.records(path)]
    arguments = [
        item.messages[1]["tool_calls"][0]["function"]["arguments"] for item in read
    ]
    assert arguments == [{"item": "kettle"}, {"day": "today"}]
    assert read[0].messages[0] == USER


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "from", "content", "x"]), inner)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "messages",
        "conversations",
        "prompt",
        "completion",
        "instruction",
        "input",
        "output",
        "chosen",
        "rejected",
        "rejected_response",
        "preferred_output",
        "label",
        "kto_tag",
        "history",
        "system",
        "tools",
        "images",
        "text",
    ]
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_record_is_read_or_refused(record: dict[str, Any]) -> None:
    for reading in (conversation, pair, thumb):
        with suppress(Unusable):
            reading(Record(record))


def test_inspect_names_what_only_chat_reads(tmp_path: Path) -> None:
    turns = [USER, {**ASSISTANT, "reasoning_content": "r"}]
    content: Any = data.inspect(written(tmp_path, {"messages": turns, "tools": [TOOL]}))
    assert content.unused == {}
    assert content.only_chat == {"messages[].reasoning_content": 1, "tools": 1}


def test_a_column_without_a_name_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_text(",prompt,completion\n0,q,a\n", encoding="utf-8")
    content: Any = data.inspect(path)
    assert content.unused == {'""': 1}
