"""`make release` and `make lowest`: what they refuse, what they write."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from miaobi import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RELEASED = "# Changelog\n\n## [Unreleased]\n\n## [0.7.0] - 2027-01-31\n\n- More.\n"


def script(name: str) -> ModuleType:
    """A file of deploy/ as a module."""
    spec = spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = script("release")
lowest = script("lowest")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of version 0.7.0, which its changelog describes."""
    version = tmp_path / release.VERSION
    version.parent.mkdir(parents=True)
    version.write_text('__version__ = "0.7.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(RELEASED)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *argv: str) -> None:
    named = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", *named, *argv], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")


def test_a_clean_tree_with_its_section_is_released(tree: Path) -> None:
    assert release.version_of(tree) == "0.7.0"
    assert release.obstacles(tree) == []


@pytest.mark.parametrize("name", ["CHANGELOG.md", "new.txt"])
def test_a_tree_with_changes_is_refused(tree: Path, name: str) -> None:
    with (tree / name).open("a") as file:
        file.write("one more line\n")
    (why,) = release.obstacles(tree)
    assert why == f"1 files are not committed, first {name}."


@pytest.mark.parametrize("version", ["0.7.1", "0.7"])
def test_a_version_without_its_section_is_refused(tree: Path, version: str) -> None:
    (tree / release.VERSION).write_text(f'__version__ = "{version}"\n')
    commit(tree)
    assert release.obstacles(tree) == [
        f"CHANGELOG.md has no section `## [{version}] - DATE`."
    ]


def test_unreleased_changes_are_refused(tree: Path) -> None:
    changes = RELEASED.replace("[Unreleased]\n", "[Unreleased]\n\n- A change.\n")
    (tree / "CHANGELOG.md").write_text(changes)
    commit(tree)
    (why,) = release.obstacles(tree)
    assert "unreleased changes" in why


def test_the_changelog_describes_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert release.version_of(ROOT) == __version__ == sections[1]


def test_every_requirement_of_users_has_its_lowest_version() -> None:
    lines = lowest.constraints(PROJECT)
    assert "torch==2.13.0" in lines
    assert "fastapi==0.133" in lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


def test_a_requirement_without_a_bound_is_an_error() -> None:
    project = {"name": "x", "dependencies": ["numpy"], "optional-dependencies": {}}
    with pytest.raises(ValueError, match="numpy has no lower bound"):
        lowest.constraints(project)
