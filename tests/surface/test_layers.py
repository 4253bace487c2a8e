"""The packages are layers: imports point down, no files import each other in a circle,
and nothing dangerous or unfinished is in them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "miaobi"
FILES = sorted(SOURCE.rglob("*.py"))
LAYERS = (
    "core",
    "data",
    "provenance",
    "nn",
    "families",
    "models",
    "train",
    "tune",
    "engines",
    "retrieval",
    "evaluate",
    "explain",
    "prompts",
    "verbs",
    "cluster",
    "serve",
    "apps",
    "studio",
)
"""From the lowest to the highest; a file imports from its own package and those below."""
RANK = {layer: rank for rank, layer in enumerate(LAYERS)}


def module_name(path: Path) -> str:
    """The dotted name of a file below `miaobi`: "data.text.files"."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_name(path): path for path in FILES}


def imported_modules(path: Path) -> dict[str, int]:
    """The modules of ours that a file imports, with the line of each import.

    Imports inside functions and those for type checkers count as well.
    """
    lines = dict[str, int]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            package = node.module or ""
            names = [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("miaobi."):
                lines.setdefault(existing_module(name), node.lineno)
    # The package itself ("from miaobi import __version__") is there before its files.
    lines.pop("", None)
    return lines


def existing_module(name: str) -> str:
    """The module that an imported name is, or lies in: "miaobi.core.files.write_text" is
    in "core.files".
    """
    inner = name.removeprefix("miaobi.")
    while inner not in MODULES:
        inner = inner.rpartition(".")[0]
    return inner


GRAPH = {name: imported_modules(path) for name, path in MODULES.items()}


def test_every_package_has_a_rank() -> None:
    packages = {
        path.name
        for path in SOURCE.iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert packages <= {*LAYERS, "recipes"}
    assert not list((SOURCE / "recipes").rglob("*.py"))


def test_imports_point_down() -> None:
    upward = []
    for name, imports in GRAPH.items():
        layer = name.partition(".")[0]
        if layer not in RANK:
            continue
        for target, line in imports.items():
            other = target.partition(".")[0]
            if RANK.get(other, 0) > RANK[layer]:
                upward.append(f"{MODULES[name]}:{line} imports {target}")
    assert not upward


def test_no_circle_of_files() -> None:
    """Remove, again and again, the files all of whose imports are removed already."""
    remaining = {name: set(imports) for name, imports in GRAPH.items()}
    while True:
        free = {
            name
            for name, imports in remaining.items()
            if not (imports & remaining.keys())
        }
        if not free:
            break
        for name in free:
            del remaining[name]
    circle = {
        name: sorted(imports & remaining.keys()) for name, imports in remaining.items()
    }
    assert not circle


FORBIDDEN = re.compile(
    r"import pickle|pickle\.(?:load|dump|Unp)|weights_only\s*=\s*False"
    r"|trust_remote_code\s*=\s*True|\beval\(|\bexec\(|shell\s*=\s*True"
    r"|\bTODO\b|\bFIXME\b|\bXXX\b"
)


def test_nothing_dangerous_or_unfinished() -> None:
    findings = [
        f"{path}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(
            path.read_text(encoding="utf-8").splitlines(), start=1
        )
        if FORBIDDEN.search(line) and ".eval()" not in line
    ]
    assert not findings


@pytest.mark.parametrize(
    "statement",
    [
        "import miaobi",
        "import miaobi.cli",
        "import miaobi.core.engine, miaobi.core.requests, miaobi.core.store",
    ],
)
def test_the_core_imports_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "transformers", "numpy", "openvino", "rich", "pydantic"}
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
