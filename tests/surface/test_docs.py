"""What the docs show is true: commands are known, python blocks run, the reference is
up to date, files that are named exist.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from tests.surface.test_layers import LAYERS

from miaobi import cli
from miaobi.core import config
from miaobi.verbs.search.plan import resolve_recipe

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for path in (
        ROOT / "README.md",
        ROOT / "README.zh-CN.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if path.name != "commands.md"
]


def commands(page: Path) -> list[str]:
    lines = [
        line
        for shown in re.findall(
            r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        )
        for line in shown.splitlines()
    ]
    return [
        line.removeprefix("$ ").split("  #")[0].strip()
        for line in lines
        if line.startswith("$ miaobi ")
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_known(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for command in commands(page):
        name, argv = cli.find(shlex.split(command)[1:])
        argv = [word for word in argv if word != "--json"]
        if {"--resume", "--continue"} & set(argv):
            continue  # what it goes on with is not here
        if any(word.endswith(".recipe.yaml") for word in argv):
            continue  # miaobi import writes it
        has_recipe = any(word.endswith(".yaml") for word in argv)
        if name == "finetune" and not has_recipe and "--task" not in argv:
            argv += ["--task", "chat"]  # else it would look into the data
        function = EntryPoint(name, cli.all_verbs()[name].function, "").load()
        arguments = config.arguments(function, argv)
        if name in ("train", "finetune"):
            assert str(function(**{**arguments, "print_config": True}))
        if name == "search":
            recipe = arguments["recipe"]
            tree = config.read_recipe(recipe)
            assert resolve_recipe(tree, arguments["settings"], recipe)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(
        r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")
    ):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_runs(page: Path, smollm2: Path, tmp_path: Path) -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    )
    if not blocks:
        pytest.skip("no python on this page")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "reference" / "make.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


ARCHITECTURE = [
    ROOT / "docs" / "architecture.md",
    ROOT / "docs" / "architecture.zh-CN.md",
]
SOURCE = ROOT / "src" / "miaobi"
architecture = pytest.mark.parametrize(
    "page", ARCHITECTURE, ids=lambda page: str(page.name)
)


def blocks_of(page: Path) -> list[str]:
    """The ```text blocks: the tree of packages first, then the ways."""
    return re.findall(r"```text\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def tree_of(page: Path) -> list[Path]:
    """The folders of the tree of packages, below src/miaobi; names that stand beside
    each other on one line have the same parent.
    """
    folders = list[Path]()
    package = Path()
    for line in blocks_of(page)[0].splitlines():
        names = re.match(r"\s*((?:[a-z_]+/\s*)+)", line)
        if names is None:
            continue
        if not line.startswith(" "):
            package = Path(names[1].split()[0])
            folders.append(package)
        else:
            folders += [package / name for name in names[1].split()]
    return folders


def names_in(file: Path) -> set[str]:
    """Functions, classes and tables that a file defines, methods included."""
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def registries() -> dict[str, str]:
    """Kind of every registry -> the file of its table, below src/miaobi."""
    kinds = dict[str, str]()
    for file in SOURCE.rglob("*.py"):
        for kind in re.findall(
            r"= Registry\(\s*\"(\w+)\"", file.read_text(encoding="utf-8")
        ):
            kinds[kind] = str(file.relative_to(SOURCE))
    return kinds


@architecture
def test_the_tree_has_every_package(page: Path) -> None:
    packages = {
        path.parent.relative_to(SOURCE) for path in SOURCE.glob("*/__init__.py")
    }
    tree = tree_of(page)
    assert packages - set(tree) == set()
    assert [str(folder) for folder in tree if not (SOURCE / folder).is_dir()] == []


@architecture
def test_the_tree_is_in_the_order_of_the_layers(page: Path) -> None:
    packages = [str(folder) for folder in tree_of(page) if folder.parent == Path()]
    assert packages[:-1] == [layer for layer in LAYERS if layer in packages]
    assert packages[-1] == "recipes"


@architecture
def test_the_ways_pass_what_exists(page: Path) -> None:
    steps = 0
    for line in "".join(blocks_of(page)[1:]).splitlines():
        path, names, _ = re.split(r"\s{2,}", line, maxsplit=2)
        defined = names_in(SOURCE / path)
        for name in names.split(", "):
            assert name in defined, f"{page.name}: {path} has no {name}"
            steps += 1
    assert steps > 30


@architecture
def test_contracts_are_in_their_files(page: Path) -> None:
    rows = re.findall(
        r"^\| ([^|]*`[A-Za-z]+`[^|]*) \| `(\S+\.py)` \|",
        page.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(rows) > 12
    for names, path in rows:
        defined = names_in(SOURCE / path)
        for name in re.findall(r"`(\w+)`", names):
            assert name in defined, f"{page.name}: {path} has no {name}"


@architecture
def test_every_registry_is_named_with_its_table(page: Path) -> None:
    named = dict(
        re.findall(r"`miaobi\.(\w+)`[,，、]\s*`(\S+\.py)`", page.read_text("utf-8"))
    )
    assert named == registries(), f"{page.name}: its table `Adding things`"


@architecture
def test_paths_of_the_architecture_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"`([\w./-]+\.(?:py|md|yaml))`", text)
    assert len(paths) > 20
    for path in paths:
        assert (SOURCE / path).exists() or (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_tree_of_the_readme_has_every_package(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    tree = page.partition("\nsrc/miaobi/\n")[2].partition("```")[0]
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert set(re.findall(r"^  ([a-z_]+)/", tree, re.MULTILINE)) == packages | {
        "recipes"
    }
