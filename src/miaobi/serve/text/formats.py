"""The shape an answer must have: what `response_format` asks for, as the JSON schema
that engines hold to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from miaobi.core.language import say
from miaobi.engines.text.schema import without_annotations
from miaobi.serve.errors import ApiError
from miaobi.serve.settings import Limits
from miaobi.serve.text.fields import JsonObject, JsonSchema, TextFormat, within

ANY_OBJECT: Mapping[str, Any] = {"type": "object", "additionalProperties": True}


def schema_of(
    response_format: TextFormat | JsonObject | JsonSchema | None, limits: Limits
) -> Mapping[str, Any] | None:
    """The schema to hold to, or None for text as it comes. Raises ApiError 400 for one
    that is too large or nested too deep.
    """
    if isinstance(response_format, JsonObject):
        return ANY_OBJECT
    if not isinstance(response_format, JsonSchema):
        return None
    if response_format.json_schema.schema_ is None:
        raise ApiError(
            400,
            say("json_schema holds no schema.", "json_schema 中没有 schema。"),
            param="response_format.json_schema.schema",
        )
    return checked(
        response_format.json_schema.schema_,
        "response_format.json_schema.schema",
        limits,
    )


def checked(schema: Mapping[str, Any], name: str, limits: Limits) -> Mapping[str, Any]:
    """The schema, if a grammar of it stays small (a deep one crashed others' servers:
    xgrammar, CVE-2026-25048). What restricts nothing is not counted.
    """
    within(f"{name} (depth)", depth_of(schema), limits.schema_depth)
    enforced = json.dumps(without_annotations(schema), ensure_ascii=False)
    size = len(enforced.encode("utf-8", "replace"))
    within(f"{name} (bytes)", size, limits.schema_bytes)
    return schema


def depth_of(value: Any) -> int:
    """How deep a value is nested, found without recursion."""
    depth = 0
    level = [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth
