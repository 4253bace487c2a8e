"""Print a constraint for every lower bound of pyproject.toml: NAME==BOUND.

    python deploy/lowest.py > constraints.txt
    pip install --constraint constraints.txt 'miaobi[all]'

installs the oldest versions that the package admits. torch is the exception: its bound
is not tried, because one version of it, 2.13.0, is what package indexes without
graphics drivers are sure to have; it is pinned to that.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
PINNED = {"torch": "2.13.0"}
TOOLS = "dev"
"""The extra that users do not install."""


def requirements(project: dict[str, Any]) -> Iterator[str]:
    """Yield what the core and every extra for users require."""
    yield from project["dependencies"]
    for extra, needed in project["optional-dependencies"].items():
        if extra != TOOLS:
            yield from needed


def constraints(project: dict[str, Any]) -> list[str]:
    """Return a line NAME==BOUND for each, sorted. Raises ValueError without a bound."""
    lowest = dict[str, str]()
    for requirement in requirements(project):
        if requirement.startswith(f"{project['name']}["):
            continue
        named = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement)
        if named is None:
            raise ValueError(f"{requirement} has no lower bound NAME>=VERSION")
        name, bound = named.groups()
        lowest[name] = PINNED.get(name, bound)
    return [f"{name}=={bound}" for name, bound in sorted(lowest.items())]


if __name__ == "__main__":
    pyproject = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    print("\n".join(constraints(pyproject["project"])))
