"""One progress bar on stderr, shown only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Bar = Callable[[str, float, float], None]
"""bar(what is being done, done, total); a total of 0 when it is not known."""


def silent(what: str, done: float, total: float) -> None:
    """Shows nothing."""


@contextmanager
def bar(shown: bool = True) -> Iterator[Bar]:
    """A bar with the time left, which disappears when the work is done."""
    if not (shown and sys.stderr.isatty()):
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(
            task, description=what, completed=done, total=total or None
        )
