"""Run as a program by test_systems.py: this process loses what only POSIX systems have,
then imports all of miaobi, trains on the text file that is named, stores and generates.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

MODULES = {"fcntl", "resource", "pwd", "grp", "termios"}
OS_NAMES = (
    "fork forkpty getloadavg getpgid getuid geteuid getgid getegid killpg mkfifo nice "
    "pread pwrite sched_getaffinity sched_setaffinity setsid sysconf uname O_NOFOLLOW"
)
SIGNALS = (
    "SIGKILL SIGSTOP SIGCONT SIGHUP SIGALRM SIGCHLD SIGPIPE SIGQUIT SIGUSR1 SIGUSR2"
)
BUILT_FOR_LINUX = ("psutil", "numpy", "transformers.modeling_utils", "peft", "gradio")
"""Packages that ask which system it is, and then for what that system has."""


def is_psutil() -> bool:
    """Whether psutil is at work, whose Linux build reads /proc; its others do not."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if "psutil" in Path(frame.f_code.co_filename).parts:
            return True
        frame = frame.f_back
    return False


class Refused(MetaPathFinder):
    """Finds no POSIX module."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def refuse_proc(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to open what lies under /proc. Native code of libraries is not asked."""
    is_proc = event == "open" and str(arguments[0]).startswith("/proc")
    if is_proc and not is_psutil():
        raise FileNotFoundError(2, "No such file or directory", str(arguments[0]))


def lose_posix() -> None:
    for name in BUILT_FOR_LINUX:
        importlib.import_module(name)
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Refused())
    for name in OS_NAMES.split():
        delattr(os, name)
    for name in SIGNALS.split():
        delattr(signal, name)
    sys.addaudithook(refuse_proc)


def import_everything() -> int:
    """Import miaobi's modules, all but programs and Alembic's; return how many."""
    import miaobi

    names = [
        module.name
        for module in pkgutil.walk_packages(miaobi.__path__, "miaobi.")
        if not module.name.endswith("__main__") and ".migrations." not in module.name
    ]
    for name in names:
        importlib.import_module(name)
    return len(names)


def main(text: str) -> None:
    lose_posix()
    from miaobi.core.requests import TextRequest
    from miaobi.core.store import Store
    from miaobi.verbs import train
    from miaobi.verbs.generate import text as generate

    trained = train.train(
        {
            "family": "gpt",
            "name": "tiny",
            "data": {"path": text, "context_length": 16},
            "model": {"num_layers": 1, "hidden_size": 16, "num_heads": 2},
            "train": {"max_steps": 4, "batch_size": 2, "trackers": [], "device": "cpu"},
        },
        quiet=True,
    )
    assert Store().resolve("tiny").path.is_dir()
    request = TextRequest(prompt="the ", max_new_tokens=4)
    answer = generate.text(model=trained.model, request=request)
    print("generated", answer)
    print(import_everything(), "modules")


if __name__ == "__main__":
    main(sys.argv[1])
