"""One progress bar on stderr, only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Bar = Callable[[str, float, float], None]
"""bar(label, done, total); a total of 0 when it is not known."""


def silent(label: str, done: float, total: float) -> None:
    """Print nothing."""


@contextmanager
def bar(visible: bool = True) -> Iterator[Bar]:
    """Yield a bar with the time left, which disappears when the work is done."""
    if not (visible and sys.stderr.isatty()):
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

        def show(label: str, done: float, total: float) -> None:
            progress.update(
                task, description=label, completed=done, total=total or None
            )

        yield show
