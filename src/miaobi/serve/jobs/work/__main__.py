"""A job's process. Its order is one line on standard input; that ends when the server
ends, and this process with it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from miaobi.core import machine
from miaobi.core.errors import MiaobiError
from miaobi.core.files import home, locked
from miaobi.core.language import in_each, say
from miaobi.serve.database import open_records
from miaobi.serve.errors import ApiError
from miaobi.serve.files import Files
from miaobi.serve.jobs import Lost, Queue
from miaobi.serve.jobs.work import work
from miaobi.serve.jobs.work.task import Task
from miaobi.serve.records import Job
from miaobi.serve.settings import Limits, Settings

log = logging.getLogger("miaobi.serve.jobs.work")

NICE = 10
"""Requests that wait for an answer come before jobs."""


def main() -> int:
    # A shell that starts a server in the background makes it ignore the signal.
    machine.raise_on_interrupt()
    server = FileIO(0)
    order = json.loads(server.readline())
    threading.Thread(target=_wait_for_the_end, args=(server,), daemon=True).start()
    machine.lower_priority(NICE)
    settings = _settings(order["settings"])
    records = open_records(settings.database)
    queue = Queue(records)
    with records.reading() as session:
        job = session.get(Job, order["job"])
    assert job is not None
    files = Files.of(records, settings)
    # A process that worked here before and is still ending holds the lock.
    with locked(Path.cwd()):
        return _run(Task(job, order["holder"], queue, files, settings, Path.cwd()))


def _settings(fields: Mapping[str, Any]) -> Settings:
    """Return the server's settings, from JSON, which has lists for tuples."""
    tuples = {
        name: tuple(value) for name, value in fields.items() if isinstance(value, list)
    }
    return Settings(**{**fields, **tuples, "limits": Limits(**fields["limits"])})


def _run(task: Task) -> int:
    with suppress(Lost):
        task.queue.renew(task.job.id, task.holder)
        try:
            outcome = work.get(task.job.kind)(task)
        except (Lost, KeyboardInterrupt):
            raise
        except Exception as error:
            log.exception("the job failed")
            error_fields = _error_fields(error)
            task.queue.end(
                task.job.id,
                task.holder,
                "failed",
                error_fields["message"],
                {},
                error_fields,
            )
        else:
            task.queue.end(
                task.job.id,
                task.holder,
                outcome.status,
                outcome.message,
                outcome.result,
            )
    return 0


def _error_fields(error: Exception) -> Mapping[str, Any]:
    """Return the job's error for its caller: what was wrong and what to do, without
    paths of this machine; of an unexpected error only that there was one.
    """
    if isinstance(error, ApiError):
        return {
            "code": error.code or "invalid_request",
            "message": error.message,
            "param": error.param,
        }
    if isinstance(error, MiaobiError):

        def message() -> str:
            text = str(error.sentence)
            here = say("the server's folder", "服务器文件夹")
            for folder in (Path.cwd(), home()):
                text = text.replace(f"{folder}/", "").replace(str(folder), here)
            return text

        return {"code": error.code, "message": in_each(message), "param": None}
    return {
        "code": "internal_error",
        "message": say(
            "Something went wrong in its process; see the job's log on the server.",
            "其进程内部出错；详见服务器上的任务日志。",
        ),
        "param": None,
    }


def _wait_for_the_end(server: FileIO) -> None:
    """End this process and those it started when the server has ended, however that was.

    The process leads a group of its own. A signal from the system at the death of a
    parent would not reach the others.
    """
    while server.read(1):
        pass
    machine.kill_own_group()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
