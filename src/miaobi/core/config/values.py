"""Settings by key: defaults, a file over them, typed settings over both; and the
arguments that they make.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, is_dataclass
from typing import Any, ParamSpec, TypeVar, get_type_hints

from miaobi.core.config.options import (
    Option,
    Target,
    dataclass_of,
    each,
    expand_mappings,
    further_of,
    inner_prefix,
    options,
    spelling,
)
from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import joined, say
from miaobi.core.version import __version__

P = ParamSpec("P")
T = TypeVar("T")


def flatten(
    settings: Mapping[str, Any], by_key: Mapping[str, Option], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield nested mappings as (dotted key, value), earlier keys as the present ones.

    Args:
        settings: nested mappings.
        by_key: the options; a mapping under one of their keys is that option's value.
        prefix: of every key.
    """
    for key, value in _as_written(settings, by_key, prefix):
        yield present(key, value, by_key)


def _as_written(
    settings: Mapping[str, Any], by_key: Mapping[str, Option], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """As `flatten`, with earlier keys as they stand there."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in by_key:
            yield from _as_written(value, by_key, f"{key}.")
        else:
            yield key, value


def present(
    key: str, value: Any, by_key: Mapping[str, Option], origin: str = ""
) -> tuple[str, Any]:
    """Return a key and its value, an earlier key as the present one.

    Raises BadInput for a value of the wrong type under an earlier key.
    """
    option = _renamed(key, by_key)
    if option is None or option.former is None:
        return key, value
    return option.key, option.former.convert(option.convert(value, origin))


def present_key(key: str, by_key: Mapping[str, Option]) -> str:
    """Return the present key of an earlier one; any other as it is."""
    option = _renamed(key, by_key)
    return key if option is None else option.key


def check_key(key: str, by_key: Mapping[str, Option], written: str) -> None:
    """Write to stderr, once in a process, that an earlier key has another name.

    Args:
        key: dotted.
        by_key: the options.
        written: the key with its origin, or the option of the command line.

    Raises BadInput from the version on that reads it no longer.
    """
    option = _renamed(key, by_key)
    if option is None or option.former is None:
        return
    until = option.former.until
    name = option.name if written.startswith("--") else option.key
    remedy = say(f"Write {name}.", f"请写 {name}。")
    if _numbers(__version__) >= _numbers(until):
        problem = say(
            f"{written} has another name since miaobi {until}.",
            f"自 miaobi {until} 起，{written} 已改名。",
        )
        raise BadInput(problem, remedy)
    _note(
        say(
            f"{written} is an earlier name and will be refused from miaobi {until} on. ",
            f"{written} 是旧名称，自 miaobi {until} 起不再接受。",
        )
        + joined((remedy, option.help), " ")
    )


@functools.cache
def _note(text: str) -> None:
    """Write a note to stderr, once."""
    print(text, file=sys.stderr)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _renamed(key: str, by_key: Mapping[str, Option]) -> Option | None:
    """The option whose earlier key this is; None where there is none."""
    for option in by_key.values():
        if option.former_key == key:
            return option
    return None


def resolve(
    opts: Sequence[Option],
    settings: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    origin: str = "",
    *,
    own: bool = False,
) -> dict[str, Any]:
    """Return every option's value by key: its default, overlaid by the file, then by
    the overrides. Every value that is given is checked here.

    Args:
        opts: as `options` returns them.
        settings: nested, as read from a file.
        overrides: typed values by dotted key, from the command line, Python or a job;
            a mapping under the name of a section takes the place of the file's.
        origin: the file, for errors.
        own: the file was written by miaobi, so that earlier keys are no mistake.

    Raises BadInput for an unknown key (with the nearest right one), a value of the
    wrong type or out of bounds, a missing value.
    """
    overrides = overrides or {}
    keys = {option.key for option in opts}
    sections = {
        key: value
        for key, value in overrides.items()
        if isinstance(value, Mapping) and key not in keys
    }
    settings = {**(settings or {}), **sections}
    expanded = expand_mappings(opts, settings, origin)
    by_key = {option.key: option for option in expanded}
    values = {option.key: option.default for option in expanded}
    where = f"{origin}: " if origin else ""
    for written, given in _as_written(settings, by_key):
        if not own:
            check_key(written, by_key, f"{where}{written}")
        key, value = present(written, given, by_key)
        option = find_option(key, by_key, opts, origin)
        values[key] = option.convert(value, origin)
    for name, override in overrides.items():
        if name in sections:
            continue
        check_key(name, by_key, name)
        key, value = present(name, override, by_key)
        values[key] = find_option(key, by_key, opts).convert(value)
    for key, value in values.items():
        if value is MISSING:
            name = key if by_key[key].positional else by_key[key].name
            raise BadInput(
                say(f"{name} is missing.", f"缺少 {name}。"), by_key[key].help
            )
    return values


def find_option(
    key: str, by_key: Mapping[str, Option], opts: Sequence[Option], origin: str = ""
) -> Option:
    """Return the option of a key. Raises BadInput with the nearest keys.

    Args:
        key: dotted.
        by_key: the options, mappings of dataclasses expanded.
        opts: the same before they were expanded.
        origin: the file that names the key.
    """
    if key in by_key:
        return by_key[key]
    where = f"{origin}: " if origin else ""
    raise BadInput(
        say(
            f"{where}there is no setting {key!r}.",
            f"{where}没有名为 {key!r} 的设置。",
        ),
        _nearest_keys(key, by_key, opts),
    )


def _nearest_keys(
    key: str, by_key: Mapping[str, Option], opts: Sequence[Option]
) -> str:
    """The remedy for an unknown key; inside a mapping of dataclasses, among its keys."""
    for mapping in opts:
        if mapping.each is not None and f"{key}.".startswith(f"{mapping.key}."):
            inside = [name for name in by_key if name.startswith(f"{mapping.key}.")]
            return nearest(key, inside) if inside else spelling(mapping)
    return nearest(key, by_key)


def build(
    target: Target, values: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Return keyword arguments for `target` from values by dotted key.

    Dataclasses are made, with their own checks. Keys that `values` lacks are left out;
    a parameter for further settings gets those that are no option of `target`.
    """
    hints = get_type_hints(target, include_extras=True)
    arguments = dict[str, Any]()
    further = ""
    for name in inspect.signature(target).parameters:
        hint = hints.get(name, Any)
        inner = dataclass_of(hint)
        dataclass_of_each = each(hint)
        key = prefix + name.rstrip("_")
        if inner is not None:
            fields = build(inner, values, inner_prefix(hint, prefix, name))
            arguments[name] = inner(**fields)
        elif dataclass_of_each is not None:
            inner_values = _build_mapping(dataclass_of_each, values, f"{prefix}{name}.")
            arguments[name] = inner_values
        elif further_of(hint) is not None:
            further = name
        elif key in values:
            arguments[name] = values[key]
    if further:
        own = {option.key for option in options(target)}
        arguments[further] = {
            key: value for key, value in values.items() if key not in own
        }
    return arguments


def make(target: type[T], settings: Mapping[str, Any], prefix: str = "") -> T:
    """Return a dataclass of typed settings by key, checked. Raises as `resolve` does."""
    values = resolve(options(target, prefix), overrides=settings)
    return target(**build(target, values, prefix))


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Return a command whose arguments are checked for Python callers as well: types
    and bounds are those of its signature.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        for option in options(function):
            if option.key in bound.arguments:
                value = bound.arguments[option.key]
                bound.arguments[option.key] = option.convert(value)
        return function(*bound.args, **bound.kwargs)

    return call


def _build_mapping(
    each: type, values: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    """A dataclass for every name under `prefix`, in the order of the keys."""
    keys = [key.removeprefix(prefix) for key in values if key.startswith(prefix)]
    names = dict.fromkeys(key.partition(".")[0] for key in keys)
    return {name: each(**build(each, values, f"{prefix}{name}.")) for name in names}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested plain mappings, ready for YAML or JSON."""
    tree = dict[str, Any]()
    for key, value in values.items():
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = plain(value)
    return tree


def plain(value: Any) -> Any:
    """Return dataclasses, paths and tuples as what JSON and YAML can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value)


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested mappings; those on the way are copied."""
    *sections, leaf = key.split(".")
    branch = tree
    for section in sections:
        branch[section] = dict(branch.get(section) or {})
        branch = branch[section]
    branch[leaf] = value
