"""JSON schemas as clients write them, prepared for what holds an answer to them.

Reads references, refuses what restricts and cannot be held to, and names the place as
it was written. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import in_each, say

ANNOTATIONS = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "$schema",
    "$id",
    "$comment",
    "$anchor",
}
"""Keywords that restrict nothing."""

DEFINITIONS = {"$defs", "definitions"}

SUPPORTED = {
    "type",
    "enum",
    "const",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "properties",
    "patternProperties",
    "propertyNames",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
}
"""Keywords that `Prepared` takes."""

APPLICATORS = {"allOf", "anyOf", "oneOf", "$ref"}
"""Keywords that say more of the same value."""

DATE = (
    r"(?:[1-9]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    r"|(?:[1-9]\d(?:0[48]|[2468][048]|[13579][26])"
    r"|(?:[2468][048]|[13579][26])00)-02-29)"
)
"""The days from 1000-01-01 on, those of leap years among them."""
CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
TIME = CLOCK + r":[0-5]\d(?:\.\d{1,6})?(?:Z|[+-]" + CLOCK + ")"
HEX = "[0-9a-f]"
NAME = "[A-Za-z0-9]+"
UUID = HEX + "{8}-" + HEX + "{4}-%s" + HEX + "{3}-%s" + HEX + "{3}-" + HEX + "{12}"

FORMATS = {
    "date": DATE,
    "time": TIME,
    "date-time": f"{DATE}T{TIME}",
    "email": rf"{NAME}(?:[._+-]{NAME})*@(?:{NAME}(?:-{NAME})*\.)+[A-Za-z]{{2,24}}",
    "uuid": UUID % (HEX, HEX),
    **{f"uuid{number}": UUID % (number, "[89ab]") for number in range(1, 9)},
    "byte": "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    "base64url": "(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?",
}
"""Formats whose texts every reader takes: a date there is, no second 60 (RFC 3339), an
address without quotes.
"""
NAMED_FORMATS = {"duration", "hostname", "ipv4", "ipv6", "uri"}
"""Formats that llguidance has itself."""
ANY_TEXT = {"password", "binary", "path", "file-path", "directory-path"}
"""Formats that say how a text is meant, not how it is written."""

LARGEST_NUMBER = 1e15
"""Bounds a number without bounds: an exponent of any length becomes infinity in readers,
and more digits are not told apart.
"""

LEADING_LOOKAHEAD = re.compile(r"\^\(\?!\^\[([^\]\\^]+)\]\*\$\)")
r"""As in ^(?!^[-+.]*$)…, which pydantic writes for decimals: not only of these
characters, so at least one other.
"""


def target_of(root: Mapping[str, Any], reference: Any, where: str) -> Any:
    """The subschema that a `$ref` names (RFC 6901). Raises Unsupported.

    Args:
        root: the whole schema.
        reference: a pointer into it, as "#/$defs/City".
        where: the pointer of the schema that refers to it.
    """
    target: Any = root
    if not isinstance(reference, str) or not re.match("#(/|$)", reference):
        raise unsupported(where, "$ref", reference)
    for part in unquote(reference[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
            target = target[int(key)]
        elif isinstance(target, Mapping) and key in target:
            target = target[key]
        else:
            raise _missing(where, reference)
    return target


def pointer(where: str, *keys: object) -> str:
    """A JSON pointer with more keys behind it."""
    parts = [str(key).replace("~", "~0").replace("/", "~1") for key in keys]
    return "/".join([where, *parts])


def unsupported(where: str, key: str, value: Any) -> Unsupported:
    """The error for a keyword that cannot be held to."""
    return Unsupported(
        say(
            f"The JSON schema uses {key}: {value!r} at {where}, which cannot be enforced here.",
            f"JSON schema 在 {where} 处使用了 {key}: {value!r}，此处无法保证。",
        ),
        say(
            f"Leave it out. Keywords that can be: {', '.join(sorted(SUPPORTED))}.",
            f"请去掉它。支持的关键字：{'、'.join(sorted(SUPPORTED))}。",
        ),
        field="json_schema",
    )


def unsatisfied(where: str, reason: str) -> Unsupported:
    """The error for a schema at `where` that cannot be held to, for a reason of its own."""
    return Unsupported(
        in_each(
            lambda: say(
                f"The JSON schema at {where} cannot be enforced here: {reason}.",
                f"JSON schema 在 {where} 处无法保证：{reason}。",
            )
        ),
        say("Change what it asks for there.", "请修改该处的要求。"),
        field="json_schema",
    )


def not_a_schema(where: str, value: Any) -> BadInput:
    """The error for what stands where a schema belongs."""
    return BadInput(
        say(
            f"The JSON schema at {where} is not an object: {value!r}.",
            f"JSON schema 在 {where} 处不是对象：{value!r}。",
        ),
        'Example: {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}',
        field="json_schema",
    )


def _missing(where: str, reference: str) -> BadInput:
    return BadInput(
        say(
            f"The JSON schema refers to {reference} at {where}, and there is nothing.",
            f"JSON schema 在 {where} 处引用了 {reference}，但该处没有内容。",
        ),
        say("Define it under $defs.", "请在 $defs 中定义它。"),
        field="json_schema",
    )


def without_annotations(schema: Any) -> Any:
    """The schema without what restricts nothing: what a limit on its size counts."""
    if not isinstance(schema, Mapping):
        return schema
    rest: dict[str, Any] = {}
    for key, value in schema.items():
        if key in DEFINITIONS | {"properties", "patternProperties"}:
            named = value.items() if isinstance(value, Mapping) else ()
            rest[key] = {name: without_annotations(inner) for name, inner in named}
        elif isinstance(value, list) and key not in ("enum", "required", "type"):
            rest[key] = [without_annotations(inner) for inner in value]
        elif key == "const":
            rest[key] = value
        elif key not in ANNOTATIONS:
            rest[key] = without_annotations(value)
    return rest


class Prepared:
    """A schema in the words of llguidance: its annotations left out, its references
    gathered, and every object closed that says which properties it has.

    `schema` is the result; `parts` are its subschemas with their pointers as they were
    written, the innermost first. Raises Unsupported or BadInput.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._names: dict[tuple[str, bool], str] = {}
        self._definitions: dict[str, Any] = {}
        self.parts: list[tuple[str, dict[str, Any]]] = []
        root = self._schema(schema, "#", True, ())
        self.schema: dict[str, Any] = root if isinstance(root, dict) else {}

    def with_definitions(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """One of `parts` as a schema of its own."""
        return {**part, "$defs": self._definitions}

    def _schema(
        self, schema: Any, where: str, alone: bool, within: tuple[str, ...]
    ) -> Any:
        """The prepared subschema.

        Args:
            schema: as it was written.
            where: its pointer.
            alone: whether no other schema says more of the same value.
            within: the references that this value was reached through.
        """
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise not_a_schema(where, schema)
        for key in schema:
            if key not in SUPPORTED | ANNOTATIONS | DEFINITIONS:
                raise unsupported(pointer(where, key), key, schema[key])
        restricting = [key for key in schema if key not in ANNOTATIONS | DEFINITIONS]
        said_once = alone and len(restricting) == 1
        prepared: dict[str, Any] = {}
        for key in restricting:
            self._keyword(prepared, key, schema, where, said_once, within)
        if alone:
            self._close(prepared, schema)
        if "number" in _types(schema):
            _bound(prepared)
        self.parts.append((where, prepared))
        return prepared

    def _keyword(
        self,
        prepared: dict[str, Any],
        key: str,
        schema: Mapping[str, Any],
        where: str,
        alone: bool,
        within: tuple[str, ...],
    ) -> None:
        """Add one keyword of a schema to what is prepared of it."""
        value = schema[key]
        here = pointer(where, key)
        if key == "$ref":
            prepared[key] = self._reference(value, here, alone, within)
        elif key in ("allOf", "anyOf", "oneOf"):
            alone = alone and (key != "allOf" or len(_listed(value, here)) == 1)
            prepared[key] = [
                self._schema(inner, pointer(here, index), alone, within)
                for index, inner in _listed(value, here)
            ]
        elif key in ("properties", "patternProperties"):
            if not isinstance(value, Mapping):
                raise not_a_schema(here, value)
            prepared.setdefault(key, {}).update(
                (name, self._schema(inner, pointer(here, name), True, ()))
                for name, inner in value.items()
            )
        elif key == "prefixItems" or (key == "items" and isinstance(value, list)):
            prepared["prefixItems"] = [
                self._schema(inner, pointer(here, index), True, ())
                for index, inner in _listed(value, here)
            ]
        elif key == "items":
            prepared["items"] = self._schema(value, here, True, ())
        elif key == "additionalItems":
            if isinstance(schema.get("items"), list):
                prepared["items"] = self._schema(value, here, True, ())
        elif key == "additionalProperties":
            prepared.setdefault(key, self._schema(value, here, True, ()))
        elif key == "propertyNames":
            self._names_of_properties(prepared, schema, here)
        elif key == "pattern":
            self._pattern(prepared, value)
        elif key == "format":
            self._format(prepared, value, here)
        else:
            prepared[key] = value

    def _reference(
        self, reference: Any, where: str, alone: bool, within: tuple[str, ...]
    ) -> str:
        target = target_of(self._root, reference, where)
        if reference in within:
            raise unsatisfied(
                where, say(f"{reference} is itself", f"{reference} 即自身")
            )
        key = (reference, alone)
        if key not in self._names:
            name = self._names[key] = f"d{len(self._names)}"
            self._definitions[name] = self._schema(
                target, reference, alone, (*within, reference)
            )
        return f"#/$defs/{self._names[key]}"

    def _names_of_properties(
        self, prepared: dict[str, Any], schema: Mapping[str, Any], where: str
    ) -> None:
        """propertyNames as the properties that there may be."""
        names = schema["propertyNames"]
        others = {"properties", "patternProperties"} & set(schema)
        rest = set(names) - ANNOTATIONS - {"type"} if isinstance(names, dict) else set()
        if others or rest not in ({"pattern"}, {"enum"}, {"const"}):
            raise unsupported(where, "propertyNames", names)
        beside = pointer(where.rpartition("/")[0], "additionalProperties")
        value = schema.get("additionalProperties", True)
        inner = self._schema(value, beside, True, ())
        if rest == {"pattern"}:
            prepared["patternProperties"] = {names["pattern"]: inner}
        else:
            named = names.get("enum", [names.get("const")])
            prepared["properties"] = {str(name): inner for name in named}
        prepared["additionalProperties"] = False

    def _pattern(self, prepared: dict[str, Any], pattern: Any) -> None:
        lookahead = (
            LEADING_LOOKAHEAD.match(pattern) if isinstance(pattern, str) else None
        )
        if lookahead is None:
            prepared["pattern"] = pattern
            return
        prepared["pattern"] = "^" + pattern[lookahead.end() :]
        self._also(prepared, {"pattern": f"[^{lookahead[1]}]"})

    def _format(self, prepared: dict[str, Any], name: Any, where: str) -> None:
        if name in ANY_TEXT:
            return
        if name in NAMED_FORMATS:
            prepared["format"] = name
        elif name in FORMATS:
            self._also(prepared, {"pattern": f"^{FORMATS[name]}$"})
        else:
            raise unsupported(where, "format", name)

    def _also(self, prepared: dict[str, Any], more: Mapping[str, Any]) -> None:
        prepared["allOf"] = [*prepared.get("allOf", ()), more]

    def _close(self, prepared: dict[str, Any], schema: Mapping[str, Any]) -> None:
        """Allow no other properties where none are mentioned: a model would write them
        to the end of its answer.
        """
        names = self._declared(schema)
        if names is None or "minProperties" in schema:
            return
        properties = prepared.setdefault("properties", {})
        for name in names:
            properties.setdefault(name, True)
        prepared["additionalProperties"] = False

    def _declared(
        self, schema: Any, within: tuple[str, ...] = ()
    ) -> dict[str, None] | None:
        """The names that a schema and what it is combined with declare.

        None where it declares none, or says itself what others may be.
        """
        others = {"additionalProperties", "patternProperties", "propertyNames"}
        if not isinstance(schema, Mapping) or set(schema) & (
            others | {"anyOf", "oneOf"}
        ):
            return None
        names = dict.fromkeys(schema.get("properties", ()))
        combined = list(schema.get("allOf", ()))
        reference = schema.get("$ref")
        if reference is not None and reference not in within:
            within = (*within, reference)
            combined.append(target_of(self._root, reference, "#"))
        if combined and not (names or len(combined) > 1):
            return None
        for inner in combined:
            inner_names = self._declared(inner, within)
            if inner_names is None:
                return None
            names.update(inner_names)
        return names or None


def _types(schema: Mapping[str, Any]) -> list[Any]:
    """The types that a schema names."""
    kind = schema.get("type")
    return kind if isinstance(kind, list) else [kind]


def _bound(prepared: dict[str, Any]) -> None:
    """Give a number the bounds that it lacks."""
    low = prepared.get("exclusiveMinimum", prepared.get("minimum"))
    high = prepared.get("exclusiveMaximum", prepared.get("maximum"))
    if low is None and (high is None or _above_smallest(high)):
        prepared["minimum"] = -LARGEST_NUMBER
    if high is None and (low is None or _below_largest(low)):
        prepared["maximum"] = LARGEST_NUMBER


def _above_smallest(value: Any) -> bool:
    return isinstance(value, int | float) and value > -LARGEST_NUMBER


def _below_largest(value: Any) -> bool:
    return isinstance(value, int | float) and value < LARGEST_NUMBER


def _listed(value: Any, where: str) -> list[tuple[int, Any]]:
    """The subschemas of a list, numbered. Raises BadInput for none."""
    if not isinstance(value, list) or not value:
        raise BadInput(
            say(
                f"The JSON schema at {where} is not a list of schemas: {value!r}.",
                f"JSON schema 在 {where} 处不是 schema 列表：{value!r}。",
            ),
            say("Give at least one.", "请至少给出一个。"),
            field="json_schema",
        )
    return list(enumerate(value))


def parts_in_order(prepared: Prepared) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each subschema as one of its own, the innermost first."""
    for where, part in prepared.parts:
        yield where, prepared.with_definitions(part)
