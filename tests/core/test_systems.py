"""Miaobi does without what only POSIX systems have.

A stand-in for another system, since only Linux runs here: a process in which POSIX
modules cannot be imported, POSIX names of `os` and `signal` are absent, and /proc cannot
be opened imports everything, trains a small model, stores it and generates from it.
docs/guides/systems.md says what this does not show.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from miaobi.core import machine

SOURCE = Path(machine.__file__).parents[1]
LACKING = Path(__file__).with_name("lacking_posix.py")
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "msvcrt"}
POSIX_NAMES = {
    "os": {
        "fork",
        "getgid",
        "getloadavg",
        "getpgid",
        "getuid",
        "killpg",
        "mkfifo",
        "name",
        "nice",
        "pread",
        "pwrite",
        "sched_getaffinity",
        "setsid",
        "symlink",
        "sysconf",
        "uname",
        "O_NOFOLLOW",
    },
    "signal": {"SIGKILL", "SIGSTOP", "SIGCONT", "SIGHUP", "SIGALRM", "SIGUSR1"},
    "sys": {"platform"},
    "platform": {"system", "uname"},
}
"""Names that differ between systems, by module."""


def test_only_machine_asks_which_system_this_is() -> None:
    misplaced = list[str]()
    for path in SOURCE.rglob("*.py"):
        if path == Path(machine.__file__):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for number, what in _differences(tree):
            misplaced.append(f"{path.relative_to(SOURCE)}:{number} {what}")
    assert not misplaced, "belongs into core/machine.py: " + ", ".join(misplaced)


def _differences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that is not there, or not the same, on all systems."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = {alias.name for alias in names}
                yield from ((node.lineno, name) for name in modules & POSIX_MODULES)
            case ast.ImportFrom(module=str(module)) if module in POSIX_MODULES:
                yield node.lineno, module
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                if name in POSIX_NAMES.get(module, ()):
                    yield node.lineno, f"{module}.{name}"
            case ast.keyword(arg="start_new_session" | "preexec_fn" as argument):
                yield node.value.lineno, argument
            case ast.Constant(value=str(text)) if text.startswith("/proc"):
                yield node.lineno, text


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "from resource import getrusage",
        "os.killpg(1, 2)",
        "x = sys.platform == 'linux'",
        "open('/proc/self/status')",
        "Popen([], start_new_session=True)",
    ],
)
def test_the_scan_sees(source: str) -> None:
    assert list(_differences(ast.parse(source)))


@pytest.mark.timeout(600)
def test_trains_stores_and_generates_without_posix(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 200, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(LACKING), str(text)],
        cwd=tmp_path,
        env={**os.environ, "MIAOBI_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "generated" in done.stdout
