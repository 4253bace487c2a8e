"""Progress of a training run: a bar with loss, speed and time left; plain lines where
there is no terminal.
"""

from __future__ import annotations

import sys
import time

from miaobi.core.language import say
from miaobi.core.quantities import format_duration
from miaobi.train.loop import State

REFRESH_SECONDS = 0.2
LINES_A_RUN = 10


class View:
    """A hook that shows progress; quick enough to be called after every step."""

    def __init__(
        self, state: State, quiet: bool = False, validates: bool = True
    ) -> None:
        self.quiet = quiet
        self.validates = validates
        self.steps_a_line = max(state.config.max_steps // LINES_A_RUN, 1)
        self.first_step = state.step
        self.first_seen = state.seen
        self.began = time.monotonic()
        self.refreshed = 0.0
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
        if self.quiet:
            return
        now = time.monotonic()
        last = state.step >= state.config.max_steps
        if self.bar:
            if last or now - self.refreshed > REFRESH_SECONDS:
                self.refreshed = now
                self.bar.update(
                    self.task,
                    completed=state.step,
                    description=self._describe(state, now),
                )
        elif last or state.step % self.steps_a_line == 0:
            self._print(state, now)

    def _print(self, state: State, now: float) -> None:
        max_steps = state.config.max_steps
        steps_a_second = (state.step - self.first_step) / max(now - self.began, 1e-9)
        left = format_duration((max_steps - state.step) / steps_a_second)
        print(
            f"{state.step}/{max_steps}  {self._describe(state, now)}  {say('left', '剩余')} {left}",
            file=sys.stderr,
            flush=True,
        )

    def _describe(self, state: State, now: float) -> str:
        """Losses, validation loss and speed."""
        parts = [
            f"{name} {value:.3f}"
            for name, value in state.train.items()
            if name.endswith("loss")
        ]
        if state.validation is not None:
            parts.append(f"{say('validation', '验证')} {state.validation:.3f}")
        if not self.validates:
            parts.append(say("no validation", "无验证"))
        speed = (state.seen - self.first_seen) / max(now - self.began, 1e-9)
        parts.append(f"{speed:,.0f} {state.objective.unit}/s")
        return "  ".join(parts)

    def say(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, highlight=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
