"""What a job's work gets: the job, a folder that outlives its processes, and the events
and the progress that it records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.serve.files import Files
from miaobi.serve.jobs import Queue
from miaobi.serve.records import Job
from miaobi.serve.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """How it ended: a message for people, a result for programs."""

    message: str
    result: Mapping[str, Any]
    status: str = "succeeded"


@dataclass(frozen=True)
class Task:
    """A work module offers `run(task) -> Outcome`. It may be killed at any moment and
    run again: what is finished has to be on disk, in `folder`, and is not done again.
    Everything that speaks raises `Lost` when the job is no longer its own; let it
    through.
    """

    job: Job
    holder: str
    queue: Queue
    files: Files
    settings: Settings
    folder: Path

    def record_event(
        self,
        message: str,
        kind: str = "message",
        data: Mapping[str, Any] | None = None,
        level: str = "info",
    ) -> None:
        self.queue.record_event(
            self.job.id, self.holder, kind, message, data or {}, level
        )

    def progress(self, **result: Any) -> bool:
        """Store how far it is; return whether it was asked to stop."""
        return self.queue.progress(self.job.id, self.holder, result)
