"""What a search and its dry run return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core.language import in_each, say


@dataclass(frozen=True)
class Planned:
    """What a dry run returns."""

    name: str
    metric: str
    direction: str
    trials: int
    steps: int
    seconds: float
    """Of all trials, were none stopped early."""
    space: Mapping[str, str]

    def __str__(self) -> str:
        from miaobi.core.quantities import format_duration

        time = format_duration(self.seconds)
        better = say("higher", "越高越好")
        if self.direction == "minimize":
            better = say("lower", "越低越好")
        summary = in_each(
            lambda: say(
                f"{self.name}: {self.trials} trials of about {self.steps} steps, "
                f"by {self.metric} ({better} is better). At most {time}.",
                f"{self.name}：{self.trials} 次试验，每次约 {self.steps} 步，"
                f"指标 {self.metric}（{better}）。最多 {time}。",
            )
        )
        width = max(map(len, self.space))
        rows = [f"  {key:<{width}}  {values}" for key, values in self.space.items()]
        return "\n".join([summary, *rows])


@dataclass(frozen=True)
class Searched:
    """A search as it stands."""

    name: str
    folder: Path
    metric: str
    value: float | None
    """Of the best trial; None while no trial has finished."""
    first: float | None
    """Of the recipe's own settings."""
    settings: Mapping[str, Any]
    trials: int
    stopped_early: int
    failed: int
    ended: str
    """Why it ended; empty when it was interrupted."""
    report: Path
    best: Path | None
    command: str

    def __str__(self) -> str:
        counts = say(
            f"{self.trials} trials ({self.stopped_early} stopped early, {self.failed} failed)",
            f"{self.trials} 次试验（提前停止 {self.stopped_early}，失败 {self.failed}）",
        )
        summary = f"{self.name}: {counts}"
        if self.ended:
            summary += f"; {self.ended}"
        report = say(f"  report: {self.report}", f"  报告：{self.report}")
        return "\n".join([summary, *self._best_trial(), report])

    def _best_trial(self) -> list[str]:
        if self.value is None:
            return []
        best = f"{self.value:.4g}"
        if self.first is not None:
            best += say(
                f"; the recipe itself: {self.first:.4g}",
                f"；原配方：{self.first:.4g}",
            )
        return [
            in_each(
                lambda: say(
                    f"  best {self.metric}: {best}", f"  最佳 {self.metric}：{best}"
                )
            ),
            *(f"    {key}: {value}" for key, value in self.settings.items()),
            say(f"  next: {self.command}", f"  接下来：{self.command}"),
        ]
