"""A function or a dataclass as a list of settings: key, type, default, help."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    get_args,
    get_origin,
    get_type_hints,
)

from miaobi.core.config.types import accepts_text, choices, describe, without_none
from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Target = Callable[..., Any] | type
"""A command (a function) or a dataclass."""
BOUND_ERRORS = {
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "finite_number",
    "literal_error",
}
"""Errors of pydantic that the description of the type says better."""


class flat:
    """Marks a dataclass parameter whose fields become options without a prefix."""


@dataclass(frozen=True)
class Former:
    """Marks a field that had another name: `Annotated[int, Former("size", double, "0.3")]`.

    What miaobi wrote itself under the earlier name is always read. A person who uses it
    is told so, and refused from the version `until`; it is never written.
    """

    name: str
    """The field's earlier name."""
    convert: Callable[[Any], Any]
    """Return the field's value for what stands under the earlier name."""
    until: str
    """The first version that refuses it, such as "0.3"; the second after the one that
    renamed it.
    """


class FurtherOptions(NamedTuple):
    """Options of one command line that the function's signature does not name."""

    note: str
    """What they depend on, for the help."""
    options: list[Option]


@dataclass(frozen=True)
class Further:
    """Marks the parameter that gets all settings which are no parameters themselves, as
    a mapping by key: those that the command line sets.
    """

    options: Callable[[Sequence[str]], FurtherOptions]
    """Returns the options that there are with this command line."""


@dataclass(frozen=True)
class Noted:
    """Marks a parameter of whose value the help has more to say, where it is set."""

    note: Callable[[str], str]
    """Returns what to say of this value."""


@dataclass(frozen=True)
class Option:
    """One setting: its key as in YAML ("train.max_steps"), its type, and whether it is
    positional on the command line.
    """

    key: str
    type: Any
    default: Any = MISSING
    help: str = ""
    positional: bool = False

    @property
    def repeated(self) -> bool:
        """Whether it may be given several times to make a list: `--stop a --stop b`."""
        inner = without_none(self.type)
        if get_origin(inner) is tuple:
            return get_args(inner)[-1] is Ellipsis
        return get_origin(inner) is list

    @property
    def numbers(self) -> bool:
        """Whether it is a list of numbers: `--weights 0.7 0.3` as well."""
        if not self.repeated:
            return False
        item = get_args(without_none(self.type))[0]
        return without_none(item) in (int, float)

    @property
    def switch(self) -> bool:
        """Whether its name alone means true: `--dry-run`."""
        return without_none(self.type) is bool

    @property
    def each(self) -> type | None:
        """The dataclass that every name of a mapping stands for; None for all other settings."""
        return each(self.type)

    @property
    def former(self) -> Former | None:
        """The earlier name of the setting; None where it had none."""
        metadata = get_args(self.type) if get_origin(self.type) is Annotated else ()
        return next((item for item in metadata if isinstance(item, Former)), None)

    @property
    def former_key(self) -> str | None:
        """The earlier key; None where there was none."""
        if self.former is None:
            return None
        section, dot, _ = self.key.rpartition(".")
        return f"{section}{dot}{self.former.name}"

    @property
    def name(self) -> str:
        """The option as it is written on the command line."""
        return f"--{self.key.replace('_', '-')}"

    def convert(self, value: Any, origin: str = "", strict: bool = False) -> Any:
        """Return `value` as `self.type`, within its bounds. Raises BadInput.

        Args:
            value: text from the command line, or a value from YAML, Python or JSON.
            origin: where it comes from, for the error: a file, or the option as it was written.
            strict: take no text for a number, and no number for a switch.
        """
        from pydantic import ValidationError

        if isinstance(value, Path) and without_none(self.type) is str:
            value = str(value)
        if isinstance(value, str) and not strict:
            value = self._read(value)
        try:
            return self._adapter().validate_python(value, strict=strict)
        except ValidationError as error:
            problem = error.errors()[0]
            reason = problem["msg"].rstrip(".")
            if problem["type"] in BOUND_ERRORS:
                reason = ""
            raise self._refusal(value, origin, reason) from None

    def _read(self, text: str) -> Any:
        """Text as what pydantic does not read by itself: a list, an object, a choice
        that is a number.
        """
        if text[:1] in ("[", "{") and not accepts_text(self.type):
            # Where it is no JSON after all, pydantic says what was expected.
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(text)
        by_text = {str(item): item for item in choices(self.type)}
        return by_text.get(text, text)

    def _refusal(self, value: Any, origin: str, reason: str) -> BadInput:
        """The error for a value that the type does not allow."""
        name = self.key
        if origin.startswith("--"):
            name = origin
        elif origin:
            name = f"{origin}: {self.key}"
        written = _as_written(value) if origin.startswith("--") else repr(value)
        problem = say(f"{name} is {written}.", f"{name} 的值为 {written}。")
        if reason:
            problem += say(f" {reason}.", f"{reason}。")
        return BadInput(problem, self._remedy(value))

    def _remedy(self, value: Any) -> str:
        """What the setting takes, its default, and the choices that are near."""
        kind = describe(self.type)
        remedy = say("It takes ", "可用的值：") + kind + say(".", "。")
        if self.default not in (MISSING, None, "", (), []):
            remedy += say(
                f" The default is {self.default}.", f"默认值为 {self.default}。"
            )
        names = [item for item in choices(self.type) if isinstance(item, str)]
        if names and isinstance(value, str):
            remedy = nearest(value, names) + " " + remedy
        return remedy

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of its values, with its help."""
        described = self._adapter().json_schema()
        if self.help:
            described["description"] = self.help
        return described

    def _adapter(self) -> TypeAdapter[Any]:
        from pydantic import ConfigDict, TypeAdapter

        return TypeAdapter(self.type, config=ConfigDict(allow_inf_nan=False))


def _as_written(value: Any) -> str:
    """A value of the command line: numbers as they are, other text in quotes."""
    if isinstance(value, list):
        return " ".join(map(_as_written, value))
    try:
        float(value)
    except ValueError:
        return repr(value)
    return str(value)


def options(target: Target, prefix: str = "") -> list[Option]:
    """Return the settings of a function or a dataclass, with those of dataclasses inside it."""
    hints = get_type_hints(target, include_extras=True)
    help_texts = _help_texts(target)
    settings = list[Option]()
    for name, parameter in inspect.signature(target).parameters.items():
        hint = hints.get(name, Any)
        inner = dataclass_of(hint)
        if inner is not None:
            settings += options(inner, inner_prefix(hint, prefix, name))
        elif not _is_callback(parameter) and further_of(hint) is None:
            settings.append(
                Option(
                    key=prefix + name.rstrip("_"),
                    type=_with_metadata(target, name, hint),
                    default=_default(target, parameter),
                    help=help_texts.get(name, ""),
                    positional=not is_dataclass(target)
                    and parameter.kind is parameter.POSITIONAL_OR_KEYWORD,
                )
            )
    return settings


def further_of(hint: Any) -> Further | None:
    """Return the mark of a parameter for further settings; None for all others."""
    if get_origin(hint) is not Annotated:
        return None
    marks = [item for item in get_args(hint) if isinstance(item, Further)]
    return marks[0] if marks else None


def noted_of(hint: Any) -> Noted | None:
    """Return the mark of a parameter that the help has a note on; None for others."""
    if get_origin(hint) is not Annotated:
        return None
    marks = [item for item in get_args(hint) if isinstance(item, Noted)]
    return marks[0] if marks else None


def dataclass_of(hint: Any) -> type | None:
    """Return the dataclass that a parameter spreads into; None where it is one setting."""
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return inner if isinstance(inner, type) and is_dataclass(inner) else None


def inner_prefix(hint: Any, prefix: str, name: str) -> str:
    """Return the prefix of the settings of a dataclass parameter."""
    is_flat = get_origin(hint) is Annotated and flat in get_args(hint)
    return prefix if is_flat else f"{prefix}{name}."


def each(hint: Any) -> type | None:
    """Return the dataclass D of a type `dict[str, D]`; None for all other types."""
    if get_origin(hint) is not dict:
        return None
    value = get_args(hint)[1]
    return value if isinstance(value, type) and is_dataclass(value) else None


def _is_callback(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is a function to call back, for Python callers only."""
    default = parameter.default
    return callable(default) and not isinstance(default, type)


def _with_metadata(target: Target, name: str, hint: Any) -> Any:
    """The type of a field, with the range or the choices that its metadata names.

    Requests have their bounds there, because they check them without pydantic.
    """
    if not isinstance(target, type) or not is_dataclass(target):
        return hint
    metadata = _field(target, name).metadata
    if "range" in metadata:
        from annotated_types import Ge, Le

        low, high = metadata["range"]
        return Annotated[hint, Ge(low), Le(high)]
    if "choices" in metadata:
        literal: Any = Literal
        return literal[metadata["choices"]] | None
    return hint


def _field(target: type, name: str) -> dataclasses.Field[Any]:
    return next(item for item in dataclasses.fields(target) if item.name == name)


def _default(target: Target, parameter: inspect.Parameter) -> Any:
    if not isinstance(target, type) or not is_dataclass(target):
        absent = parameter.default is parameter.empty
        return MISSING if absent else parameter.default
    field = _field(target, parameter.name)
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _help_texts(target: Target) -> dict[str, str]:
    """What the docstrings say of each parameter; a dataclass describes each field by
    the string under it.
    """
    from docstring_parser import parse_from_object

    sources: list[Any] = [target]
    if isinstance(target, type):
        sources = [base for base in reversed(target.__mro__) if is_dataclass(base)]
    texts = dict[str, str]()
    for source in sources:
        for item in parse_from_object(source).params:
            texts[item.arg_name] = " ".join((item.description or "").split())
    return texts


def expand_mappings(
    opts: Sequence[Option], settings: Mapping[str, Any], origin: str = ""
) -> list[Option]:
    """Return the options with every mapping of dataclasses spread over its names.

    Args:
        opts: as `options` returns them.
        settings: nested, as read from a file; they give the names.
        origin: the file, for errors.

    Raises BadInput for names or values that a mapping cannot have.
    """
    expanded = list[Option]()
    for option in opts:
        if option.each is None:
            expanded.append(option)
            continue
        for name in _names(option, settings, origin):
            expanded += options(option.each, f"{option.key}.{name}.")
    return expanded


def _names(option: Option, settings: Mapping[str, Any], origin: str) -> list[str]:
    """The names that the settings give to a mapping of dataclasses."""
    inside: Any = settings
    for part in option.key.split("."):
        inside = inside.get(part, {}) if isinstance(inside, Mapping) else {}
    if not isinstance(inside, Mapping):
        raise _misspelt(option, option.key, inside, origin)
    for name, value in inside.items():
        if not isinstance(value, Mapping) or not re.fullmatch(r"\w+", str(name)):
            raise _misspelt(option, f"{option.key}.{name}", value, origin)
    return [str(name) for name in inside]


def _misspelt(option: Option, key: str, value: Any, origin: str) -> BadInput:
    where = f"{origin}: " if origin else ""
    return BadInput(
        say(f"{where}{key} is {value!r}.", f"{where}{key} 的值为 {value!r}。"),
        spelling(option),
    )


def spelling(option: Option) -> str:
    """How a mapping of dataclasses is written in a recipe."""
    assert option.each is not None
    fields = ", ".join(inner.key for inner in options(option.each))
    return say(
        f"Write into the recipe {option.key}: {{NAME: {{...}}}} with {fields}; a name has letters, digits and _.",
        f"请在配方中写 {option.key}: {{名称: {{...}}}}，可用 {fields}；名称由字母、数字与 _ 组成。",
    )
