"""The durable queue: jobs in the database, held by one process at a time, ended once.

A holder takes a job for LEASE_SECONDS and renews that while it works. One whose holder
is gone is taken by the next, and goes on from what its folder keeps. Everything a
holder says is said under its token: once another holds the job, or it was cancelled,
its words count for nothing. Times are the clocks of the machines that share the
database; they have to agree within a few seconds.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from typing import Any

import psutil
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from miaobi.core.language import say
from miaobi.serve.database import Records
from miaobi.serve.errors import ApiError
from miaobi.serve.records import Event, Job, new_id, now

LEASE_SECONDS = 20
ATTEMPTS = 5
"""Times in a row that a job's process may die before it got any further."""
ENDED = ("succeeded", "failed", "cancelled")


class Lost(Exception):
    """The job is no longer this holder's: cancelled, paused, or taken by another after
    the lease ran out.
    """


def new_holder() -> str:
    """A token for one process at one job; it tells where its server runs, so that after
    a crash the next need not wait for the lease.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}:{secrets.token_hex(8)}"


def _server_is_gone(holder: str) -> bool:
    """Whether the server behind a token ran on this machine and does no more."""
    host, pid, began, _ = holder.rsplit(":", 3)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != began
    except psutil.Error:
        return True


class Queue:
    def __init__(self, records: Records) -> None:
        self.records = records

    # For those who ask.

    def add(
        self,
        kind: str,
        key_id: str,
        asked: Mapping[str, Any],
        id: str,
        result: Mapping[str, Any] | None = None,
    ) -> Job:
        with self.records.session() as session:
            job = Job(
                id=id,
                kind=kind,
                key_id=key_id,
                asked=dict(asked),
                status="queued",
                result=dict(result or {}),
            )
            session.add(job)
            session.flush()
            _tell(
                session,
                job,
                "message",
                say("Accepted; waiting for its turn.", "已接受，等待执行。"),
            )
        return job

    def find(self, id: str, kind: str, key_id: str) -> Job:
        """Raises ApiError 404, also for jobs of other keys."""
        with self.records.reading() as session:
            job = session.get(Job, id)
        if job is None or job.kind != kind or job.key_id != key_id:
            raise ApiError(
                404,
                say(f"There is no job {id[:64]!r}.", f"没有任务 {id[:64]!r}。"),
                code="job_not_found",
                param="id",
            )
        return job

    def listed(
        self, kind: str, key_id: str, after: str | None, limit: int
    ) -> list[Job]:
        """Newest first; one more than `limit` where there are more."""
        asked = select(Job).where(Job.kind == kind, Job.key_id == key_id)
        if after is not None:
            asked = asked.where(Job.id < after)
        with self.records.reading() as session:
            return list(session.scalars(asked.order_by(Job.id.desc()).limit(limit + 1)))

    def events(
        self,
        id: str,
        kinds: tuple[str, ...],
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Event]:
        """Those of a job with numbers above `after` (and below `before`)."""
        asked = select(Event).where(
            Event.job_id == id, Event.kind.in_(kinds), Event.number > after
        )
        if before is not None:
            asked = asked.where(Event.number < before)
        with self.records.reading() as session:
            return list(
                session.scalars(
                    asked.order_by(
                        Event.number.desc() if newest_first else Event.number
                    ).limit(limit)
                )
            )

    def number_of(self, id: str, event_id: str) -> int | None:
        """An event's place among those of its job."""
        with self.records.reading() as session:
            return session.scalar(
                select(Event.number).where(Event.job_id == id, Event.id == event_id)
            )

    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        with self.records.reading() as session:
            return {
                row[0]: row[1]
                for row in session.execute(
                    select(Job.status, func.count()).group_by(Job.status)
                )
            }

    def cancel(self, id: str, gently: bool = False) -> Job:
        """End a job. `gently`: one that runs is only told, and ends itself with what it has."""
        with self.records.session() as session:
            job = _locked(session, id)
            if job.status == "running" and gently:
                job.cancel, job.result = True, {**job.result, "cancelling_at": now()}
                _tell(session, job, "message", say("Asked to stop.", "已请求停止。"))
            elif job.status not in ENDED:
                _end(session, job, "cancelled", say("Cancelled.", "已取消。"))
            return job

    def pause(self, id: str) -> Job:
        """Out of its holder's hands until it is resumed."""
        with self.records.session() as session:
            job = _locked(session, id)
            if job.status in ("queued", "running"):
                job.status, job.holder, job.held_until = "paused", None, None
                _tell(session, job, "message", say("Paused.", "已暂停。"))
            return job

    def resume(self, id: str) -> Job:
        with self.records.session() as session:
            job = _locked(session, id)
            if job.status == "paused":
                job.status, job.attempts = "queued", 0
                _tell(
                    session, job, "message", say("Waiting to go on.", "等待继续执行。")
                )
            return job

    # For those who work.

    def claim(self, holder: str, only: tuple[str, ...] = ()) -> Job | None:
        """The job that waited longest, of these kinds or of any, now held by `holder`;
        None when nothing waits. Jobs whose processes keep dying fail here.
        """
        free = (Job.status == "queued") | (
            (Job.status == "running") & (Job.held_until < now())
        )
        if only:
            free &= Job.kind.in_(only)
        with self.records.session() as session:
            while job := session.scalar(
                select(Job)
                .where(free)
                .order_by(Job.created, Job.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            ):
                if job.attempts >= ATTEMPTS:
                    _end(
                        session,
                        job,
                        "failed",
                        say(
                            f"Its process died {ATTEMPTS} times in a row.",
                            f"其进程连续 {ATTEMPTS} 次异常退出。",
                        ),
                        "crashed",
                    )
                    session.flush()
                    continue
                again = job.started is not None
                job.status, job.holder, job.held_until, job.attempts = (
                    "running",
                    holder,
                    now() + LEASE_SECONDS,
                    job.attempts + 1,
                )
                job.started = job.started or now()
                _tell(
                    session,
                    job,
                    "message",
                    say("Goes on.", "继续执行。")
                    if again
                    else say("Started.", "开始执行。"),
                )
                return job
        return None

    def free_the_dead(self) -> None:
        """Let go of what servers on this machine held that run no more. That they ended
        is not held against the jobs.
        """
        with self.records.session() as session:
            for job in session.scalars(
                select(Job)
                .where(Job.status == "running")
                .with_for_update(skip_locked=True)
            ):
                if job.holder and _server_is_gone(job.holder):
                    job.held_until, job.attempts = 0, max(job.attempts - 1, 0)

    def renew(self, id: str, holder: str) -> None:
        """Raises Lost."""
        with self.records.session() as session:
            _held(session, id, holder).held_until = now() + LEASE_SECONDS

    def progress(self, id: str, holder: str, result: Mapping[str, Any]) -> bool:
        """Note how far it is; returns whether somebody asked it to stop. Raises Lost."""
        with self.records.session() as session:
            job = _held(session, id, holder)
            job.result, job.attempts = {**job.result, **result}, 0
            return job.cancel

    def tell(
        self,
        id: str,
        holder: str,
        kind: str,
        message: str,
        data: Mapping[str, Any],
        level: str = "info",
    ) -> None:
        """Add to what happened. Raises Lost."""
        with self.records.session() as session:
            _tell(session, _held(session, id, holder), kind, message, data, level)

    def end(
        self,
        id: str,
        holder: str,
        status: str,
        message: str,
        result: Mapping[str, Any],
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """The last word of the holder. Raises Lost."""
        with self.records.session() as session:
            job = _held(session, id, holder)
            job.result, job.error = (
                {**job.result, **result},
                None if error is None else dict(error),
            )
            _end(session, job, status, message)

    def give_back(self, id: str, holder: str, died: str | None = None) -> None:
        """To the queue again: because this server goes down, or because its process
        `died`, which counts. What is lost already stays so.
        """
        with self.records.session() as session:
            try:
                job = _held(session, id, holder)
            except Lost:
                return
            if died is not None and job.attempts >= ATTEMPTS:
                _end(session, job, "failed", died, "crashed")
                return
            job.status, job.holder, job.held_until = "queued", None, None
            if died is None:
                job.attempts = max(job.attempts - 1, 0)
            _tell(
                session,
                job,
                "message",
                died or say("Interrupted; it will go on.", "被中断，稍后继续。"),
                level="info" if died is None else "warn",
            )


def _locked(session: Session, id: str) -> Job:
    return session.scalars(select(Job).where(Job.id == id).with_for_update()).one()


def _held(session: Session, id: str, holder: str) -> Job:
    job = _locked(session, id)
    if job.status != "running" or job.holder != holder:
        raise Lost(id)
    return job


def _end(
    session: Session, job: Job, status: str, message: str, code: str | None = None
) -> None:
    job.status, job.ended, job.holder, job.held_until = status, now(), None, None
    if code is not None:
        job.error = {"code": code, "message": message, "param": None}
    _tell(
        session,
        job,
        "message",
        message,
        level="error" if status == "failed" else "info",
    )


def _tell(
    session: Session,
    job: Job,
    kind: str,
    message: str,
    data: Mapping[str, Any] | None = None,
    level: str = "info",
) -> None:
    last = (
        session.scalar(select(func.max(Event.number)).where(Event.job_id == job.id))
        or 0
    )
    session.add(
        Event(
            id=new_id("ftevent"),
            job_id=job.id,
            number=last + 1,
            kind=kind,
            level=level,
            message=message,
            data=dict(data or {}),
        )
    )
    session.flush()
