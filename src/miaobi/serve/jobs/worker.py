"""The supervisor: takes jobs from the queue and has each done by a process of its own
(serve/work), which it watches.

A job's process may hold so much memory; it stops with its server, however that ends;
what it prints goes to a log of bounded size. When it dies without a word the job goes
back to the queue, to go on from what its folder keeps, until it died too often. The
server stays up.
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

from miaobi.core import machine
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
"""For a process that is asked to stop, to write its checkpoint."""
QUICK = ("estimate", "training_estimate")
"""Kinds of work for which somebody waits: one of them may run beside the others."""
LOG, LOG_BYTES = "log.txt", 1 << 20
HIDDEN = ("MIAOBI_API_KEY", "MIAOBI_DATABASE_URL")


@dataclass
class Child:
    process: asyncio.subprocess.Process
    most_bytes: int
    largest: int = 0

    def memory(self) -> int:
        """Bytes held by the process and those it started."""
        try:
            first = psutil.Process(self.process.pid)
            held = sum(
                resident(item.pid) for item in [first, *first.children(recursive=True)]
            )
        except psutil.Error:
            return 0
        self.largest = max(self.largest, held)
        return held

    def interrupt(self) -> None:
        """Send Ctrl-C to the whole group: what it started goes with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            machine.interrupt_group(self.process.pid)

    def kill(self) -> None:
        """End the whole group at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            machine.kill_group(self.process.pid)

    async def stop(self) -> None:
        """Ask, wait, insist."""
        self.interrupt()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            pass
        finally:
            self.kill()
            await self.process.wait()


class Supervisor:
    def __init__(self, settings: Settings, queue: Queue) -> None:
        self.settings, self.queue = settings, queue
        self._jobs = set[asyncio.Task[None]]()
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        if self.settings.workers:
            await asyncio.to_thread(self._recover)
            self._main = asyncio.create_task(self._take())

    async def stop(self) -> None:
        """Every process is asked to stop, and its job given back."""
        self._stopping.set()
        if self._main:
            await self._main
        for task in self._jobs:
            task.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _recover(self) -> None:
        """After a crash: free what died with it, and tidy up after what ended."""
        self.queue.free_abandoned()
        for folder in (self.settings.folder / "jobs").glob("*"):
            self._tidy(folder.name)

    async def _take(self) -> None:
        """Jobs, as long as there are hands."""
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
                child.kill()  # what it left behind
                await asyncio.wait([output], timeout=1)
        except Exception:
            log.exception("a job's process could not be run", extra={"job": job.id})
            died = say(
                "Its process could not be started or watched; the server's log tells why.",
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
        """Of a job that ended only the log stays."""
        with self.queue.records.reading() as session:
            job = session.get(Job, job_id)
        if job is None or job.status in ENDED:
            for item in self.folder(job_id).glob("*"):
                if item.is_dir() and not item.is_symlink():
                    shutil.rmtree(item, ignore_errors=True)
                elif item.name != LOG:
                    item.unlink(missing_ok=True)

    def folder(self, job_id: str) -> Path:
        """Where a job keeps what it needs to go on."""
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
            env={
                "OMP_WAIT_POLICY": "PASSIVE",  # it runs beside the models that answer
                **{
                    name: value
                    for name, value in os.environ.items()
                    if name not in HIDDEN
                },
                "MIAOBI_HOME": str(home().absolute()),
            },
        )
        assert process.stdin is not None
        settings = asdict(
            replace(self.settings, api_keys=(), database_url=self.settings.database)
        )
        with contextlib.suppress(
            ConnectionError
        ):  # one that died already is told as such by _watch
            process.stdin.write(
                json.dumps(
                    {"job": job.id, "holder": holder, "settings": settings}
                ).encode()
                + b"\n"
            )
            await (
                process.stdin.drain()
            )  # stays open: its end tells the process that the server is gone
        return Child(
            process,
            self.settings.job_memory_bytes
            or int(0.9 * psutil.virtual_memory().available),
        )

    async def _watch(self, child: Child, job: Job, holder: str) -> str | None:
        """Until the process ends; why it died, which counts where it died without a word."""
        renewed = time.monotonic()
        while child.process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.process.wait(), LOOK_SECONDS)
            if await asyncio.to_thread(child.memory) > child.most_bytes:
                await self._too_large(child, job, holder)
                return None
            try:
                if (
                    time.monotonic() - renewed > RENEW_SECONDS
                    or await asyncio.to_thread(self._is_lost, job, holder)
                ):
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
            f"Its process ended unexpectedly ({_exit_text(code)}).",
            f"其进程意外结束（{_exit_text(code)}）。",
        )

    def _is_lost(self, job: Job, holder: str) -> bool:
        """Cancelled or paused: looked for more often than the lease needs, since a person waits."""
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
    """What the process prints, as far as LOG_BYTES; the rest is read and dropped, so
    that it never waits for us.
    """
    assert child.process.stdout is not None
    with path.open("ab") as file:
        while piece := await child.process.stdout.read(1 << 16):
            if file.tell() + len(piece) <= LOG_BYTES:
                with contextlib.suppress(OSError):  # a full disk ends no job
                    file.write(piece)
                    file.flush()


def _exit_text(code: int) -> str:
    return f"{signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
