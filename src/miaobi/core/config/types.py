"""What a type allows, in words: its kind, its choices, its bounds."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from miaobi.core.language import say

METAVARS = {
    int: "INT",
    float: "FLOAT",
    str: "TEXT",
    Path: "PATH",
    bool: "true|false",
}
"""How a type is written in the help."""
CONSTRAINTS = (("at_least", "ge"), ("above", "gt"), ("at_most", "le"), ("below", "lt"))
"""Bounds by their names in annotated_types, which pydantic understands."""


@dataclass(frozen=True)
class Bounds:
    """The numbers that a type allows; None where it has no such bound."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        """In words: "at least 0, below 1"; empty where there is no bound."""
        parts = {
            say("at least", "至少"): self.at_least,
            say("above", "大于"): self.above,
            say("at most", "至多"): self.at_most,
            say("below", "小于"): self.below,
        }
        listed = [
            f"{phrase} {_number(bound)}"
            for phrase, bound in parts.items()
            if bound is not None
        ]
        return say(", ", "，").join(listed)


def _number(value: float) -> str:
    """A bound as people write it: 1000000, 0.5, 1e-09."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def bounds(hint: Any) -> Bounds:
    """Return the bounds of a number, or of each number of a list."""
    limits = dict[str, float]()
    for item in _constraints(hint):
        for name, attribute in CONSTRAINTS:
            value = getattr(item, attribute, None)
            if value is not None:
                limits[name] = value
    return Bounds(**limits)


def _constraints(hint: Any) -> Iterator[Any]:
    """Yield what stands beside the type in `Annotated`, unions and lists inside too."""
    if get_origin(hint) is Annotated:
        inner, *items = get_args(hint)
        yield from _constraints(inner)
        for item in items:
            # Field(ge=1) holds a list of annotated_types.
            yield from getattr(item, "metadata", (item,))
    elif get_origin(hint) in (Union, types.UnionType, list, tuple):
        for inner in get_args(hint):
            yield from _constraints(inner)


def without_none(hint: Any) -> Any:
    """Return the type inside `X | None` or `Annotated[X, ...]`."""
    if get_origin(hint) is Annotated:
        return without_none(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        inner = [item for item in get_args(hint) if item is not type(None)]
        return without_none(inner[0]) if len(inner) == 1 else hint
    return hint


def accepts_text(hint: Any) -> bool:
    """Return whether any text is a value of this type."""
    return without_none(hint) in (str, Path, Any)


def choices(hint: Any) -> tuple[Any, ...]:
    """Return the values of a `Literal`; none for all other types."""
    inner = without_none(hint)
    return get_args(inner) if get_origin(inner) is Literal else ()


def describe(hint: Any) -> str:
    """Return a type in words: `int, at least 1`, `cosine | linear`, `list of str`."""
    kind = _kind(hint)
    limits = str(bounds(hint))
    return kind + say(", ", "，") + limits if limits else kind


def _kind(hint: Any) -> str:
    inner = without_none(hint)
    if listed := choices(inner):
        return " | ".join(str(item) for item in listed)
    if get_origin(inner) in (list, tuple) and get_args(inner):
        return f"list of {_kind(get_args(inner)[0])}"
    if get_origin(inner) in (Union, types.UnionType):
        return " | ".join(_kind(item) for item in get_args(inner))
    if get_origin(inner) is None and isinstance(inner, type):
        return inner.__name__
    return str(inner).replace("typing.", "")


def metavar(hint: Any) -> str:
    """Return a type as the help writes the value: `INT`, `cosine|linear`, `TEXT ...`."""
    inner = without_none(hint)
    if listed := choices(inner):
        return _alternatives(str(item) for item in listed)
    origin = get_origin(inner)
    items = get_args(inner)
    if origin in (Union, types.UnionType):
        return _alternatives(metavar(item) for item in items if item is not type(None))
    if origin is list or (origin is tuple and items[-1] is Ellipsis):
        return f"{metavar(items[0])} ..."
    if origin is tuple:
        return f"[{','.join(metavar(item) for item in items)}]"
    if len(items) == 2:
        return f"{{{metavar(items[0])}: {metavar(items[1])}}}"
    return METAVARS.get(inner, "VALUE")


def _alternatives(listed: Iterable[str]) -> str:
    return "|".join(listed)
