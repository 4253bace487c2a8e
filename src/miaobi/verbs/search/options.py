"""The options of `miaobi search` that are no keys of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

TRIALS = 20
"""Of a search that sets no number."""
SHARE = 0.25
"""Of the recipe's steps, for a trial, where neither --minutes nor --train.max_steps is set."""
LEAST_PATIENCE = 6
"""Trials without an improvement that every search waits for."""


@dataclass(frozen=True)
class Options:
    trials: Annotated[int, Field(ge=1)] | None = None
    """Number of trials; 20 by default."""
    metric: str | None = None
    """How trials are compared on the validation data: validation (the loss), or a metric of the task, such as f1."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Time limit of a trial. Without it a trial gets --train.max_steps, or a quarter of the recipe's steps."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that run trials side by side; they share the processor's cores."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """End after so many trials without an improvement; half of the trials by default, at least 6."""
    prune: bool = True
    """Stop trials whose validations are worse than the median's."""
    search_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the settings that are drawn."""
    name: str | None = None
    """Name of the search: its folder is RUNS/search-NAME."""
    dry_run: bool = False
    """Show the space and the estimated time, and stop."""
    runs: str = "runs"
    """Folder of the runs."""

    @property
    def trial_count(self) -> int:
        return self.trials or TRIALS

    @property
    def patience_trials(self) -> int:
        half_rounded_up = -(-self.trial_count // 2)
        return self.patience or max(LEAST_PATIENCE, half_rounded_up)
