"""The command line: its text becomes typed settings here and nowhere else; the help.

Options may be written with hyphens or underscores, as `--key value` or `--key=value`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, NamedTuple, get_type_hints

from miaobi.core.config.options import (
    FurtherOptions,
    Option,
    Target,
    further_of,
    noted_of,
    options,
)
from miaobi.core.config.types import bounds, describe, metavar
from miaobi.core.config.values import (
    build,
    check_key,
    find_option,
    present,
    present_key,
    resolve,
)
from miaobi.core.errors import BadInput
from miaobi.core.language import say


class Argument(NamedTuple):
    """One setting on the command line, still as text; a bare switch is True."""

    key: str
    written: str
    """The option as it stands there."""
    value: str | bool


def arguments(function: Target, argv: Sequence[str]) -> dict[str, Any]:
    """Return the keyword arguments of a command for a command line. Raises BadInput."""
    own = options(function)
    own_keys = {option.key: option for option in own}
    opts = own
    if any(item.key not in own_keys for item in _arguments(argv, own_keys, True)):
        opts = [*own, *further(function, argv).options]
    values = parse(argv, opts)
    own_values = {key: value for key, value in values.items() if key in own_keys}
    resolved = resolve(own, overrides=own_values)
    return build(function, {**values, **resolved})


def further(function: Target, argv: Sequence[str]) -> FurtherOptions:
    """Return the options that the signature of a command does not name."""
    hints = get_type_hints(function, include_extras=True)
    for hint in hints.values():
        mark = further_of(hint)
        if mark is not None:
            return mark.options(argv)
    return FurtherOptions("", [])


def note(function: Target, argv: Sequence[str]) -> str:
    """Return what the help says of the values on this command line; "" for nothing."""
    by_key = {option.key: option for option in options(function)}
    for name, hint in get_type_hints(function, include_extras=True).items():
        mark = noted_of(hint)
        if mark is not None:
            value = parse(argv, [by_key[name]], others=True).get(name)
            return mark.note(value) if value else ""
    return ""


def parse(
    argv: Sequence[str], opts: Sequence[Option], *, others: bool = False
) -> dict[str, Any]:
    """Return what the command line sets, typed and checked, by key.

    Args:
        argv: the command line.
        opts: the options there are; of two with one key the first counts.
        others: leave out what these options do not name, for a first look at those
            that decide which others there are.

    Raises BadInput for an unknown option (with the nearest right one), an argument too
    many, an option without a value, a value of the wrong type or out of bounds.
    """
    by_key = dict[str, Option]()
    for option in opts:
        if option.each is None:
            by_key.setdefault(option.key, option)
    texts = dict[str, Any]()
    written = dict[str, str]()
    for argument in _arguments(argv, by_key, others):
        key, value = argument.key, argument.value
        name = present_key(key, by_key)
        if others and name not in by_key:
            continue
        option = find_option(name, by_key, opts)
        is_json = isinstance(value, str) and value[:1] == "["
        if option.repeated and not is_json:
            texts.setdefault(key, []).append(value)
        else:
            texts[key] = value
        written[key] = argument.written
    values = dict[str, Any]()
    for key, value in texts.items():
        check_key(key, by_key, written[key])
        name, value = present(key, value, by_key, written[key])
        values[name] = by_key[name].convert(value, written[key])
    return values


def _arguments(
    argv: Sequence[str], by_key: Mapping[str, Option], others: bool
) -> Iterator[Argument]:
    """Yield the settings of a command line. Raises BadInput for an argument too many,
    and for an option without a value.
    """
    positional = [option.key for option in by_key.values() if option.positional]
    rest = deque(argv)
    while rest:
        argument = rest.popleft()
        if not argument.startswith("--"):
            if positional:
                yield Argument(_take(positional, by_key), "", argument)
            elif not others:
                raise _too_many(argument)
            continue
        name, equals, value = argument.partition("=")
        key = name[2:].replace("-", "_")
        option = by_key.get(present_key(key, by_key))
        if equals:
            yield Argument(key, name, value)
        elif option is None:
            has_value = rest and not rest[0].startswith("--")
            yield Argument(key, name, rest.popleft() if has_value else "")
        elif option.switch and not _begins_with_bool(rest):
            yield Argument(key, name, True)
        elif not rest:
            kind = describe(option.type)
            raise BadInput(
                say(f"{name} needs a value.", f"{name} 需要一个值。"),
                say("It takes ", "可用的值：") + kind + say(".", "。"),
            )
        else:
            yield Argument(key, name, rest.popleft())
            while rest and option.numbers and _is_number(rest[0]):
                yield Argument(key, name, rest.popleft())


def _take(positional: list[str], by_key: Mapping[str, Option]) -> str:
    """Take the next positional key; one of a list stays."""
    key = positional[0]
    if not by_key[key].repeated:
        positional.pop(0)
    return key


def _too_many(argument: str) -> BadInput:
    return BadInput(
        say(f"Unexpected argument {argument!r}.", f"多余的参数 {argument!r}。"),
        say(
            "Options start with --; quote values that have spaces.",
            "选项以 -- 开头；含空格的值请加引号。",
        ),
    )


def _begins_with_bool(arguments: Sequence[str]) -> bool:
    return bool(arguments) and arguments[0].lower() in ("true", "false")


def _is_number(argument: str) -> bool:
    try:
        float(argument)
    except ValueError:
        return False
    return True


def usage(
    prog: str,
    description: str,
    opts: Sequence[Option],
    further: FurtherOptions | None = None,
) -> str:
    """Return the help of a command: every option with its type, default and bounds.

    Args:
        prog: the command, as it is written.
        description: what it does.
        opts: its options.
        further: those that depend on the rest of the command line.
    """
    positional = " ".join(
        _usage_of_positional(item) for item in opts if item.positional
    )
    options_here = f"[--{say('option value', '选项 值')} ...]"
    lines = [
        f"{prog} {positional} {options_here}".replace("  ", " "),
        "",
        description,
        "",
        *_usage_of_options(opts),
    ]
    if further is not None and further.note:
        lines += ["", further.note, "", *_usage_of_options(further.options)]
    return "\n".join(lines)


def _usage_of_options(opts: Sequence[Option]) -> Iterator[str]:
    for option in opts:
        if option.each is None:
            yield from _usage_of_option(option)
            continue
        for inner in options(option.each, f"{option.key}.NAME."):
            yield from _usage_of_option(inner)


def _usage_of_positional(option: Option) -> str:
    name = option.key.upper()
    return name if option.default is MISSING else f"[{name}]"


def _usage_of_option(option: Option) -> list[str]:
    """Name and type; under them the help, the default and the bounds."""
    import textwrap

    if option.positional:
        header = option.key.upper()
    elif option.switch and not option.default:
        header = option.name
    else:
        header = f"{option.name} {metavar(option.type)}"
    facts = _facts(option)
    text = f"{option.help} {facts}".strip()
    indent = " " * 8
    return [
        f"  {header}",
        *textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent),
    ]


def _facts(option: Option) -> str:
    """The default and the bounds in brackets; empty where there are none."""
    facts = list[str]()
    if option.default is MISSING and not option.positional:
        facts.append(say("required", "必填"))
    if _is_worth_showing(option.default):
        default = _written(option.default)
        facts.append(say(f"default {default}", f"默认 {default}"))
    limits = str(bounds(option.type))
    if limits and option.repeated:
        limits = say(f"each {limits}", f"每个{limits}")
    if limits:
        facts.append(limits)
    listed = say("; ", "；").join(facts)
    return say(f"({listed})", f"（{listed}）") if listed else ""


def _is_worth_showing(default: Any) -> bool:
    """Whether a default says more than that there is nothing, or that a switch is off."""
    if default is MISSING or default is None or default is False:
        return False
    return default not in ("", (), [], {})


def _written(value: Any) -> str:
    """A default as it would stand on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(_written, value))
    return str(value)
