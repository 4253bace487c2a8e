"""Configuration: typed dataclasses in, resolved dataclasses out; the YAML file and the
command line share their keys.

A command is a plain function. Its parameters before `*` are positional (a list takes
all words that are left), those after are options; `with_` is --with, for words that
Python keeps to itself. A dataclass spreads into dotted options
(`--train.learning_rate`), or into plain ones when annotated `Annotated[Config, flat]`;
a field `mix: dict[str, Source]` spreads once for every name that the file gives
(`--data.mix.poems.share`). Any other `Annotated` type keeps its limits, which pydantic
checks. Help comes from the docstrings. Conversion to types is pydantic's; the keys,
their spelling and what is said about them are ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import say


class flat:
    """Marks a dataclass parameter whose fields become options without a prefix."""


RECIPES = Path(__file__).parents[1] / "recipes"
"""Those that come with miaobi."""


@dataclass(frozen=True)
class Option:
    """One setting: its key as in YAML ("train.max_steps"), its type, and whether it is
    given by place.
    """

    key: str
    type: Any
    default: Any = MISSING
    help: str = ""
    positional: bool = False

    @property
    def repeated(self) -> bool:
        """Given several times to make a list: `--stop a --stop b`."""
        inner = _without_none(self.type)
        return get_origin(inner) is list or (
            get_origin(inner) is tuple and get_args(inner)[-1] is Ellipsis
        )

    @property
    def numbers(self) -> bool:
        """A list of numbers: `--weights 0.7 0.3` as well."""
        return self.repeated and get_args(_without_none(self.type))[0] in (int, float)

    @property
    def each(self) -> type | None:
        """The dataclass that every name of a mapping stands for; None for all other settings."""
        return _each(self.type)

    def convert(self, value: Any, origin: str = "") -> Any:
        """`value` (text from the command line, or what YAML made of it) as `self.type`.
        Raises BadInput.
        """
        from pydantic import TypeAdapter, ValidationError

        if (
            isinstance(value, str)
            and value[:1] in "[{"
            and not _accepts_text(self.type)
        ):
            with contextlib.suppress(
                json.JSONDecodeError
            ):  # pydantic says what was expected
                value = json.loads(value)
        try:
            return TypeAdapter(self.type).validate_python(value)
        except ValidationError as error:
            what = error.errors()[0]["msg"].rstrip(".")
            where = f"{origin}: " if origin else ""
            raise BadInput(
                say(
                    f"{where}{self.key} is {value!r}. {what}.",
                    f"{where}{self.key} 的值为 {value!r}。{what}。",
                ),
                say(
                    f"It takes {describe(self.type)}.",
                    f"它的类型是 {describe(self.type)}。",
                ),
            ) from None


def options(target: Callable[..., Any] | type, prefix: str = "") -> list[Option]:
    """The settings of a function or a dataclass, with those of dataclasses inside it."""
    hints, texts, found = (
        get_type_hints(target, include_extras=True),
        _texts(target),
        list[Option](),
    )
    for name, parameter in inspect.signature(target).parameters.items():
        hint = hints.get(name, Any)
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if is_dataclass(plain):
            spread = get_origin(hint) is Annotated and flat in get_args(hint)
            found += options(plain, prefix if spread else f"{prefix}{name}.")  # type: ignore[arg-type]
        elif (
            parameter.default is not parameter.empty
            and callable(parameter.default)
            and not isinstance(parameter.default, type)
        ):
            continue  # a function to call back, for Python callers only
        else:
            positional = (
                not is_dataclass(target)
                and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            )
            found.append(
                Option(
                    prefix + name.rstrip("_"),
                    hint,
                    _default(target, parameter),
                    texts.get(name, ""),
                    positional,
                )
            )
    return found


def expand_mappings(
    opts: Sequence[Option], settings: Mapping[str, Any], origin: str = ""
) -> list[Option]:
    """The options with every mapping of dataclasses spread over the names that
    `settings`, read from the file `origin`, give to it. Raises BadInput.
    """
    return [
        inner
        for option in opts
        for inner in (
            [option]
            if option.each is None
            else [
                found
                for name in _names(option, settings, origin)
                for found in options(option.each, f"{option.key}.{name}.")
            ]
        )
    ]


def _names(option: Option, settings: Mapping[str, Any], origin: str) -> list[str]:
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
    assert option.each is not None
    fields = ", ".join(inner.key for inner in options(option.each))
    return say(
        f"Write into the recipe {option.key}: {{NAME: {{...}}}} with {fields}; a name has letters, digits and _.",
        f"请在配方中写 {option.key}: {{名称: {{...}}}}，可用 {fields}；名称由字母、数字与 _ 组成。",
    )


def _default(target: Any, parameter: inspect.Parameter) -> Any:
    if is_dataclass(target):
        field = next(
            item for item in dataclasses.fields(target) if item.name == parameter.name
        )
        return (
            field.default_factory()
            if field.default_factory is not MISSING
            else field.default
        )
    return MISSING if parameter.default is parameter.empty else parameter.default


def _texts(target: Any) -> dict[str, str]:
    """What the docstrings say of each parameter; a dataclass describes each field by
    the string under it.
    """
    from docstring_parser import parse_from_object

    bases = (
        [base for base in reversed(target.__mro__) if is_dataclass(base)]
        if isinstance(target, type)
        else [target]
    )
    return {
        item.arg_name: " ".join((item.description or "").split())
        for base in bases
        for item in parse_from_object(base).params
    }


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
    inner = get_args(hint)[1:] if get_origin(hint) is dict else ()
    return (
        inner[0]
        if inner and isinstance(inner[0], type) and is_dataclass(inner[0])
        else None
    )


def describe(hint: Any) -> str:
    """A type in words: `int`, `cosine | linear`, `list of str`."""
    inner = _without_none(hint)
    if get_origin(inner) is Literal:
        return " | ".join(str(item) for item in get_args(inner))
    if get_origin(inner) in (list, tuple) and get_args(inner):
        return f"list of {describe(get_args(inner)[0])}"
    return (
        getattr(inner, "__name__", str(inner))
        if get_origin(inner) is None
        else str(inner).replace("typing.", "")
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises NotFound, or BadInput with the line."""
    import yaml

    if not path.is_file():
        siblings = (
            [str(item) for item in path.parent.glob("*.y*ml")]
            if path.parent.is_dir()
            else []
        )
        raise NotFound(
            say(f"There is no file {path}.", f"找不到文件 {path}。"),
            nearest(str(path), siblings),
        )
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadInput(
            say(
                f"{path}{line} is not valid YAML: {getattr(error, 'problem', None) or error}.",
                f"{path}{line} 不是有效的 YAML：{getattr(error, 'problem', None) or error}。",
            ),
            say("Mend that line.", "请修正该行。"),
        ) from None
    if not isinstance(loaded, dict):
        raise BadInput(
            say(f"{path} holds no settings.", f"{path} 中没有任何设置。"),
            say(
                "Write `key: value` lines; see the files under recipes/.",
                "请写成 `key: value`；可参考 recipes/ 下的文件。",
            ),
        )
    return loaded


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe's settings. What is named recipes/... and is not there is one of those
    that come with miaobi. Raises as `read_yaml` does.
    """
    path = Path(path)
    packaged = RECIPES.joinpath(*path.parts[1:])
    return read_yaml(
        packaged
        if path.parts[:1] == (RECIPES.name,)
        and not path.exists()
        and packaged.is_file()
        else path
    )


def flatten(
    settings: Mapping[str, Any], known: Mapping[str, Option], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys, down to the settings that are known (a setting
    may itself hold a mapping).
    """
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in known:
            yield from flatten(value, known, f"{key}.")
        else:
            yield key, value


def parse_argv(
    argv: Sequence[str], known: Mapping[str, Option]
) -> Iterator[tuple[str, Any]]:
    """The command line as (key, text). Hyphens in names pass for underscores; a bare
    `--flag` is True.
    """
    places = [option.key for option in known.values() if option.positional]
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if not places:
                raise BadInput(
                    say(f"Unexpected word {word!r}.", f"多余的参数 {word!r}。"),
                    say(
                        "Options start with --; quote values that have spaces.",
                        "选项以 -- 开头；含空格的值请加引号。",
                    ),
                )
            yield places[0] if known[places[0]].repeated else places.pop(0), word
            continue
        name, equals, value = word[2:].partition("=")
        key = name.replace("-", "_")
        option = known.get(key)
        if equals or option is None:
            yield key, value
        elif option.type is bool and (
            not rest or rest[0].lower() not in ("true", "false")
        ):
            yield key, True
        elif not rest:
            raise BadInput(
                say(f"--{name} needs a value.", f"--{name} 需要一个值。"),
                say(
                    f"It takes {describe(option.type)}.",
                    f"它的类型是 {describe(option.type)}。",
                ),
            )
        else:
            yield key, rest.pop(0)
            while rest and option.numbers and _is_number(rest[0]):
                yield key, rest.pop(0)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def as_argv(settings: Mapping[str, Any]) -> list[str]:
    """Dotted keys and values as they would stand on the command line."""
    return [
        part
        for key, value in settings.items()
        for part in (
            f"--{key}",
            json.dumps(value) if isinstance(value, list | dict) else str(value),
        )
    ]


def peek(argv: Sequence[str], key: str) -> str | None:
    """What the command line gives for one key, before the others are known; None where
    it does not.
    """
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") == f"__{key}":
            return value if equals else argv[place + 1] if place + 1 < len(argv) else ""
    return None


def resolve(
    opts: Sequence[Option],
    argv: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    origin: str = "",
) -> dict[str, Any]:
    """Every option's value by key: its default, overlaid by `settings` (read from the
    file `origin`), then by `argv`.

    Raises BadInput for an unknown key (with the nearest right one), a value of the
    wrong type, a missing value.
    """
    mappings = [option for option in opts if option.each is not None]
    known = {
        option.key: option for option in expand_mappings(opts, settings or {}, origin)
    }
    values = {option.key: option.default for option in known.values()}
    for key, value in flatten(settings or {}, known):
        values[key] = _known(key, known, origin, mappings).convert(value, origin)
    given = dict[str, Any]()
    for key, value in parse_argv(argv, known):
        option = _known(key, known, "", mappings)
        as_list = option.repeated and not (isinstance(value, str) and value[:1] == "[")
        given[key] = [*given.get(key, []), value] if as_list else value
    values |= {key: known[key].convert(value) for key, value in given.items()}
    missing = [key for key, value in values.items() if value is MISSING]
    if missing:
        name = (
            missing[0]
            if known[missing[0]].positional
            else f"--{missing[0].replace('_', '-')}"
        )
        raise BadInput(
            say(f"{name} is missing.", f"缺少 {name}。"), known[missing[0]].help
        )
    return values


def _known(
    key: str, known: Mapping[str, Option], origin: str, mappings: Sequence[Option]
) -> Option:
    if key not in known:
        where = f"{origin}: " if origin else ""
        near = next(
            (option for option in mappings if f"{key}.".startswith(f"{option.key}.")),
            None,
        )
        inside = [
            name
            for name in known
            if near is not None and name.startswith(f"{near.key}.")
        ]
        remedy = (
            _spelling(near)
            if near is not None and not inside
            else nearest(key, inside or known)
        )
        raise BadInput(
            say(
                f"{where}there is no setting {key!r}.",
                f"{where}没有名为 {key!r} 的设置。",
            ),
            remedy,
        )
    return known[key]


def build(
    target: Callable[..., Any] | type, values: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Keyword arguments for `target` from flat values; dataclasses are made, their own
    checks included.
    """
    hints, arguments = get_type_hints(target, include_extras=True), dict[str, Any]()
    for name in inspect.signature(target).parameters:
        hint = hints.get(name, Any)
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if is_dataclass(plain):
            spread = get_origin(hint) is Annotated and flat in get_args(hint)
            arguments[name] = plain(
                **build(plain, values, prefix if spread else f"{prefix}{name}.")
            )  # type: ignore
        elif (each := _each(plain)) is not None:
            inside = f"{prefix}{name}."
            names = dict.fromkeys(
                key.removeprefix(inside).partition(".")[0]
                for key in values
                if key.startswith(inside)
            )
            arguments[name] = {
                key: each(**build(each, values, f"{inside}{key}.")) for key in names
            }
        elif prefix + name.rstrip("_") in values:
            arguments[name] = values[prefix + name.rstrip("_")]
    return arguments


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested plain mappings, ready for YAML or JSON."""
    tree = dict[str, Any]()
    for key, value in values.items():
        *folders, leaf = key.split(".")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = plain(value)
    return tree


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as what JSON and YAML can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: plain(getattr(value, item.name))
            for item in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return (
        value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
    )


def usage(prog: str, description: str, opts: Sequence[Option]) -> str:
    """Help for a command: what it does, what it takes, every option with its type and default."""
    import textwrap

    places = [option for option in opts if option.positional]
    line = " ".join(
        f"{option.key.upper()}"
        if option.default is MISSING
        else f"[{option.key.upper()}]"
        for option in places
    )
    lines = [
        f"{prog} {line} [--{say('option value', '选项 值')} ...]".replace("  ", " "),
        "",
        description,
        "",
    ]
    for option in [
        inner
        for item in opts
        for inner in (
            [item] if item.each is None else options(item.each, f"{item.key}.NAME.")
        )
    ]:
        name = (
            option.key.upper()
            if option.positional
            else f"--{option.key.replace('_', '-')}"
        )
        default = (
            ""
            if option.default in (MISSING, None, (), [], {}, False)
            else f" = {option.default}"
        )
        lines.append(f"  {name}  ({describe(option.type)}{default})")
        if option.help:
            lines += textwrap.wrap(
                option.help, 100, initial_indent=" " * 8, subsequent_indent=" " * 8
            )
    return "\n".join(lines)
