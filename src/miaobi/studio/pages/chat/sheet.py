"""The settings of a conversation: as they are typed, what is wrong with them, and the
fields of a request that they are.

Kept as typed (conversation notes): a person finds what they wrote, to the last blank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from miaobi.core.language import say
from miaobi.serve.text.fields import Tool

DEFAULTS = {
    "system": "",
    "temperature": "0.7",
    "top_p": "0.95",
    "max_tokens": "",
    "seed": "",
    "schema": "",
    "tools": "",
}
TEXTS = ("system", "schema", "tools")
"""What a model that knows no dialogue cannot take."""
RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "max_tokens": (1, 1_000_000),
    "seed": (-(2**63), 2**63 - 1),
}
BLAMED = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "response_format": "schema",
    "json_schema": "schema",
}
"""What the API calls a setting, where it calls it otherwise."""
REASONS = {
    "Expecting value": "此处应有一个值",
    "Expecting property name enclosed in double quotes": "此处应有双引号括起的键名",
    "Expecting ':' delimiter": "此处应有冒号",
    "Expecting ',' delimiter": "此处应有逗号",
    "Unterminated string starting at": "字符串没有结束",
    "Extra data": "JSON 之后还有多余内容",
    "Illegal trailing comma before end of object": "对象末尾有多余的逗号",
    "Illegal trailing comma before end of array": "数组末尾有多余的逗号",
}
"""What Python's parser says, in Chinese."""
MOST = 20_000
"""Characters of one setting."""


@dataclass
class Sheet:
    """What stands in the settings."""

    values: dict[str, str]
    faults: dict[str, str] = field(default_factory=dict)
    """By the name of the setting."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of a request to /v1/chat/completions, without the system's message."""

    @classmethod
    def of(cls, typed: Mapping[str, Any]) -> Sheet:
        """Return the settings of a form or of a conversation's notes, checked."""
        values = {
            name: str(typed.get(name, default)) for name, default in DEFAULTS.items()
        }
        sheet = cls(values)
        for name in ("temperature", "top_p"):
            sheet._number(name, float)
        for name in ("max_tokens", "seed"):
            sheet._number(name, int)
        sheet._schema()
        sheet._tools()
        for name in TEXTS:
            if len(values[name]) > MOST:
                sheet.faults[name] = say(
                    f"{len(values[name]):,} characters; {MOST:,} are taken.",
                    f"共 {len(values[name]):,} 个字符，最多 {MOST:,} 个。",
                )
        return sheet

    @property
    def changed(self) -> dict[str, Any]:
        """Those of `fields` that a person has set."""
        return {
            name: value
            for name, value in self.fields.items()
            if name not in DEFAULTS or self.values[name] != DEFAULTS[name]
        }

    def refuse_texts(self, model: str) -> None:
        """Find fault with what `model` cannot take, because it knows no dialogue."""
        for name in TEXTS:
            if self.values[name].strip():
                self.faults[name] = say(
                    f"{model} goes on with a text; it does not take this.",
                    f"{model} 只能续写文本，不支持此项。",
                )

    def blame(self, param: str | None, message: str) -> None:
        """Put an error of the API at the setting that it is about, if it is one."""
        first = (param or "").split(".")[0]
        name = BLAMED.get(first, first)
        if name in DEFAULTS:
            self.faults[name] = message

    def _number(self, name: str, kind: type[int] | type[float]) -> None:
        typed = self.values[name].strip()
        if not typed:
            return
        low, high = RANGES[name]
        try:
            value = kind(typed)
        except ValueError:
            value = None
        if value is not None and low <= value <= high:
            self.fields[name] = value
            return
        if name == "seed":
            sentence = say(
                f"{typed[:40]} is no whole number. Leave it empty to draw one.",
                f"{typed[:40]} 不是整数。留空则随机。",
            )
        else:
            sentence = say(
                f"{typed[:40]} is not between {low:g} and {high:,}.",
                f"{typed[:40]} 不在 {low:g} 与 {high:,} 之间。",
            )
        self.faults[name] = sentence

    def _schema(self) -> None:
        schema = self._json("schema")
        if schema is None:
            return
        if not isinstance(schema, dict):
            self.faults["schema"] = say(
                'A schema is an object: {"type": "object", ...}.',
                'schema 应为对象：{"type": "object", ...}。',
            )
            return
        named = {"name": "answer", "schema": schema}
        self.fields["response_format"] = {"type": "json_schema", "json_schema": named}

    def _tools(self) -> None:
        value = self._json("tools")
        if value is None:
            return
        tools = [_as_tool(item) for item in _as_list(value)]
        for number, tool in enumerate(tools, 1):
            try:
                Tool.model_validate(tool)
            except ValidationError as error:
                self.faults["tools"] = _fault_of_tool(number, error)
                return
        self.fields["tools"] = tools

    def _json(self, name: str) -> Any:
        """Return what is typed; None for nothing, or with a fault."""
        typed = self.values[name].strip()
        if not typed:
            return None
        try:
            return json.loads(typed)
        except json.JSONDecodeError as error:
            reason = REASONS.get(error.msg, error.msg)
            self.faults[name] = say(
                f"Line {error.lineno}, column {error.colno}: {error.msg}.",
                f"第 {error.lineno} 行第 {error.colno} 列：{reason}。",
            )
        except RecursionError:
            self.faults[name] = say("It is nested too deep.", "嵌套过深。")
        return None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _as_tool(item: Any) -> Any:
    """Return a function's definition as a tool, however it was value."""
    if isinstance(item, dict) and "function" not in item and "name" in item:
        return {
            "type": "function",
            "function": {key: item[key] for key in item if key != "type"},
        }
    return item


def _fault_of_tool(number: int, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "-"
    return say(
        f"Tool {number}, {where}: {first['msg']}. "
        'A tool is {"name": "...", "parameters": {...}}.',
        f"第 {number} 个工具的 {where} 有误。"
        '工具的写法：{"name": "...", "parameters": {...}}。',
    )
