"""The supervisor: takes jobs from the queue and runs each in a process of its own
(serve/jobs/work), which it watches.

A job's process may hold a limited amount of memory; it stops with its server, however
that ends; its output goes to a log of bounded size. When it dies without a result, the
job goes back to the queue, to go on from what is in its folder, until it died too often.
The server is not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from miaobi.core import machine, storage
from miaobi.core.files import home
from miaobi.core.language import say
from miaobi.serve.jobs import ENDED, LEASE_SECONDS, Lost, Queue, new_holder
from miaobi.serve.pool import resident
from miaobi.serve.records import Job
from miaobi.serve.settings import Settings

log = logging.getLogger("miaobi.serve")

LOOK_SECONDS = 0.5
"""Between looks at the queue and at a job's memory."""
RENEW_SECONDS = LEASE_SECONDS / 4
STOP_SECONDS = 20.0
"""That a process has to write its checkpoint and stop."""
QUICK = ("estimate", "training_estimate")
"""Kinds of work for which a request waits: one of them may run beside the others."""
LOG = "log.txt"
LOG_BYTES = 1 << 20
HIDDEN = ("MIAOBI_API_KEY", "MIAOBI_DATABASE_URL")
MEMORY_SHARE = 0.9
"""Of the free memory, for a job's process where the settings name no limit."""


@dataclass
class Child:
    """A job's process."""

    process: asyncio.subprocess.Process
    most_bytes: int
    largest: int = 0

    def memory(self) -> int:
        """Return the bytes held by the process and those it started."""
        try:
            parent = psutil.Process(self.process.pid)
            family = [parent, *parent.children(recursive=True)]
            held = sum(resident(member.pid) for member in family)
        except psutil.Error:
            return 0
        self.largest = max(self.largest, held)
        return held

    def interrupt(self) -> None:
        """Interrupt the process and those it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            machine.interrupt_group(self.process.pid)

    def kill(self) -> None:
        """Kill the process and those it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            machine.kill_group(self.process.pid)

    async def stop(self) -> None:
        """Interrupt it, wait STOP_SECONDS, then kill it."""
        self.interrupt()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            pass
        finally:
            self.kill()
            await self.process.wait()


class Supervisor:
    """Runs at most `settings.workers` jobs at the same time."""

    def __init__(self, settings: Settings, queue: Queue) -> None:
        self.settings = settings
        self.queue = queue
        self._jobs = set[asyncio.Task[None]]()
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        if self.settings.workers:
            await asyncio.to_thread(self._recover)
            self._main = asyncio.create_task(self._take())

    async def stop(self) -> None:
        """Interrupt every process, and put its job back into the queue."""
        self._stopping.set()
        if self._main:
            await self._main
        for task in self._jobs:
            task.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _recover(self) -> None:
        """After a crash: free the jobs that ran, and delete the files of those that ended."""
        self.queue.free_abandoned()
        for folder in (self.settings.folder / "jobs").glob("*"):
            self._tidy(folder.name)

    async def _take(self) -> None:
        """Take jobs while there are free workers."""
        while not self._stopping.is_set():
            try:
                while len(self._jobs) <= self.settings.workers:
                    holder = new_holder()
                    full = len(self._jobs) == self.settings.workers
                    job = await asyncio.to_thread(
                        self.queue.claim, holder, QUICK if full else ()
                    )
                    if job is None:
                        break
                    task = asyncio.create_task(self._do(job, holder))
                    self._jobs.add(task)
                    task.add_done_callback(self._jobs.discard)
            except Exception:
                log.exception("the queue cannot be read")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), LOOK_SECONDS)

    async def _do(self, job: Job, holder: str) -> None:
        died: str | None = None
        try:
            child = await self._start_process(job, holder)
            output = asyncio.create_task(_write_log(child, self.folder(job.id) / LOG))
            try:
                died = await self._watch(child, job, holder)
            finally:
                if child.process.returncode is None:
                    await asyncio.shield(asyncio.create_task(child.stop()))
                child.kill()  # processes that it left behind
                await asyncio.wait([output], timeout=1)
        except Exception:
            log.exception("a job's process could not be run", extra={"job": job.id})
            died = say(
                "Its process could not be started or watched; see the server's log.",
                "无法启动或监视其进程；详见服务器日志。",
            )
        finally:
            await asyncio.shield(
                asyncio.create_task(
                    asyncio.to_thread(self._after, job.id, holder, died)
                )
            )

    def _after(self, job_id: str, holder: str, died: str | None) -> None:
        try:
            self.queue.give_back(job_id, holder, died)
            self._tidy(job_id)
        except Exception:  # its lease will run out
            log.exception("a job could not be given back", extra={"job": job_id})

    def _tidy(self, job_id: str) -> None:
        """Delete the files of a job that ended, but for its log."""
        with self.queue.records.reading() as session:
            job = session.get(Job, job_id)
        if job is None or job.status in ENDED:
            for item in self.folder(job_id).glob("*"):
                if item.is_dir() and not item.is_symlink():
                    shutil.rmtree(item, ignore_errors=True)
                elif item.name != LOG:
                    item.unlink(missing_ok=True)

    def folder(self, job_id: str) -> Path:
        """Return the folder with what a job needs to go on."""
        return self.settings.folder / "jobs" / job_id

    async def _start_process(self, job: Job, holder: str) -> Child:
        folder = self.folder(job.id)
        folder.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "miaobi.serve.jobs.work",
            cwd=folder,
            **machine.own_group(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(),
        )
        assert process.stdin is not None
        settings = replace(
            self.settings, api_keys=(), database_url=self.settings.database
        )
        order = {"job": job.id, "holder": holder, "settings": asdict(settings)}
        # `_watch` reports a process that died already. The pipe stays open: its end
        # tells the process that the server has ended.
        with contextlib.suppress(ConnectionError):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            await process.stdin.drain()
        most_bytes = self.settings.job_memory_bytes
        if not most_bytes:
            most_bytes = int(MEMORY_SHARE * psutil.virtual_memory().available)
        return Child(process, most_bytes)

    async def _watch(self, child: Child, job: Job, holder: str) -> str | None:
        """Watch until the process ends; return a message for the case that it did not end
        its job.
        """
        renewed = time.monotonic()
        while child.process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.process.wait(), LOOK_SECONDS)
            if await asyncio.to_thread(child.memory) > child.most_bytes:
                await self._too_large(child, job, holder)
                return None
            try:
                is_due = time.monotonic() - renewed > RENEW_SECONDS
                if is_due or await asyncio.to_thread(self._is_lost, job, holder):
                    await asyncio.to_thread(self.queue.renew, job.id, holder)
                    renewed = time.monotonic()
            except Lost:
                await child.stop()
                return None
            except Exception:  # a database that is away for a moment costs nothing
                log.exception(
                    "a job's lease could not be renewed", extra={"job": job.id}
                )
                if time.monotonic() - renewed > LEASE_SECONDS - RENEW_SECONDS:
                    await child.stop()
        code = child.process.returncode
        log.info(
            "a job's process ended",
            extra={"job": job.id, "exit_code": code, "largest_bytes": child.largest},
        )
        return say(
            f"Its process ended unexpectedly ({_signal(code) or f'exit code {code}'}).",
            f"其进程意外结束（{_signal(code) or f'退出码 {code}'}）。",
        )

    def _is_lost(self, job: Job, holder: str) -> bool:
        """Whether the job was cancelled or paused. Checked more often than the lease needs,
        since a person waits.
        """
        with self.queue.records.reading() as session:
            current = session.get(Job, job.id)
            return current is None or current.holder != holder

    async def _too_large(self, child: Child, job: Job, holder: str) -> None:
        child.kill()
        await child.process.wait()
        message = say(
            f"It needed more than the {child.most_bytes / 1e9:.2f} GB of "
            "memory that a job may have here and was stopped. "
            "Take a smaller batch_size or a shorter data.max_length.",
            f"所需内存超过单个任务的上限 {child.most_bytes / 1e9:.2f} GB，"
            "已停止。请减小 batch_size 或 data.max_length。",
        )
        with contextlib.suppress(Lost):
            await asyncio.to_thread(
                self.queue.end,
                job.id,
                holder,
                "failed",
                message,
                {},
                {"code": "out_of_memory", "message": message, "param": None},
            )


async def _write_log(child: Child, path: Path) -> None:
    """Write the process's output to `path`, up to LOG_BYTES. The rest is read and
    dropped, so that the process never waits.
    """
    assert child.process.stdout is not None
    with path.open("ab") as file:
        while piece := await child.process.stdout.read(1 << 16):
            if file.tell() + len(piece) <= LOG_BYTES:
                with contextlib.suppress(OSError):  # a full disk ends no job
                    file.write(piece)
                    file.flush()


def _environment() -> dict[str, str]:
    """Return the environment of a job's process."""
    return {
        "OMP_WAIT_POLICY": "PASSIVE",  # it runs beside the models that answer
        **{name: value for name, value in os.environ.items() if name not in HIDDEN},
        "MIAOBI_HOME": str(home().absolute()),
        "MIAOBI_STORAGE": str(storage.absolute(storage.root())),
    }


def _signal(code: int) -> str:
    """Return the signal that ended a process; empty for one that ended by itself."""
    return signal.Signals(-code).name if code < 0 else ""
