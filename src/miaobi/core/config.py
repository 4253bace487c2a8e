"""Configuration: typed dataclasses in, resolved dataclasses out; the YAML file and the
command line share their keys.

A command is a plain function. Its parameters before `*` are positional (a list takes
all arguments that are left), those after are options; `with_` is --with, for names that
Python reserves. A dataclass spreads into dotted options (`--train.learning_rate`), or
into plain ones when annotated `Annotated[Config, flat]`; a field
`mix: dict[str, Source]` spreads once for every name that the file gives
(`--data.mix.poems.share`). A setting annotated `Former(name, convert)` is also read
under its earlier name. Any other `Annotated` type keeps its limits, which pydantic
checks. Help comes from the docstrings. Conversion to types is pydantic's; the keys,
their spelling and the messages about them are ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import re
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import say
from miaobi.core.recipes import packaged


class flat:
    """Marks a dataclass parameter whose fields become options without a prefix."""


@dataclass(frozen=True)
class Former:
    """Marks a field that had another name: `Annotated[int, Former("size", double)]`.

    Files and command lines with the earlier name are read; it is never written.
    """

    name: str
    """The field's earlier name."""
    convert: Callable[[Any], Any]
    """Return the field's value for what stands under the earlier name."""


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
        inner = _without_none(self.type)
        if get_origin(inner) is tuple:
            return get_args(inner)[-1] is Ellipsis
        return get_origin(inner) is list

    @property
    def numbers(self) -> bool:
        """Whether it is a list of numbers: `--weights 0.7 0.3` as well."""
        return self.repeated and get_args(_without_none(self.type))[0] in (int, float)

    @property
    def each(self) -> type | None:
        """The dataclass that every name of a mapping stands for; None for all other settings."""
        return _each(self.type)

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

    def convert(self, value: Any, origin: str = "") -> Any:
        """Return `value` as `self.type`. Raises BadInput.

        Args:
            value: text from the command line, or a value from YAML.
            origin: the file it comes from, for the error.
        """
        from pydantic import TypeAdapter, ValidationError

        if _is_json(value) and not _accepts_text(self.type):
            # Where it is no JSON after all, pydantic says what was expected.
            with contextlib.suppress(json.JSONDecodeError):
                value = json.loads(value)
        try:
            return TypeAdapter(self.type).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].rstrip(".")
            where = f"{origin}: " if origin else ""
            raise BadInput(
                say(
                    f"{where}{self.key} is {value!r}. {problem}.",
                    f"{where}{self.key} 的值为 {value!r}。{problem}。",
                ),
                _expected_type(self),
            ) from None


def _is_json(value: Any) -> bool:
    """Whether a value is text that may be a JSON list or object."""
    return isinstance(value, str) and value[:1] in ("[", "{")


def _expected_type(option: Option) -> str:
    kind = describe(option.type)
    return say(f"It takes {kind}.", f"它的类型是 {kind}。")


Target = Callable[..., Any] | type
"""A command (a function) or a dataclass."""


def options(target: Target, prefix: str = "") -> list[Option]:
    """Return the settings of a function or a dataclass, with those of dataclasses inside it."""
    hints = get_type_hints(target, include_extras=True)
    help_texts = _help_texts(target)
    settings = list[Option]()
    for name, parameter in inspect.signature(target).parameters.items():
        hint = hints.get(name, Any)
        inner = _dataclass_of(hint)
        if inner is not None:
            settings += options(inner, _inner_prefix(hint, prefix, name))
        elif not _is_callback(parameter):
            settings.append(
                Option(
                    key=prefix + name.rstrip("_"),
                    type=hint,
                    default=_default(target, parameter),
                    help=help_texts.get(name, ""),
                    positional=not is_dataclass(target)
                    and parameter.kind is parameter.POSITIONAL_OR_KEYWORD,
                )
            )
    return settings


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass that a parameter spreads into; None where it is one setting."""
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return inner if isinstance(inner, type) and is_dataclass(inner) else None


def _inner_prefix(hint: Any, prefix: str, name: str) -> str:
    """The prefix of the settings of a dataclass parameter."""
    is_flat = get_origin(hint) is Annotated and flat in get_args(hint)
    return prefix if is_flat else f"{prefix}{name}."


def _is_callback(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is a function to call back, for Python callers only."""
    default = parameter.default
    return callable(default) and not isinstance(default, type)


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
        _spelling(option),
    )


def _spelling(option: Option) -> str:
    """How a mapping of dataclasses is written in a recipe."""
    assert option.each is not None
    fields = ", ".join(inner.key for inner in options(option.each))
    return say(
        f"Write into the recipe {option.key}: {{NAME: {{...}}}} with {fields}; a name has letters, digits and _.",
        f"请在配方中写 {option.key}: {{名称: {{...}}}}，可用 {fields}；名称由字母、数字与 _ 组成。",
    )


def _default(target: Target, parameter: inspect.Parameter) -> Any:
    if not is_dataclass(target):
        absent = parameter.default is parameter.empty
        return MISSING if absent else parameter.default
    field = next(
        item for item in dataclasses.fields(target) if item.name == parameter.name
    )
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


def _without_none(hint: Any) -> Any:
    """The type inside `X | None` or `Annotated[X, ...]`."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        inner = [item for item in get_args(hint) if item is not type(None)]
        return inner[0] if len(inner) == 1 else hint
    return hint


def _accepts_text(hint: Any) -> bool:
    return _without_none(hint) in (str, Path, Any)


def _each(hint: Any) -> type | None:
    """The dataclass D of a type `dict[str, D]`; None for all other types."""
    if get_origin(hint) is not dict:
        return None
    value = get_args(hint)[1]
    return value if isinstance(value, type) and is_dataclass(value) else None


def describe(hint: Any) -> str:
    """Return a type in words: `int`, `cosine | linear`, `list of str`."""
    inner = _without_none(hint)
    if get_origin(inner) is Literal:
        return " | ".join(str(item) for item in get_args(inner))
    if get_origin(inner) in (list, tuple) and get_args(inner):
        return f"list of {describe(get_args(inner)[0])}"
    if get_origin(inner) is None and isinstance(inner, type):
        return inner.__name__
    return str(inner).replace("typing.", "")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises NotFound, or BadInput with the line."""
    import yaml

    if not path.is_file():
        siblings = [str(item) for item in path.parent.glob("*.y*ml")]
        raise NotFound(
            say(f"There is no file {path}.", f"找不到文件 {path}。"),
            nearest(str(path), siblings),
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _not_yaml(f"{path}{line}", error.problem or str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _not_yaml(str(path), str(error)) from None
    if not isinstance(content, dict):
        raise BadInput(
            say(f"{path} holds no settings.", f"{path} 中没有任何设置。"),
            say(
                "Write `key: value` lines; see the files under recipes/.",
                "请写成 `key: value`；可参考 recipes/ 下的文件。",
            ),
        )
    return content


def _not_yaml(where: str, problem: str) -> BadInput:
    return BadInput(
        say(
            f"{where} is not valid YAML: {problem}.",
            f"{where} 不是有效的 YAML：{problem}。",
        ),
        say("Mend that line.", "请修正该行。"),
    )


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return a recipe's settings. Raises as `read_yaml` does.

    A path NAME/x.yaml that is not there means a recipe that comes in a package.
    """
    path = Path(path)
    if not path.exists():
        path = packaged(path) or path
    return read_yaml(path)


def flatten(
    settings: Mapping[str, Any], by_key: Mapping[str, Option], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield nested mappings as (dotted key, value), earlier keys as the present ones.

    Args:
        settings: nested mappings.
        by_key: the options; a mapping under one of their keys is that option's value.
        prefix: of every key.
    """
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in by_key:
            yield from flatten(value, by_key, f"{key}.")
        else:
            yield present(key, value, by_key)


def present(key: str, value: Any, by_key: Mapping[str, Option]) -> tuple[str, Any]:
    """Return a key and its value, an earlier key as the present one.

    Raises BadInput for a value of the wrong type under an earlier key.
    """
    option = _renamed(key, by_key)
    if option is None or option.former is None:
        return key, value
    return option.key, option.former.convert(option.convert(value))


def present_key(key: str, by_key: Mapping[str, Option]) -> str:
    """Return the present key of an earlier one; any other as it is."""
    option = _renamed(key, by_key)
    return key if option is None else option.key


def _renamed(key: str, by_key: Mapping[str, Option]) -> Option | None:
    """The option whose earlier key this is; None where there is none."""
    for option in by_key.values():
        if option.former_key == key:
            return option
    return None


def parse_argv(
    argv: Sequence[str], by_key: Mapping[str, Option]
) -> Iterator[tuple[str, Any]]:
    """Yield the command line as (key, text); a bare `--flag` is True.

    Hyphens in names stand for underscores; earlier keys come as the present ones, with
    their converted values. Keys are not checked. Raises BadInput for an
    argument too many and for an option without a value.
    """
    positional = [option.key for option in by_key.values() if option.positional]
    former_keys = {option.former_key for option in by_key.values()}
    rest = deque(argv)
    while rest:
        argument = rest.popleft()
        if not argument.startswith("--"):
            yield _take_positional(positional, by_key, argument), argument
            continue
        name, equals, value = argument[2:].partition("=")
        key = name.replace("-", "_")
        option = by_key.get(key)
        if key in former_keys and (equals or rest):
            yield present(key, value if equals else rest.popleft(), by_key)
        elif equals or option is None:
            yield key, value
        elif option.type is bool and not _begins_with_bool(rest):
            yield key, True
        elif not rest:
            raise BadInput(
                say(f"--{name} needs a value.", f"--{name} 需要一个值。"),
                _expected_type(option),
            )
        else:
            yield key, rest.popleft()
            while rest and option.numbers and _is_number(rest[0]):
                yield key, rest.popleft()


def _take_positional(
    positional: list[str], by_key: Mapping[str, Option], argument: str
) -> str:
    """The key of a positional argument, taken from those that are left; a list stays."""
    if not positional:
        raise BadInput(
            say(f"Unexpected argument {argument!r}.", f"多余的参数 {argument!r}。"),
            say(
                "Options start with --; quote values that have spaces.",
                "选项以 -- 开头；含空格的值请加引号。",
            ),
        )
    key = positional[0]
    if not by_key[key].repeated:
        positional.pop(0)
    return key


def _begins_with_bool(arguments: Sequence[str]) -> bool:
    return bool(arguments) and arguments[0].lower() in ("true", "false")


def _is_number(argument: str) -> bool:
    try:
        float(argument)
    except ValueError:
        return False
    return True


def as_argv(settings: Mapping[str, Any]) -> list[str]:
    """Return dotted keys and values as they would stand on the command line."""
    argv = list[str]()
    for key, value in settings.items():
        text = json.dumps(value) if isinstance(value, list | dict) else str(value)
        argv += [f"--{key}", text]
    return argv


def peek(argv: Sequence[str], key: str) -> str | None:
    """Return what the command line gives for one key, before the others are known; None
    where it does not.
    """
    for index, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name.replace("-", "_") != f"__{key}":
            continue
        if equals:
            return value
        return argv[index + 1] if index + 1 < len(argv) else ""
    return None


def resolve(
    opts: Sequence[Option],
    argv: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    origin: str = "",
) -> dict[str, Any]:
    """Return every option's value by key: its default, overlaid by the file, then by
    the command line.

    Args:
        opts: as `options` returns them.
        argv: the command line.
        settings: nested, as read from a file.
        origin: that file, for errors.

    Raises BadInput for an unknown key (with the nearest right one), a value of the
    wrong type, a missing value.
    """
    settings = settings or {}
    mappings = [option for option in opts if option.each is not None]
    expanded = expand_mappings(opts, settings, origin)
    by_key = {option.key: option for option in expanded}
    values = {option.key: option.default for option in expanded}
    for key, value in flatten(settings, by_key):
        values[key] = _option(key, by_key, origin, mappings).convert(value, origin)
    arguments = dict[str, Any]()
    for key, value in parse_argv(argv, by_key):
        option = _option(key, by_key, "", mappings)
        if option.repeated and not (isinstance(value, str) and value[:1] == "["):
            arguments.setdefault(key, []).append(value)
        else:
            arguments[key] = value
    for key, value in arguments.items():
        values[key] = by_key[key].convert(value)
    for key, value in values.items():
        if value is MISSING:
            name = key if by_key[key].positional else by_key[key].name
            raise BadInput(
                say(f"{name} is missing.", f"缺少 {name}。"), by_key[key].help
            )
    return values


def _option(
    key: str, by_key: Mapping[str, Option], origin: str, mappings: Sequence[Option]
) -> Option:
    """The option of a key. Raises BadInput with the nearest keys."""
    if key in by_key:
        return by_key[key]
    where = f"{origin}: " if origin else ""
    raise BadInput(
        say(
            f"{where}there is no setting {key!r}.",
            f"{where}没有名为 {key!r} 的设置。",
        ),
        _nearest_keys(key, by_key, mappings),
    )


def _nearest_keys(
    key: str, by_key: Mapping[str, Option], mappings: Sequence[Option]
) -> str:
    """The remedy for an unknown key; inside a mapping of dataclasses, among its keys."""
    for mapping in mappings:
        if f"{key}.".startswith(f"{mapping.key}."):
            inside = [name for name in by_key if name.startswith(f"{mapping.key}.")]
            return nearest(key, inside) if inside else _spelling(mapping)
    return nearest(key, by_key)


def build(
    target: Target, values: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Return keyword arguments for `target` from values by dotted key.

    Dataclasses are made, with their own checks. Keys that `values` lacks are left out.
    """
    hints = get_type_hints(target, include_extras=True)
    arguments = dict[str, Any]()
    for name in inspect.signature(target).parameters:
        hint = hints.get(name, Any)
        inner = _dataclass_of(hint)
        each = _each(hint)
        key = prefix + name.rstrip("_")
        if inner is not None:
            fields = build(inner, values, _inner_prefix(hint, prefix, name))
            arguments[name] = inner(**fields)
        elif each is not None:
            arguments[name] = _build_mapping(each, values, f"{prefix}{name}.")
        elif key in values:
            arguments[name] = values[key]
    return arguments


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


def usage(prog: str, description: str, opts: Sequence[Option]) -> str:
    """Return the help of a command.

    Args:
        prog: the command, as it is written.
        description: what it does.
        opts: every option, shown with its type and default.
    """
    arguments = " ".join(_usage_of_positional(item) for item in opts if item.positional)
    options_here = f"[--{say('option value', '选项 值')} ...]"
    lines = [
        f"{prog} {arguments} {options_here}".replace("  ", " "),
        "",
        description,
        "",
    ]
    for option in opts:
        if option.each is None:
            lines += _usage_of_option(option)
            continue
        for inner in options(option.each, f"{option.key}.NAME."):
            lines += _usage_of_option(inner)
    return "\n".join(lines)


def _usage_of_positional(option: Option) -> str:
    name = option.key.upper()
    return name if option.default is MISSING else f"[{name}]"


def _usage_of_option(option: Option) -> list[str]:
    """Name, type and default; under them the help."""
    import textwrap

    name = option.key.upper() if option.positional else option.name
    default = ""
    if option.default not in (MISSING, None, (), [], {}, False):
        default = f" = {option.default}"
    indent = " " * 8
    return [
        f"  {name}  ({describe(option.type)}{default})",
        *textwrap.wrap(
            option.help, 100, initial_indent=indent, subsequent_indent=indent
        ),
    ]
