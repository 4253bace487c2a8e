"""A job's process. Its order comes as one line on standard input, which ends when the
server does, and with it this process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from miaobi.core.errors import MiaobiError
from miaobi.core.files import home, locked
from miaobi.core.language import say
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
"""People who wait for an answer come before jobs."""


def main() -> int:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell that starts a server in the background has it ignored
    server = FileIO(0)
    order = json.loads(server.readline())
    threading.Thread(target=_wait_for_the_end, args=(server,), daemon=True).start()
    os.nice(NICE)
    settings = Settings(
        **{
            **order["settings"],
            "limits": Limits(**order["settings"]["limits"]),
            **{
                name: tuple(order["settings"][name])
                for name in ("models", "api_keys", "hosts")
            },
        }
    )
    records = open_records(settings.database)
    queue = Queue(records)
    with records.reading() as session:
        job = session.get(Job, order["job"])
    assert job is not None
    files = Files(records, settings.folder / "files", settings.limits.upload_bytes)
    # Whoever worked here before and is still dying holds the lock until it is dead.
    with locked(Path.cwd()):
        return _run(Task(job, order["holder"], queue, files, settings, Path.cwd()))


def _run(task: Task) -> int:
    with suppress(Lost):
        task.queue.renew(task.job.id, task.holder)
        try:
            outcome = work.get(task.job.kind)(task)
        except (Lost, KeyboardInterrupt):
            raise
        except Exception as error:
            log.exception("the job failed")
            told = _told(error)
            task.queue.end(
                task.job.id, task.holder, "failed", told["message"], {}, told
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


def _told(error: Exception) -> Mapping[str, Any]:
    """For the one who asked: what was wrong and what to do, without our paths; of what
    nobody foresaw, only that.
    """
    if isinstance(error, ApiError):
        return {
            "code": error.code or "invalid_request",
            "message": error.message,
            "param": error.param,
        }
    if isinstance(error, MiaobiError):
        words = f"{error.problem} {error.remedy}".strip()
        for place in (Path.cwd(), home()):
            words = words.replace(f"{place}/", "").replace(
                str(place), "the server's folder"
            )
        return {"code": error.code, "message": words, "param": None}
    return {
        "code": "internal_error",
        "message": say(
            "Something went wrong in its process; the job's log on the server tells more.",
            "其进程内部出错；详见服务器上的任务日志。",
        ),
        "param": None,
    }


def _wait_for_the_end(server: FileIO) -> None:
    """However the server ended. Whatever was started from here goes too, which a signal
    from the system at a parent's death would not bring about: the process leads a group
    of its own.
    """
    while server.read(1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
