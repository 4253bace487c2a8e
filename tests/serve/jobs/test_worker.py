"""Jobs in processes of their own: watched, stopped, killed, taken up again; the server stays up."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.serve.databases import postgres
from tests.serve.packages import installed

from miaobi.serve import jobs
from miaobi.serve.database import Records, open_records
from miaobi.serve.jobs import ENDED, Queue
from miaobi.serve.jobs.worker import LOG_BYTES, Supervisor
from miaobi.serve.records import Job, new_id
from miaobi.serve.settings import Settings

__all__ = ["postgres"]

DEADLINE = 60.0


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package on the path, with a kind of work of its own."""
    installed(
        tmp_path / "package", "toy_work", "miaobi.work", "toy_work:run", monkeypatch
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path / 'r.sqlite'}", job_memory_bytes=1 << 30
    )


@pytest.fixture
def records(settings: Settings) -> Iterator[Records]:
    records = open_records(settings.database)
    yield records
    records.close()


@pytest.fixture
def queue(records: Records) -> Queue:
    return Queue(records)


@asynccontextmanager
async def supervised(settings: Settings, queue: Queue) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(settings, queue)
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


def add(queue: Queue, **request: Any) -> str:
    return queue.add("toy", "a", request, new_id("job")).id


def look(queue: Queue, id: str) -> Job:
    return queue.find(id, "toy", "a")


async def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def ended(queue: Queue, id: str) -> Job:
    await until(lambda: look(queue, id).status in ENDED)
    return look(queue, id)


def during(
    settings: Settings, queue: Queue, act: Callable[[Supervisor], Awaitable[Any]]
) -> Any:
    async def run() -> Any:
        async with supervised(settings, queue) as supervisor:
            return await act(supervisor)

    return asyncio.run(run())


def finals(queue: Queue, id: str) -> list[str]:
    """The words in which a job's end was told."""
    return [
        event.message
        for event in queue.events(id, ("message",))
        if event.message in ("Counted.", "Stopped half way.", "Cancelled.")
    ]


def test_jobs_are_done_and_only_their_logs_stay(
    settings: Settings, queue: Queue
) -> None:
    ids = [add(queue, steps=2) for _ in range(2)]

    async def act(supervisor: Supervisor) -> None:
        for id in ids:
            job = await ended(queue, id)
            assert (job.status, job.result["counted"]) == ("succeeded", 2)
            await until(
                lambda id=id: (
                    [path.name for path in supervisor.folder(id).iterdir()]
                    == ["log.txt"]
                )
            )
            assert [event.data["step"] for event in queue.events(id, ("metrics",))] == [
                1,
                2,
            ]

    during(replace(settings, workers=2), queue, act)


@pytest.mark.parametrize(
    ("do", "code", "phrase"),
    [
        ("raise", "internal_error", "Something went wrong"),
        ("refuse", "bad_input", "training.jsonl:3 has no answer. Mend line 3."),
        ("grow", "out_of_memory", "more than the 0.30 GB"),
    ],
)
def test_what_fails_says_why_and_no_path(
    settings: Settings, queue: Queue, do: str, code: str, phrase: str
) -> None:
    id = add(queue, do=do)
    job = during(
        replace(settings, job_memory_bytes=300_000_000),
        queue,
        lambda _: ended(queue, id),
    )
    assert (
        job.status == "failed"
        and job.error["code"] == code
        and phrase in job.error["message"]
    )
    assert (
        str(settings.folder) not in job.error["message"]
        and "secret" not in job.error["message"]
    )


def test_a_process_that_crashes_is_tried_again_and_fails_with_the_reason(
    settings: Settings, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ATTEMPTS", 2)
    id = add(queue, do="die")
    job = during(settings, queue, lambda _: ended(queue, id))
    assert (
        job.status == "failed"
        and "SIGABRT" in job.error["message"]
        and job.attempts == 2
    )


def test_a_log_has_an_end(settings: Settings, queue: Queue) -> None:
    id = add(queue, do="chatter")

    async def act(supervisor: Supervisor) -> None:
        assert (await ended(queue, id)).status == "succeeded"
        assert 0 < (supervisor.folder(id) / "log.txt").stat().st_size <= LOG_BYTES

    during(settings, queue, act)


def test_cancelled_and_paused_ones_stop_at_once(
    settings: Settings, queue: Queue
) -> None:
    gone = add(queue, steps=10_000)
    paused = add(queue, steps=10_000)

    async def act(supervisor: Supervisor) -> None:
        await until(
            lambda: all(
                look(queue, job).result.get("pid")
                and (supervisor.folder(job) / "steps.txt").exists()
                for job in (gone, paused)
            )
        )
        pids = look(queue, gone).result["pid"], look(queue, paused).result["pid"]
        queue.cancel(gone)
        queue.pause(paused)
        await until(lambda: not any(map(psutil.pid_exists, pids)))
        assert (look(queue, gone).status, look(queue, paused).status) == (
            "cancelled",
            "paused",
        )
        before = len((supervisor.folder(paused) / "steps.txt").read_text())
        queue.resume(paused)
        await until(
            lambda: len((supervisor.folder(paused) / "steps.txt").read_text()) > before
        )
        queue.cancel(paused, gently=True)
        job = await ended(queue, paused)
        assert job.status == "cancelled" and finals(queue, paused) == [
            "Stopped half way."
        ]

    during(replace(settings, workers=2), queue, act)


def test_what_a_process_started_goes_with_it(settings: Settings, queue: Queue) -> None:
    id = add(queue, do="fork", steps=10_000)

    async def act(supervisor: Supervisor) -> int:
        await until(lambda: look(queue, id).result.get("step"))
        return int(look(queue, id).result["child"])

    grandchild = during(settings, queue, act)
    assert _is_gone(grandchild)
    assert look(queue, id).status == "queued"  # the server went down; the next goes on
    assert look(queue, id).attempts == 0


def _is_gone(pid: int) -> bool:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


SERVER = """
import asyncio, sys
from miaobi.serve import jobs
from miaobi.serve.database import open_records
from miaobi.serve.jobs import Queue
from miaobi.serve.settings import Settings
from miaobi.serve.jobs.worker import Supervisor

jobs.ATTEMPTS = 1000  # a machine that is busy may not get anywhere between two kills, which is no fault of the job

async def main():
    settings = Settings(database_url=sys.argv[1], workers=2, job_memory_bytes=1 << 30)
    supervisor = Supervisor(settings, Queue(open_records(settings.database)))
    await supervisor.start()
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@contextmanager
def server(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a supervisor, killed at the end."""
    started = subprocess.Popen(
        [sys.executable, "-c", SERVER, settings.database], stdout=subprocess.PIPE
    )
    assert started.stdout is not None and started.stdout.readline() == b"up\n"
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def test_a_server_that_is_killed_takes_all_with_it(
    settings: Settings, queue: Queue
) -> None:
    id = add(queue, do="fork", steps=10_000)
    with server(settings):
        asyncio.run(until(lambda: look(queue, id).result.get("step")))
        progress = look(queue, id).result
    assert _is_gone(progress["pid"]) and _is_gone(progress["child"])


def kills(
    settings: Settings, queue: Queue, jobs: int, rounds: int, chance: random.Random
) -> None:
    """Servers and workers killed at random moments: at the end every job is done, once,
    each step of it once.
    """
    ids = [add(queue, steps=chance.randint(5, 15), seconds=0.05) for _ in range(jobs)]

    with ExitStack() as stack:
        running = stack.enter_context(server(settings))
        for _ in range(rounds):
            time.sleep(chance.uniform(0.1, 1.5))
            workers = psutil.Process(running.pid).children()
            if workers and chance.random() < 0.5:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(workers).pid, signal.SIGKILL)
            else:
                stack.close()
                assert all(_is_gone(worker.pid) for worker in workers)
                running = stack.enter_context(server(settings))
        deadline = time.monotonic() + 120
        while (
            any(look(queue, id).status not in ENDED for id in ids)
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)
    for id in ids:
        job = look(queue, id)
        assert job.status == "succeeded" and finals(queue, id) == ["Counted."]
        assert job.result["counted"] == job.request["steps"]
        steps = [event.data["step"] for event in queue.events(id, ("metrics",))]
        assert steps == sorted(
            set(steps)
        )  # a step may be done and not told, never told twice


def test_killing_servers_and_workers_loses_nothing_and_repeats_nothing(
    settings: Settings, queue: Queue
) -> None:
    kills(settings, queue, jobs=2, rounds=3, chance=random.Random(5))


def test_on_postgresql_too(settings: Settings, postgres: str) -> None:
    records = open_records(postgres)
    kills(
        replace(settings, database_url=postgres),
        Queue(records),
        jobs=2,
        rounds=2,
        chance=random.Random(8),
    )
    records.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_kills(settings: Settings, queue: Queue) -> None:
    kills(settings, queue, jobs=40, rounds=100, chance=random.Random(6))
