"""Configuration: typed dataclasses in, resolved dataclasses out; the YAML file, the
command line and Python share their keys.

A command is a plain function. Its parameters before `*` are positional (a list takes
all arguments that are left), those after are options; `with_` is --with, for names that
Python reserves. A dataclass spreads into dotted options (`--train.learning_rate`), or
into plain ones when annotated `Annotated[Config, flat]`; a field
`mix: dict[str, Source]` spreads once for every name that the file gives
(`--data.mix.poems.share`). A parameter annotated `Annotated[Mapping[str, Any],
Further(function)]` gets the settings whose keys depend on the rest of the command line,
such as those of a recipe. A setting annotated `Former(name, convert, until)` is also read
under its earlier name, with a note, until that version. Help comes from the docstrings.

Bounds stand on the type (`Annotated[int, Field(ge=1)]`, `Literal["a", "b"]`) and hold
wherever a value comes from. Conversion to types is pydantic's; the keys, their spelling
and the messages about them are ours.

    types         what a type allows, in words
    options       a function or dataclass as options
    values        options, a file and typed settings over it as values, and those as arguments
    files         YAML
    command_line  text to typed settings, in one place; the help
"""

from miaobi.core.config.command_line import arguments, further, note, parse, usage
from miaobi.core.config.files import read_recipe, read_yaml
from miaobi.core.config.options import (
    Former,
    Further,
    FurtherOptions,
    Noted,
    Option,
    expand_mappings,
    flat,
    options,
)
from miaobi.core.config.values import (
    build,
    checked,
    flatten,
    make,
    nested,
    plain,
    present_key,
    resolve,
    set_key,
)

__all__ = [
    "Former",
    "Further",
    "FurtherOptions",
    "Noted",
    "Option",
    "arguments",
    "build",
    "checked",
    "expand_mappings",
    "flat",
    "flatten",
    "further",
    "make",
    "nested",
    "note",
    "options",
    "parse",
    "plain",
    "present_key",
    "read_recipe",
    "read_yaml",
    "resolve",
    "set_key",
    "usage",
]
