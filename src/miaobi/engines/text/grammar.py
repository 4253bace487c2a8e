"""JSON schema to a grammar that llama.cpp (GBNF) and OpenVINO (xgrammar's EBNF) both read.

Both engines have a converter of their own, and both let white space and extra
properties run to the end of the answer. Here an object has its declared properties, in
order, and nothing else, with a single space after ":" and ",".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say

CHARACTER = r'([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]))'
INTEGER = '"-"? ("0" | [1-9] [0-9]{0,15})'
SHARED = {
    "char": CHARACTER,
    "integer": INTEGER,
    "number": INTEGER + r' ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "string | number | boolean | null | object | list",
    "string": '"\\"" char* "\\""',
    "object": '"{" (string ": " value (", " string ": " value)*)? "}"',
    "list": '"[" (value (", " value)*)? "]"',
}
MAX_REPEATS = 2000
"""Times that a grammar may repeat something: llama.cpp's own limit."""
INLINE = 24
"""Characters of an expression from which it gets a rule of its own."""
TERMINAL = re.compile(r'"(?:[^"\\]|\\.)*"')
RULE_NAME = re.compile(r"[a-z][a-z0-9-]*")
SUPPORTED = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "minLength",
    "maxLength",
    "$ref",
    "$defs",
    "definitions",
}
IGNORED = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}
"""Keywords that restrict nothing."""


def of_schema(schema: Mapping[str, Any]) -> str:
    """Return the grammar of a JSON schema, with `root` first.

    Raises Unsupported for keywords that it does not support.
    """
    return _Grammar(schema).text()


class _Grammar:
    """The rules of one schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.rules: dict[str, str] = {}
        self._references: dict[str, str] = {}
        """The rule of each `$ref`."""
        self.rules["root"] = self.expression(schema, "#")

    def text(self) -> str:
        """The grammar, with those of SHARED that it uses."""
        rules = {"root": self.rules["root"], **self.rules}
        shared: dict[str, str] = {}
        unread = list(rules.values())
        while unread:
            names = RULE_NAME.findall(TERMINAL.sub(" ", unread.pop()))
            for name, rule in SHARED.items():
                if name in names and name not in shared:
                    shared[name] = rule
                    unread.append(rule)
        lines = [f"{name} ::= {rule}" for name, rule in (rules | shared).items()]
        return "\n".join(lines) + "\n"

    def expression(self, schema: Any, where: str) -> str:
        """The right-hand side for one (sub)schema; `where` is its JSON pointer."""
        if not isinstance(schema, Mapping):
            raise BadInput(
                say(
                    f"The JSON schema at {where} is not an object: {schema!r}.",
                    f"JSON schema 在 {where} 处不是对象：{schema!r}。",
                ),
                'Example: {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}',
            )
        unknown = sorted(set(schema) - SUPPORTED - IGNORED)
        if unknown:
            raise _unsupported(where, unknown[0], schema[unknown[0]])
        if "$ref" in schema:
            return self._reference(schema["$ref"], where)
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return _any_of(_literal(value) for value in schema["enum"])
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return _any_of(
                self.expression(option, f"{where}/anyOf/{index}")
                for index, option in enumerate(options)
            )
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            return _any_of(
                self.expression({**schema, "type": item}, where)
                for item in dict.fromkeys(kind)
            )
        return self._of_type(kind, schema, where)

    def _of_type(self, kind: Any, schema: Mapping[str, Any], where: str) -> str:
        """The right-hand side for a schema of one type."""
        if kind in ("integer", "number", "boolean", "null"):
            return str(kind)
        if kind == "string":
            repeats = _repeats(schema.get("minLength", 0), schema.get("maxLength"))
            return f'"\\"" char{repeats} "\\""'
        if kind == "array":
            return self._array(schema, where)
        if kind == "object":
            return self._object(schema, where)
        raise _unsupported(where, "type", kind)

    def _reference(self, reference: str, where: str) -> str:
        """A named rule for a shared definition, so that schemas may refer to themselves."""
        if reference in self._references:
            return self._references[reference]
        path = reference.removeprefix("#").strip("/")
        target: Any = self.schema
        for part in path.split("/") if reference != "#" else ():
            target = target.get(part) if isinstance(target, Mapping) else None
        if not reference.startswith("#") or target is None:
            raise _unsupported(where, "$ref", reference)
        name = f"def-{len(self._references)}"
        self._references[reference] = name
        self.rules[name] = self.expression(target, reference)
        return name

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        if "items" not in schema:
            raise _unsupported(where, "items", None)
        item = self._rule(self.expression(schema["items"], f"{where}/items"))
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if high == 0:
            return '"[]"'
        repeats = _repeats(max(0, low - 1), None if high is None else high - 1)
        items = f'({item}) (", " ({item})){repeats}'
        return f'"[" {items} "]"' if low else f'"[" ({items})? "]"'

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        additional = schema.get("additionalProperties")
        if additional is True and not properties and not required:
            return "object"
        if additional not in (None, False) or required - set(properties):
            raise _unsupported(where, "additionalProperties", additional)
        if not properties:
            return '"{}"'
        pairs = []
        for name, value in properties.items():
            expression = self.expression(value, f"{where}/properties/{name}")
            pairs.append((name in required, f'{_literal(name)} ": " {expression}'))
        return f'"{{" {self._pairs(pairs)} "}}"'

    def _pairs(self, pairs: list[tuple[bool, str]]) -> str:
        """Properties in order, with commas between those that are there.

        Each of `pairs` says whether it is required. What an optional one adds stands in
        several places and becomes a rule: written out, the grammar would double with
        each.
        """
        # The properties from here on: where none was before, and where one was.
        first = after = ""
        for required, pair in reversed(pairs):
            if required:
                first = f"{pair} {after}".rstrip()
                after = f'", " {first}'
                continue
            pair = self._rule(pair)
            after = self._rule(after)
            present = f"{pair} {after}".rstrip()
            first = _optional(present, first)
            after = _optional(f'", " {present}', after)
        return first

    def _rule(self, expression: str) -> str:
        """What stands for an expression that is used several times."""
        if len(expression) < INLINE:
            return expression
        name = f"part-{len(self.rules)}"
        self.rules[name] = expression
        return name


def _any_of(expressions: Iterable[str]) -> str:
    return "(" + " | ".join(expressions) + ")"


def _optional(present: str, absent: str) -> str:
    return f"(({present}) | ({absent}))" if absent else f"({present})?"


def _repeats(low: int, high: int | None) -> str:
    """The suffix for `low` to `high` times; None is any number."""
    most = max(low, high or 0)
    if most > MAX_REPEATS:
        raise Unsupported(
            say(
                f"The JSON schema repeats something up to {most} times.",
                f"JSON schema 中某项最多重复 {most} 次。",
            ),
            say(
                f"At most {MAX_REPEATS} can be enforced here.",
                f"此处最多支持 {MAX_REPEATS} 次。",
            ),
        )
    if high is not None:
        return f"{{{low},{high}}}"
    return f"{{{low},}}" if low else "*"


def _literal(value: Any) -> str:
    """A quoted grammar terminal for a JSON value."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unsupported(where: str, key: str, value: Any) -> Unsupported:
    return Unsupported(
        say(
            f"The JSON schema uses {key}: {value!r} at {where}, which cannot be enforced here.",
            f"JSON schema 在 {where} 处使用了 {key}: {value!r}，此处无法保证。",
        ),
        say(
            f"Keywords that are: {', '.join(sorted(SUPPORTED))}.",
            f"支持的关键字：{'、'.join(sorted(SUPPORTED))}。",
        ),
    )
