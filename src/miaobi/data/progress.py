"""Progress on stderr: a bar where a person watches, a plain line now and then where the
output goes to a file or to another program.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Bar = Callable[[str, float, float], None]
"""bar(label, done, total); a total of 0 when it is not known."""
PERIOD = 10.0
"""Seconds between two plain lines."""


def silent(label: str, done: float, total: float) -> None:
    """Print nothing."""


class PlainLines:
    """A bar for where there is no terminal: a line every PERIOD seconds, so that short
    work stays silent and long work says how far it is.

    Args:
        each_end: print a line at the end of each label's work too
    """

    def __init__(self, each_end: bool = False) -> None:
        self.each_end = each_end
        self.printed = time.monotonic()
        self.finished = set[str]()

    def __call__(self, label: str, done: float, total: float) -> None:
        is_end = bool(total) and done >= total
        if is_end and self.each_end and label not in self.finished:
            self.finished.add(label)
        elif time.monotonic() - self.printed < PERIOD:
            return
        self.printed = time.monotonic()
        amount = f"{done / total:.0%}" if total else f"{done:,.0f}"
        print(f"{label}  {amount}", file=sys.stderr, flush=True)


@contextmanager
def bar(visible: bool = True) -> Iterator[Bar]:
    """Yield a bar with the time left, which disappears when the work is done; without a
    terminal, PlainLines.
    """
    if not visible:
        yield silent
        return
    if not sys.stderr.isatty():
        yield PlainLines()
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
