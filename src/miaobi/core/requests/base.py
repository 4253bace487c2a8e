"""What every request has, how its fields are checked, compared and recorded.

Knows no kind of request; each has a file beside this one.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from miaobi.core.artifacts import Artifact
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say


def between(low: float, high: float, default: Any) -> Any:
    """A field whose value, where it has one, lies in [low, high]."""
    return field(default=default, metadata={"range": (low, high)})


def one_of(*values: int) -> Any:
    """A field whose value, where it has one, is one of these."""
    return field(default=None, metadata={"choices": values})


@dataclass(frozen=True, kw_only=True)
class Request:
    """What all requests have.

    A kind of request is a frozen dataclass, registered in `requests`. It says what it
    makes (`makes`, `answer`) and, where a model can be asked with more than fields, how
    a request comes of it (`of`).
    """

    makes: ClassVar[str] = ""
    """The modality of its answers: "text", "image", "embedding"."""
    answer: ClassVar[type[Artifact]]
    """The class of its answers."""
    example: ClassVar[str] = ""
    """The options that its command cannot do without, as help shows them."""
    client_methods: ClassVar[str] = ""
    """The methods of OpenAI's Python client that make such a request."""
    asks: ClassVar[frozenset[str]] = frozenset()
    """Fields that say what to answer, not how."""
    n: int = between(1, 128, 1)
    """How many answers to make."""
    seed: int | None = between(0, 2**63 - 1, None)
    """Same seed, same request, same engine: same answer. Drawn at random by default."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                _check_range(item, value)
                _check_choices(item, value)

    @classmethod
    def of(cls, ask: Any, model: Any, *, raw: bool = False, **controls: Any) -> Self:
        """Return the request for what a caller asks a model with.

        Args:
            ask: What to answer; a kind whose fields say all takes None.
            model: The open model (`engines.model.Model`), for what depends on it.
            raw: Leave a prompt as it is.
            controls: Fields of the request.

        Raises Unsupported for what this kind cannot be asked with.
        """
        if raw or ask is not None:
            raise cls.wrong_ask(ask, model.name)
        return cls(**controls)

    @classmethod
    def wrong_ask(cls, ask: Any, model: str) -> Unsupported:
        """Return the error for an ask that this kind of request does not take."""
        kind = type(ask).__name__
        return Unsupported(
            say(
                f"{model} makes {cls.makes}; it cannot be asked with {kind} or raw.",
                f"{model} 生成 {cls.makes}，不能用 {kind} 或 raw 提问。",
            ),
            say(
                f"Ask with a {cls.__name__}.",
                f"请用 {cls.__name__} 提问。",
            ),
        )

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        changes = dict[str, Any]()
        for item in fields(self):
            value = getattr(self, item.name)
            if not same(value, _default(item)):
                changes[item.name] = value
        return changes

    def controls(self) -> dict[str, Any]:
        """Return the changed fields that say how to answer, without the seed."""
        return {
            name: value
            for name, value in self.changed().items()
            if name != "seed" and name not in self.asks
        }

    def parameters(self) -> dict[str, Any]:
        """Return what the facts of an answer record of the request."""
        return {name: recorded(value) for name, value in self.controls().items()}

    def refuse(self, first: str, second: str) -> None:
        """Raise BadInput for two settings that contradict each other."""
        raise BadInput(
            say(
                f"{first} and {second} cannot be used together.",
                f"{first} 与 {second} 不能同时使用。",
            ),
            say(
                f"Leave one of them out: {first} or {second}.",
                f"请去掉其中一个：{first} 或 {second}。",
            ),
            field=second,
        )


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default


def _check_range(item: Field[Any], value: Any) -> None:
    if "range" not in item.metadata:
        return
    low, high = item.metadata["range"]
    if not low <= value <= high:
        raise BadInput(
            say(
                f"{item.name} is {value}, outside {low:g} to {high:g}.",
                f"{item.name} 为 {value}，应在 {low:g} 与 {high:g} 之间。",
            ),
            say("Give a value within the range.", "请给出范围内的值。"),
            field=item.name,
        )


def _check_choices(item: Field[Any], value: Any) -> None:
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        listed = ", ".join(map(str, choices))
        raise BadInput(
            say(f"{item.name} is {value}.", f"{item.name} 为 {value}。"),
            say(f"It can be {listed}.", f"可选的值：{listed}。"),
            field=item.name,
        )


def same(first: Any, second: Any) -> bool:
    """Return whether two values are equal; pixels compare by their bytes."""
    if not (is_pixels(first) or is_pixels(second)):
        return bool(first == second)
    if not (is_pixels(first) and is_pixels(second)):
        return False
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return cast(bool, first.tobytes() == second.tobytes())


def same_fields(first: Any, second: Any) -> bool:
    """Whether two requests of one kind are equal, field by field."""
    names = [item.name for item in fields(first)]
    return all(same(getattr(first, name), getattr(second, name)) for name in names)


def recorded(value: Any) -> Any:
    """Return a setting as records have it: pixels and picture files as a short SHA-256."""
    if is_pixels(value):
        return _digest(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    if isinstance(value, Path):
        return _digest(value.read_bytes()) if value.is_file() else str(value)
    return value


def _digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()[:16]}"


def is_pixels(value: Any) -> bool:
    return hasattr(value, "__array_interface__")
