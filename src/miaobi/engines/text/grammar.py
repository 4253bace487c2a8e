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

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.engines.text.schema import (
    ANNOTATIONS,
    DEFINITIONS,
    not_a_schema,
    pointer,
    target_of,
    unsatisfied,
    unsupported,
)

ESCAPED = '"u00" [01] [0-9a-fA-F]'
"""Characters that JSON cannot hold otherwise: half a surrogate is none."""
CHARACTER = r'([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | ' + ESCAPED + "))"
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
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
}
"""By type: what restricts a value of it and can be written as a grammar."""
ALONE = ("const", "enum", "anyOf", "oneOf", "allOf", "$ref")
"""Keywords that this grammar holds only by themselves."""


def of_schema(schema: Mapping[str, Any]) -> str:
    """Return the grammar of a JSON schema, with `root` first.

    Raises Unsupported for keywords that it does not support, and BadInput for what is
    no schema, each with its JSON pointer.
    """
    return _Grammar(schema).text()


def check(schema: Mapping[str, Any]) -> None:
    """Raise what `of_schema` raises."""
    of_schema(schema)


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

    def expression(self, schema: Any, where: str, within: tuple[str, ...] = ()) -> str:
        """The right-hand side for one (sub)schema.

        Args:
            schema: as it was written.
            where: its JSON pointer.
            within: the references that this value was reached through.
        """
        if not isinstance(schema, Mapping):
            raise not_a_schema(where, schema)
        restricting = [key for key in schema if key not in ANNOTATIONS | DEFINITIONS]
        for key in ALONE:
            if key in schema:
                _check_alone(key, restricting, schema, where)
                return self._alone(key, schema[key], where, within)
        kind = schema.get("type", "object" if "properties" in schema else None)
        kinds = list(dict.fromkeys(kind)) if isinstance(kind, list) else [kind]
        allowed = {"type"}.union(*(KEYWORDS.get(kind, ()) for kind in kinds))
        for key in restricting:
            if key not in allowed:
                raise unsupported(pointer(where, key), key, schema[key])
        if len(kinds) == 1:
            return self._of_type(kinds[0], schema, where)
        return _any_of(self._of_type(kind, schema, where) for kind in kinds)

    def _alone(self, key: str, value: Any, where: str, within: tuple[str, ...]) -> str:
        """The right-hand side for one of ALONE."""
        here = pointer(where, key)
        if key == "$ref":
            return self._reference(value, here, within)
        if key == "const":
            return _literal(value)
        if not isinstance(value, list) or not value:
            raise unsupported(here, key, value)
        if key == "enum":
            return _any_of(_literal(item) for item in value)
        if (key == "allOf" and len(value) > 1) or (
            key == "oneOf" and not self._disjoint(value)
        ):
            raise unsupported(here, key, value)
        return _any_of(
            self.expression(option, pointer(here, index), within)
            for index, option in enumerate(value)
        )

    def _disjoint(self, options: list[Any]) -> bool:
        """Whether no value can be of two of the options: their types differ, or one
        property names them.
        """
        targets = [self._target(option) for option in options]
        kinds = [
            target.get("type")
            for target in targets
            if isinstance(target.get("type"), str)
        ]
        if "number" not in kinds and len(set(kinds)) == len(options):
            return True
        shared = set(targets[0].get("required", ()))
        for target in targets[1:]:
            shared &= set(target.get("required", ()))
        return any(self._distinguishes(name, targets) for name in shared)

    def _distinguishes(self, name: str, targets: list[Mapping[str, Any]]) -> bool:
        """Whether the property is a constant, another in each option."""
        values: list[Any] = []
        for option in targets:
            declared = self._target(option.get("properties", {}).get(name))
            if not {"const", "enum"} & set(declared):
                return False
            values += declared.get("enum", [declared.get("const")])
        texts = [json.dumps(value, sort_keys=True) for value in values]
        return len(set(texts)) == len(texts)

    def _target(self, schema: Any) -> Mapping[str, Any]:
        """The schema, or the one that it refers to."""
        if isinstance(schema, Mapping) and "$ref" in schema:
            schema = target_of(self.schema, schema["$ref"], "#")
        return schema if isinstance(schema, Mapping) else {}

    def _of_type(self, kind: Any, schema: Mapping[str, Any], where: str) -> str:
        """The right-hand side for a schema of one type."""
        if kind in ("integer", "number", "boolean", "null"):
            return str(kind)
        if kind == "string":
            low, high = schema.get("minLength", 0), schema.get("maxLength")
            return f'"\\"" char{_repeats(low, high, where)} "\\""'
        if kind == "array":
            return self._array(schema, where)
        if kind == "object":
            return self._object(schema, where)
        raise unsupported(pointer(where, "type"), "type", kind)

    def _reference(self, reference: Any, where: str, within: tuple[str, ...]) -> str:
        """A named rule for a shared definition, so that schemas may refer to themselves."""
        target = target_of(self.schema, reference, where)
        if reference in within:
            raise unsatisfied(
                where, say(f"{reference} is itself", f"{reference} 即自身")
            )
        if reference not in self._references:
            name = f"def-{len(self._references)}"
            self._references[reference] = name
            within = (*within, reference)
            self.rules[name] = self.expression(target, reference, within)
        return self._references[reference]

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        if "items" not in schema:
            raise unsupported(where, "items", None)
        item = self._rule(self.expression(schema["items"], pointer(where, "items")))
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        _repeats(low, high, where)
        if high == 0:
            return '"[]"'
        repeats = _repeats(max(0, low - 1), None if high is None else high - 1, where)
        items = f'({item}) (", " ({item})){repeats}'
        return f'"[" {items} "]"' if low else f'"[" ({items})? "]"'

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        additional = schema.get("additionalProperties")
        if additional is True and not properties and not required:
            return "object"
        if additional not in (None, False) or required - set(properties):
            key = "additionalProperties" if additional else "required"
            raise unsupported(pointer(where, key), key, schema.get(key))
        if not properties:
            return '"{}"'
        pairs = []
        for name, value in properties.items():
            expression = self.expression(value, pointer(where, "properties", name))
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


def _check_alone(
    key: str, restricting: list[str], schema: Mapping[str, Any], where: str
) -> None:
    """Raise Unsupported for keywords that restrict the same value.

    The type of constants may be said beside them.
    """
    for other in restricting:
        if other == key:
            continue
        constants = [schema[key]] if key == "const" else schema[key]
        if other != "type" or key not in ("const", "enum"):
            raise unsupported(pointer(where, other), other, schema[other])
        if not isinstance(constants, list) or not all(
            _is_of(value, schema["type"]) for value in constants
        ):
            raise unsupported(pointer(where, key), key, schema[key])


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a constant is of a type, or of one of several."""
    if isinstance(kind, list):
        return any(_is_of(value, item) for item in kind)
    if isinstance(value, bool):
        return bool(kind == "boolean")
    classes: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "null": type(None),
        "array": list,
        "object": dict,
    }
    return kind in classes and isinstance(value, classes[kind])


def _repeats(low: Any, high: Any, where: str) -> str:
    """The suffix for `low` to `high` times; None is any number."""
    if not isinstance(low, int) or not isinstance(high, int | None) or low < 0:
        raise unsatisfied(where, say("a length is no number", "长度不是整数"))
    if high is not None and high < low:
        raise unsatisfied(
            where,
            say(f"{low} is above {high}", f"{low} 大于 {high}"),
        )
    most = max(low, high or 0)
    if most > MAX_REPEATS:
        raise Unsupported(
            say(
                f"The JSON schema repeats something up to {most} times at {where}.",
                f"JSON schema 在 {where} 处最多重复 {most} 次。",
            ),
            say(
                f"At most {MAX_REPEATS} can be enforced here.",
                f"此处最多支持 {MAX_REPEATS} 次。",
            ),
            field="json_schema",
        )
    if high is not None:
        return f"{{{low},{high}}}"
    return f"{{{low},}}" if low else "*"


def _literal(value: Any) -> str:
    """A quoted grammar terminal for a JSON value."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
