"""What a person sees while a model trains: a bar with loss, speed and time left; plain
lines where there is no terminal.
"""

from __future__ import annotations

import sys
import time

from miaobi.core.language import say
from miaobi.train.estimate import format_duration
from miaobi.train.loop import State


class View:
    """A hook that draws; quick enough to be called after every step."""

    def __init__(self, state: State, quiet: bool = False) -> None:
        self.quiet, self.shown, self.line_every = (
            quiet,
            0.0,
            max(state.config.max_steps // 10, 1),
        )
        self.first, self.seen, self.began = state.step, state.seen, time.monotonic()
        self.bar = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self.bar = Progress(
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(
                "", total=state.config.max_steps, completed=state.step
            )
            self.bar.start()

    def __call__(self, state: State) -> None:
        now, last = time.monotonic(), state.step >= state.config.max_steps
        if self.bar and (now - self.shown > 0.2 or last):
            self.shown = now
            self.bar.update(
                self.task, completed=state.step, description=self._figures(state, now)
            )
        elif (
            not self.bar
            and not self.quiet
            and (state.step % self.line_every == 0 or last)
        ):
            speed = (state.step - self.first) / max(now - self.began, 1e-9)
            left = format_duration((state.config.max_steps - state.step) / speed)
            print(
                f"{state.step}/{state.config.max_steps}  {self._figures(state, now)}  {say('left', '剩余')} {left}",
                file=sys.stderr,
                flush=True,
            )

    def _figures(self, state: State, now: float) -> str:
        losses = "  ".join(
            f"{name} {value:.3f}"
            for name, value in state.train.items()
            if name.endswith("loss")
        )
        validation = (
            f"  {say('validation', '验证')} {state.validation:.3f}"
            if state.validation is not None
            else ""
        )
        return (
            f"{losses}{validation}  "
            f"{(state.seen - self.seen) / max(now - self.began, 1e-9):,.0f} "
            f"{state.objective.unit}/s"
        )

    def say(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, highlight=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
