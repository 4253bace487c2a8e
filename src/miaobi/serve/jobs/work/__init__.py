"""What the server's jobs do, one file a kind of job, each in a process of its own:
`run(task)` (the contract is in task.py). `python -m miaobi.serve.jobs.work` is the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from miaobi.serve.jobs.work.task import Outcome, Task

work: Registry[Callable[[Task], Outcome]] = Registry(
    "work",
    {
        "fine_tuning": "miaobi.serve.jobs.work.fine_tuning:run",
        "estimate": "miaobi.serve.jobs.work.fine_tuning:estimate",
        "training": "miaobi.serve.jobs.work.training:run",
        "training_estimate": "miaobi.serve.jobs.work.training:estimate",
        "export": "miaobi.serve.jobs.work.export:run",
        "batch": "miaobi.serve.jobs.work.batch:run",
    },
)
