"""Of several shapes, the one that was meant is told, under the keys of the body."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings, strategies
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from miaobi.serve.text.fields import Chat
from miaobi.serve.validation import meant


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["cat"]
    lives: int = Field(ge=0)


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["dog"]
    tricks: list[str]
    owner: str


Pet = Cat | Dog
Home = str | list[Pet]


def refused(shape: Any, body: Any) -> tuple[str, str]:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(shape).validate_python(body)
    errors = [
        {**error, "loc": ("body", *error["loc"])} for error in raised.value.errors()
    ]
    misfit = meant(errors, body)
    return ".".join(misfit.keys), misfit.message


@pytest.mark.parametrize(
    ("shape", "body", "where", "message"),
    [
        (Pet, {"type": "dog", "owner": "Ada"}, "tricks", "Field required"),
        (Pet, {"type": "cat", "lives": -1}, "lives", "greater than or equal to 0"),
        (Home, [{"type": "cat", "lives": "9"}], "0.lives", "valid integer"),
        (Home, [{"type": "dog", "tricks": [1], "owner": "A"}], "0.tricks.0", "string"),
        (Home, 7, "", "a valid string or a valid list"),
        (Pet, {"type": "cat", "lives": 1, "tail": 2}, "tail", "not permitted"),
        (dict[str, Home], {"a/b": [{"type": "cat"}]}, "a/b.0.lives", "required"),
    ],
)
def test_the_shape_that_was_meant(
    shape: Any, body: Any, where: str, message: str
) -> None:
    place, text = refused(shape, body)
    assert place == where
    assert message in text


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"tool_choice": {"type": "function", "function": {}}}, "function.name"),
        ({"stop": ["a", 3]}, "stop.1"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "name"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_no_name_of_a_python_type_is_told(change: dict[str, Any], where: str) -> None:
    place, _ = refused(Chat, {"model": "m", "messages": [USER], **change})
    assert place.endswith(where)
    for word in ("TextPart", "list[", "str", "union", "function-", "NamedTool"):
        assert word not in place


JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-3, 3)
    | strategies.sampled_from(["cat", "dog", "x"]),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(
            strategies.sampled_from(["type", "lives", "tricks", "owner"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
Any_ = Annotated[dict[str, Home] | Home, Field()]


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_the_place_is_always_one_of_the_body(body: Any) -> None:
    try:
        TypeAdapter(Any_).validate_python(body)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        misfit = meant(errors, body)
        value = body
        keys = [name for kind, name in misfit.steps if kind == "key"]
        for number, key in enumerate(keys):
            is_last = number == len(keys) - 1
            if misfit.code == "missing" and is_last:
                assert key not in value
                return
            assert key in (value if isinstance(value, dict) else range(len(value)))
            value = value[key]
