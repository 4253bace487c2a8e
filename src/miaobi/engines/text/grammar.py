"""JSON schema to a grammar that llama.cpp (GBNF) and OpenVINO (xgrammar's EBNF) both read.

Both engines have a converter of their own, and both let white space and extra
properties run to the end of the answer. Here an object has its declared properties, in
order, and nothing else, with a single space after ":" and ",".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
MOST = 2000
"""Times that a grammar may repeat something: llama.cpp's own limit."""
TERMINAL = re.compile(r'"(?:[^"\\]|\\.)*"')
WORD = re.compile(r"[a-z][a-z0-9-]*")
READ = {
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
SAID = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}


def of_schema(schema: Mapping[str, Any]) -> str:
    """The grammar, with `root` first. Raises Unsupported for keywords that it does not honour."""
    return _Grammar(schema).text()


class _Grammar:
    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.rules: dict[str, str] = {}
        self._named: dict[str, str] = {}
        self.rules["root"] = self.expression(schema, "#")

    def text(self) -> str:
        rules = {"root": self.rules["root"], **self.rules}
        shared, looked = dict[str, str](), list(rules.values())
        while looked:
            words = set(WORD.findall(TERMINAL.sub(" ", looked.pop())))
            new = {
                name: rule
                for name, rule in SHARED.items()
                if name in words and name not in shared
            }
            shared |= new
            looked += new.values()
        return (
            "\n".join(f"{name} ::= {rule}" for name, rule in (rules | shared).items())
            + "\n"
        )

    def expression(self, schema: Any, where: str) -> str:
        """The right-hand side for one (sub)schema."""
        if not isinstance(schema, Mapping):
            raise BadInput(
                say(
                    f"The JSON schema at {where} is not an object: {schema!r}.",
                    f"JSON schema 在 {where} 处不是对象：{schema!r}。",
                ),
                'Example: {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}',
            )
        odd = set(schema) - READ - SAID
        if odd:
            raise _unsupported(where, sorted(odd)[0], schema[sorted(odd)[0]])
        if "$ref" in schema:
            return self._reference(schema["$ref"], where)
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return "(" + " | ".join(_literal(value) for value in schema["enum"]) + ")"
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return (
                "("
                + " | ".join(
                    self.expression(item, f"{where}/anyOf/{i}")
                    for i, item in enumerate(options)
                )
                + ")"
            )
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            return (
                "("
                + " | ".join(
                    self.expression({**schema, "type": item}, where)
                    for item in dict.fromkeys(kind)
                )
                + ")"
            )
        if kind in ("integer", "number", "boolean", "null"):
            return str(kind)
        if kind == "string":
            return f'"\\"" char{_times(schema.get("minLength", 0), schema.get("maxLength"))} "\\""'
        if kind == "array":
            return self._array(schema, where)
        if kind == "object":
            return self._object(schema, where)
        raise _unsupported(where, "type", kind)

    def _reference(self, reference: str, where: str) -> str:
        """A named rule for a shared definition, so that schemas may refer to themselves."""
        if reference in self._named:
            return self._named[reference]
        target: Any = self.schema
        for part in (
            reference.removeprefix("#").strip("/").split("/")
            if reference != "#"
            else ()
        ):
            target = target.get(part) if isinstance(target, Mapping) else None
        if not reference.startswith("#") or target is None:
            raise _unsupported(where, "$ref", reference)
        name = self._named[reference] = f"def-{len(self._named)}"
        self.rules[name] = self.expression(target, reference)
        return name

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        if "items" not in schema:
            raise _unsupported(where, "items", None)
        item = self._rule(self.expression(schema["items"], f"{where}/items"))
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if high == 0:
            return '"[]"'
        more = _times(max(0, low - 1), None if high is None else high - 1)
        filled = f'({item}) (", " ({item})){more}'
        return f'"[" {filled} "]"' if low else f'"[" ({filled})? "]"'

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        if (
            schema.get("additionalProperties") is True
            and not properties
            and not required
        ):
            return "object"
        if schema.get("additionalProperties") not in (None, False) or required - set(
            properties
        ):
            raise _unsupported(
                where, "additionalProperties", schema.get("additionalProperties")
            )
        if not properties:
            return '"{}"'
        pairs = [
            (
                name in required,
                f'{_literal(name)} ": " {self.expression(value, f"{where}/properties/{name}")}',
            )
            for name, value in properties.items()
        ]
        return f'"{{" {self._pairs(pairs)} "}}"'

    def _pairs(self, pairs: list[tuple[bool, str]]) -> str:
        """Properties in order; optional ones may be left out, and a comma stands only between two.

        What an optional property makes stand in several places becomes a rule: written
        out, the grammar would double with each.
        """
        begin = after = (
            ""  # the properties from here on, where none was before and where one was
        )
        for needed, pair in reversed(pairs):
            if needed:
                begin, after = (
                    f"{pair} {after}".rstrip(),
                    f'", " {pair} {after}'.rstrip(),
                )
                continue
            pair, after = self._rule(pair), self._rule(after)
            begin, after = (
                _either(f"{pair} {after}".rstrip(), begin),
                _either(f'", " {pair} {after}'.rstrip(), after),
            )
        return begin

    def _rule(self, text: str) -> str:
        """What stands for `text` where it is wanted several times."""
        if len(text) < 24:
            return text
        name = f"part-{len(self.rules)}"
        self.rules[name] = text
        return name


def _either(present: str, absent: str) -> str:
    return f"(({present}) | ({absent}))" if absent else f"({present})?"


def _times(low: int, high: int | None) -> str:
    if max(low, high or 0) > MOST:
        raise Unsupported(
            say(
                f"The JSON schema repeats something up to {max(low, high or 0)} times.",
                f"JSON schema 中某项最多重复 {max(low, high or 0)} 次。",
            ),
            say(f"At most {MOST} can be enforced here.", f"此处最多支持 {MOST} 次。"),
        )
    if high is None:
        return "*" if low == 0 else f"{{{low},}}"
    return f"{{{low},{high}}}"


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
            f"Keywords that are: {', '.join(sorted(READ))}.",
            f"支持的关键字：{'、'.join(sorted(READ))}。",
        ),
    )
