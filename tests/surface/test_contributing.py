"""CONTRIBUTING.md, followed to the letter: its package is written out, installed in an
environment of its own, and used.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
VERSES = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n\n" * 80


def block(name: str) -> str:
    """The first fenced block after the mention of a file."""
    match = re.search(rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    assert match, f"CONTRIBUTING.md has no {name}"
    return match[1]


def commands() -> list[str]:
    """The commands of the part about a package, without their prompts."""
    part = TEXT[TEXT.index("A package of your own") :]
    blocks = re.findall(r"```console\n(.*?)```", part, re.DOTALL)
    return [line.removeprefix("$ ") for line in "".join(blocks).splitlines()]


def executable(command: str, python: Path) -> list[str]:
    """A command of the page as it is run in the package's environment."""
    program, *arguments = command.split()
    if program == "miaobi":
        return [str(python), "-m", "miaobi.cli", *arguments]
    assert [program, *arguments][:2] == ["pip", "install"]
    return [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        *arguments[1:],
    ]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of the package, python of a fresh environment that sees this one's
    packages but not the new one).
    """
    folder = tmp_path_factory.mktemp("package")
    for name in (
        "pyproject.toml",
        "miaobi_bigram/family.py",
        "miaobi_bigram/engine.py",
        "bigram.yaml",
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(block(name), encoding="utf-8")
    (folder / "miaobi_bigram" / "__init__.py").touch()
    (folder / "verses.txt").write_text(VERSES, encoding="utf-8")
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    # A .pth line that begins with import also runs the editable install's own .pth
    # files.
    (site / "parent.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    return folder, home / "bin" / "python"


def test_the_package_works_as_written(
    environment: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, python = environment
    variables = {
        **os.environ,
        "MIAOBI_HOME": str(tmp_path / "home"),
        "MIAOBI_LANG": "en",
        "OMP_NUM_THREADS": "1",
    }
    outputs = []
    for command in commands():
        done = subprocess.run(
            executable(command, python),
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    _, trained, sampled, likeliest = outputs
    assert "bigram@1" in trained
    assert 0 < len(sampled.strip()) <= 8
    # The likeliest characters after 春.
    assert likeliest.strip().startswith("眠不觉晓，")


def test_names_collide_in_favour_of_what_is_built_in(
    environment: tuple[Path, Path],
) -> None:
    """Another package cannot replace `gpt` unseen; its own names are listed beside the
    built-in ones.
    """
    folder, python = environment
    site = next((python.parents[1] / "lib").glob("python*/site-packages"))
    intruder = site / "intruder-1.dist-info"
    intruder.mkdir()
    (intruder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: intruder\nVersion: 1\n"
    )
    (intruder / "entry_points.txt").write_text("[miaobi.families]\ngpt = json\n")
    code = (
        "from miaobi.families import families; "
        "print(families.get('gpt').__name__, families.names().count('gpt'), "
        "'bigram' in families.names())"
    )
    done = subprocess.run(
        [str(python), "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert done.stdout.strip() == "miaobi.families.gpt 1 True"
