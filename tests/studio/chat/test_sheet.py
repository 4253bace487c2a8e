"""The settings of a conversation: what is typed, what is wrong with it, what is asked."""

from __future__ import annotations

import pytest

from miaobi.core.language import speaking
from miaobi.studio.pages.chat.sheet import DEFAULTS, Sheet


def test_what_is_typed_becomes_fields_of_a_request() -> None:
    sheet = Sheet.of(
        {
            "temperature": "0",
            "top_p": "1",
            "max_tokens": " 12 ",
            "seed": "-3",
            "schema": '{"type": "object"}',
            "tools": '{"name": "look"}',
        }
    )
    assert sheet.faults == {}
    assert sheet.fields["temperature"] == 0 and sheet.fields["max_tokens"] == 12
    assert sheet.fields["seed"] == -3
    assert sheet.fields["tools"] == [{"type": "function", "function": {"name": "look"}}]
    named = sheet.fields["response_format"]["json_schema"]
    assert named["schema"] == {"type": "object"}
    assert "temperature" in sheet.changed


def test_plain_models_get_only_what_somebody_has_set() -> None:
    assert Sheet.of({}).fields == {"temperature": 0.7, "top_p": 0.95}
    assert Sheet.of({}).changed == {}
    assert Sheet.of({}).values == DEFAULTS


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [
        ("temperature", "3", "3 is not between 0 and 2"),
        ("temperature", "warm", "warm is not between"),
        ("top_p", "nan", "nan is not between"),
        ("max_tokens", "0", "0 is not between 1"),
        ("max_tokens", "1.5", "1.5 is not between"),
        ("seed", "seven", "no whole number"),
        ("schema", '{"type":', "Line 1, column"),
        ("schema", "[]", "A schema is an object"),
        ("schema", "[" * 15_000, "nested too deep"),
        ("tools", '[{"name": "a b"}]', "Tool 1, function.name"),
        ("tools", "[3]", "Tool 1, -"),
        ("tools", '[{"name": "a"}, {"type": "function"}]', "Tool 2, function"),
        ("system", "x" * 20_001, "20,001 characters"),
    ],
)
def test_a_fault_is_named_at_its_field(name: str, typed: str, said: str) -> None:
    sheet = Sheet.of({name: typed})
    assert said in sheet.faults[name]
    with speaking("zh"):
        assert Sheet.of({name: typed}).faults[name] != sheet.faults[name]


def test_an_error_of_the_api_is_put_at_its_setting() -> None:
    sheet = Sheet.of({})
    sheet.blame("response_format.json_schema.schema", "too deep")
    sheet.blame("tools.0.function.parameters", "not so")
    sheet.blame("messages", "elsewhere")
    sheet.blame(None, "nowhere")
    assert sheet.faults == {"schema": "too deep", "tools": "not so"}
