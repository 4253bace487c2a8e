"""From pydantic's errors about a body to the one that its sender needs.

Where a field may have one of several shapes, pydantic reports why each of them does not
fit, under the names of its own types. The shape that was meant is the one that fits
best; its first error is what is told, under the keys that the body has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miaobi.core.language import say

Step = tuple[str, str | int]
"""("key", a key or an index of the body) or ("shape", pydantic's name of a shape)."""
PREFIXES = ("Value error, ", "Assertion failed, ")
OUGHT = "Input should be "


@dataclass(frozen=True)
class Misfit:
    """Why one shape does not fit."""

    steps: tuple[Step, ...]
    message: str
    code: str

    @property
    def keys(self) -> list[str]:
        return [str(name) for kind, name in self.steps if kind == "key"]


def meant(errors: Sequence[Mapping[str, Any]], body: Any) -> Misfit:
    """Return the first error of the shapes that were meant.

    Args:
        errors: as pydantic lists them, with FastAPI's "body", "query" ... in front.
        body: as it was read from JSON.
    """
    misfits = [_misfit(error, body) for error in errors]
    position = 0
    while len(misfits) > 1:
        groups = _grouped(misfits, position)
        if None in groups:
            return groups[None][0]
        shapes = [group for step, group in groups.items() if _is_shape(step)]
        if len(shapes) < 2:
            misfits = next(iter(groups.values()))
        elif all(_is_other_type(group, position) for group in shapes):
            return _any_of([group[0] for group in shapes])
        else:
            distances = [_distance(group, position) for group in shapes]
            misfits = shapes[distances.index(min(distances))]
        position += 1
    return misfits[0]


def _grouped(
    misfits: Sequence[Misfit], position: int
) -> dict[Step | None, list[Misfit]]:
    """Return errors by their step at a position; None for those that end before it."""
    groups = dict[Step | None, list[Misfit]]()
    for misfit in misfits:
        step = None
        if position < len(misfit.steps):
            step = misfit.steps[position]
        groups.setdefault(step, []).append(misfit)
    return groups


def _misfit(error: Mapping[str, Any], body: Any) -> Misfit:
    """Tell the keys of an error's place from the names of shapes, by the body."""
    place = list(error.get("loc", ()))
    source = place.pop(0) if place else ""
    value: Any = body if source == "body" else None
    steps = list[Step]()
    for number, part in enumerate(place):
        is_last = number == len(place) - 1
        if _has(value, part):
            value = value[part]
        elif source == "body" and not (is_last and error["type"] == "missing"):
            steps.append(("shape", part))
            continue
        steps.append(("key", part))
    message = str(error.get("msg", ""))
    for prefix in PREFIXES:
        message = message.removeprefix(prefix)
    return Misfit(tuple(steps), message, str(error.get("type", "")))


def _has(value: Any, part: str | int) -> bool:
    """Whether an object has this key, or an array this index."""
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _is_shape(step: Step | None) -> bool:
    return step is not None and step[0] == "shape"


def _is_other_type(group: Sequence[Misfit], position: int) -> bool:
    """Whether a shape fails as a whole: the value is of another JSON type."""
    return any(len(misfit.steps) == position + 1 for misfit in group)


def _distance(group: Sequence[Misfit], position: int) -> tuple[bool, bool, int]:
    """How far a shape is from what was sent."""
    another_kind = any(
        misfit.code == "literal_error" and len(misfit.steps) == position + 2
        for misfit in group
    )
    return _is_other_type(group, position), another_kind, len(group)


def _any_of(misfits: Sequence[Misfit]) -> Misfit:
    """Return one error for a value that is of none of the types."""
    wanted = dict.fromkeys(
        misfit.message.removeprefix(OUGHT)
        for misfit in misfits
        if misfit.message.startswith(OUGHT)
    )
    first = misfits[0]
    if len(wanted) < 2:
        return first
    listed = say(" or ", " 或 ").join(wanted)
    return Misfit(first.steps, f"{OUGHT}{listed}", first.code)
