"""Ctrl-C while the command line itself is being imported: no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

START = """
import signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            sys.argv.pop()
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
for name in [name for name in sys.modules if name in ("json", "typing")]:
    del sys.modules[name]
from miaobi.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module",
    [
        "miaobi.cli",
        "json",
        "typing",
        "miaobi.core.errors",
        "difflib",
        "miaobi.core.config",
        "miaobi.core.registry",
        "miaobi.verbs.doctor",
    ],
)
def test_an_interrupted_import_leaves_no_traceback(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START, "doctor", module],
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 130, done.stderr


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "miaobi", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.strip()


def test_the_start_imports_nothing_that_takes_time() -> None:
    """What Ctrl-C could interrupt before `main` is two small modules of ours."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import miaobi.__main__\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        "__future__",
        "miaobi",
        "miaobi.__main__",
        "miaobi.core",
        "miaobi.core.version",
    ]
