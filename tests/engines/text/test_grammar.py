"""Grammars of JSON schemas stay small, whatever the schema: requests bring them."""

from __future__ import annotations

from typing import Any

import pytest

from miaobi.core.errors import BadInput, Unsupported
from miaobi.engines.text.grammar import of_schema


def size(schema: dict[str, Any]) -> int:
    return len(of_schema(schema))


def test_optional_properties_do_not_double_the_grammar() -> None:
    def many(count: int) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {
                f"property{number:03}": {"type": "string"} for number in range(count)
            },
        }

    assert size(many(200)) < 2.2 * size(many(100))


def test_nor_do_objects_inside_objects() -> None:
    def deep(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "integer"}
        for _ in range(levels):
            schema = {
                "type": "object",
                "properties": {"a": schema, "b": {"type": "null"}},
            }
        return schema

    assert size(deep(80)) < 2.5 * size(deep(40))


def test_nor_do_lists_inside_lists_or_kinds_named_twice() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(60):
        schema = {"type": ["array", "array", "array"], "items": schema}
    assert size(schema) < 10_000


def test_every_rule_that_is_named_is_there() -> None:
    import re

    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "object", "additionalProperties": True},
            "b": {"type": "array", "items": {"$ref": "#"}},
        },
    }
    lines = dict(line.split(" ::= ", 1) for line in of_schema(schema).splitlines())
    assert next(iter(lines)) == "root"
    named = {
        word
        for rule in lines.values()
        for word in re.findall(
            r"[a-z][a-z0-9-]*", re.sub(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]', " ", rule)
        )
    }
    assert named - {"u"} <= set(lines)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 1_000_000},
        {"type": "array", "items": {"type": "null"}, "minItems": 9999},
        {"type": "string", "format": "email"},
        {"type": "object", "additionalProperties": {"type": "null"}},
    ],
)
def test_what_cannot_be_held_to_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises((Unsupported, BadInput)):
        of_schema(schema)
