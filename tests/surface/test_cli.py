"""The command line as people use it."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from miaobi import cli
from miaobi.core import errors
from miaobi.core.config import further, options
from miaobi.core.config.types import bounds, choices, without_none

ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Return the exit code and what was printed to stdout and stderr."""
    code = cli.main(argv)
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_help_that_names_every_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    function = EntryPoint(name, cli.VERBS[name].function, "").load()
    assert inspect.getdoc(function)
    code, out, _ = run(capsys, *name.split(), "--help")
    assert code == 0
    further_options = further(function, ()).options
    text = " ".join(out.split())
    for option in [*options(function), *further_options]:
        if option.each is not None:
            continue
        key = option.key.upper() if option.positional else option.name
        assert f"  {key}" in out
        assert option.help or option in further_options, f"{name}: no help of {key}"
        assert str(bounds(option.type)) in text
        for choice in choices(option.type):
            assert str(choice) in text
        if isinstance(option.default, int | float) and option.default is not False:
            assert f"default {str(option.default).replace('True', 'true')}" in text


def parsed(folder: Path = ROOT / "src") -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text("utf-8")) for file in folder.rglob("*.py")}


def known_options(modules: Iterable[ast.Module]) -> set[str]:
    """The options of all verbs, and the keys of all sections of recipes by their last
    part.
    """
    names = {"--version", "--help", "--json", *OTHERS_OPTIONS}
    for verb in cli.VERBS.values():
        function = EntryPoint("", verb.function, "").load()
        for option in [*options(function), *further(function, ()).options]:
            names.add(option.name)
    for module in modules:
        for part in ast.walk(module):
            if isinstance(part, ast.ClassDef) and part.name.endswith(
                ("Config", "Head")
            ):
                names |= {
                    f"--{item.target.id}"
                    for item in part.body
                    if isinstance(item, ast.AnnAssign)
                    and isinstance(item.target, ast.Name)
                }
    return names


def hinted_options(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, option) for what the messages and errors of a module name."""
    for call in ast.walk(module):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        if call.func.id != "say" and not hasattr(errors, call.func.id):
            continue
        for node in ast.walk(call):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for option in OPTION.findall(node.value):
                    yield node.lineno, option


OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*(?:\.[a-z]\w*)*(?![.\w-])")
OTHERS_OPTIONS = {"--check", "--logdir", "--upgrade"}
"""Of msgfmt, TensorBoard and pip."""


def test_hints_name_options_that_exist() -> None:
    modules = parsed()
    known = known_options(modules.values())
    count = 0
    for file, module in modules.items():
        for line, option in hinted_options(module):
            last = option.removeprefix("--").rpartition(".")[-1]
            names = {option} if "." not in option else {option, f"--{last}"}
            assert names & known, f"{file}:{line}: {option}"
            count += 1
    assert count > 200


NUMBERS_WITHOUT_BOUNDS = {
    "generate image --lora-scale",
    "generate text --prompt-ids",
    "latent arithmetic --strengths",
    "models merge --weights",
}
"""Numbers that may be any, or that only the model bounds (token ids)."""


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_number_has_bounds(name: str) -> None:
    function = EntryPoint(name, cli.VERBS[name].function, "").load()
    unbounded = {
        f"{name} {option.name}"
        for option in [*options(function), *further(function, ()).options]
        if _is_number(option.type) and not str(bounds(option.type))
    }
    assert unbounded <= NUMBERS_WITHOUT_BOUNDS


def _is_number(hint: Any) -> bool:
    inner = without_none(hint)
    if get_origin(inner) in (list, tuple):
        inner = without_none(get_args(inner)[0])
    return inner in (int, float)


def test_help_in_chinese_shows_defaults_and_bounds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.core.language import process_language

    monkeypatch.setenv("MIAOBI_LANG", "zh")
    process_language.cache_clear()
    try:
        code, out, _ = run(capsys, "train", "--help")
    finally:
        process_language.cache_clear()
    assert code == 0
    assert "（默认 1000；至少 1" in "".join(out.split("\n        "))
    assert "以下为模型族 gpt 的设置" in out


def test_surface() -> None:
    """A changed command line is a decision: change this list with it."""
    assert list(cli.VERBS) == [
        "quickstart",
        "data list",
        "data fetch",
        "data sample",
        "data inspect",
        "train",
        "finetune",
        "import",
        "search",
        "generate text",
        "generate image",
        "generate speech",
        "embed",
        "code complete",
        "code explain",
        "code refactor",
        "chat",
        "evaluate",
        "latent reconstruct",
        "latent interpolate",
        "latent arithmetic",
        "latent traverse",
        "latent project",
        "latent truncate",
        "export",
        "models list",
        "models show",
        "models promote",
        "models rollback",
        "models merge",
        "models remove",
        "serve",
        "batch",
        "keys create",
        "keys list",
        "keys revoke",
        "doctor",
    ]


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("trian",), "Did you mean train?"),
        (("data",), "list, fetch, sample, inspect"),
        (("models", "lst"), "list, show"),
        (("models", "show", "nobody"), "nobody"),
        (("models", "show"), "missing"),
        (("models", "show", "a", "b"), "'b'"),
        (("generate", "text", "--temprature", "1"), "temperature"),
        (("generate", "text", "--model"), "needs a value"),
        (("train", "recipes/none.yaml"), "recipes/none.yaml"),
        (("train",), "recipe"),
    ],
)
def test_mistakes_are_explained(
    argv: tuple[str, ...],
    hint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    code, out, err = run(capsys, *argv)
    assert code > 0
    assert not out
    assert hint in err
    assert "Traceback" not in err


def test_a_package_that_is_missing_is_named_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import miaobi.serve

    # Put back afterwards: the import below makes another one.
    monkeypatch.setattr(miaobi, "serve", miaobi.serve)
    for name in list(sys.modules):
        if name.startswith("miaobi.serve"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    code, _, err = run(capsys, "keys", "list")
    assert code == 69
    assert "sqlalchemy" in err
    assert "pip install 'miaobi[serve]'" in err


def test_errors_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "trian", "--json")
    assert code == 66
    assert json.loads(err)["error"] == {
        "code": "not_found",
        "message": "There is no verb 'trian'.",
        "remedy": "Did you mean train?",
    }


def test_chinese(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaobi.core.language import process_language

    monkeypatch.setenv("MIAOBI_LANG", "zh")
    process_language.cache_clear()
    try:
        code, _, err = run(capsys, "trian")
    finally:
        process_language.cache_clear()
    assert code == 66
    assert "没有名为 'trian' 的命令" in err
