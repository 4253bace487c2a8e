"""The durable queue: jobs in the database, held by one process at a time, ended once.

A holder takes a job for LEASE_SECONDS and renews the lease while it works. A job whose
holder is gone is taken by the next, and goes on from what is in its folder. A holder
changes its job under its token only: once another holds the job, or it was cancelled,
that raises Lost. Times are the clocks of the machines that share the database; they
have to agree within a few seconds.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Collection, Mapping
from typing import Any

import psutil
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from miaobi.core.language import Wording, say
from miaobi.serve.database import Records
from miaobi.serve.errors import ApiError
from miaobi.serve.records import MESSAGE, Event, Job, new_id, now

LEASE_SECONDS = 20
ATTEMPTS = 5
"""Times in a row that a job's process may die before it got any further."""
ENDED = ("succeeded", "failed", "cancelled")


class Lost(Exception):
    """The job is not this holder's any more: it was cancelled or paused, or another
    took it after the lease ended.
    """


def new_holder() -> str:
    """Return a token for one process at one job. It names the server's process, so that
    after a crash of the server the next one need not wait for the lease to end.
    """
    started = psutil.Process().create_time()
    return f"{socket.gethostname()}:{os.getpid()}:{started:.2f}:{secrets.token_hex(8)}"


def _server_is_gone(holder: str) -> bool:
    """Whether the server of a token ran on this machine and does not run any more."""
    host, pid, started, _ = holder.rsplit(":", 3)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.Error:
        return True


class Queue:
    """The jobs of one database."""

    def __init__(self, records: Records) -> None:
        self.records = records

    # For the routes.

    def add(
        self,
        kind: str,
        key_id: str,
        request: Mapping[str, Any],
        id: str,
        result: Mapping[str, Any] | None = None,
    ) -> Job:
        """Add a job of `kind`, for the key `key_id`, which waits from now on.

        Args:
            kind: the name of its work (jobs/work/).
            key_id: whose it is.
            request: its fields, checked.
            id: of the job, from `new_id`.
            result: what is known of its result before it runs.
        """
        with self.records.session() as session:
            job = Job(
                id=id,
                kind=kind,
                key_id=key_id,
                request=dict(request),
                status="queued",
                result=dict(result or {}),
            )
            session.add(job)
            session.flush()
            _record_event(
                session,
                job,
                "message",
                say("Accepted; waiting for its turn.", "已接受，等待执行。"),
            )
        return job

    def find(self, id: str, kind: str, key_id: str) -> Job:
        """Return a job of the key. Raise ApiError 404, also for jobs of other keys."""
        return self.find_any(id, (kind,), key_id)

    def find_any(self, id: str, kinds: Collection[str], key_id: str) -> Job:
        """Return a job of the key, of any of these kinds. Raise ApiError 404."""
        with self.records.reading() as session:
            job = session.get(Job, id)
        if job is None or job.kind not in kinds or job.key_id != key_id:
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
        query = select(Job).where(Job.kind == kind, Job.key_id == key_id)
        if after is not None:
            query = query.where(Job.id < after)
        with self.records.reading() as session:
            return list(session.scalars(query.order_by(Job.id.desc()).limit(limit + 1)))

    def of_kinds(
        self, kinds: Collection[str], key_id: str, after: str | None, limit: int
    ) -> list[Job]:
        """Jobs of several kinds, the last that were asked for first; one more than
        `limit` where there are more. `after` is the id of a job of the key.
        """
        query = select(Job).where(Job.kind.in_(kinds), Job.key_id == key_id)
        with self.records.reading() as session:
            last = session.get(Job, after) if after is not None else None
            if last is not None:
                older = (Job.created == last.created) & (Job.id < last.id)
                query = query.where((Job.created < last.created) | older)
            newest = query.order_by(Job.created.desc(), Job.id.desc())
            return list(session.scalars(newest.limit(limit + 1)))

    def counts_of(self, kinds: Collection[str], key_id: str) -> dict[str, int]:
        """Return the number of a key's jobs of these kinds by status."""
        query = (
            select(Job.status, func.count())
            .where(Job.kind.in_(kinds), Job.key_id == key_id)
            .group_by(Job.status)
        )
        with self.records.reading() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def events(
        self,
        id: str,
        kinds: tuple[str, ...],
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Event]:
        """Return the events of a job with numbers above `after` and below `before`."""
        query = select(Event).where(
            Event.job_id == id, Event.kind.in_(kinds), Event.number > after
        )
        if before is not None:
            query = query.where(Event.number < before)
        order = Event.number.desc() if newest_first else Event.number.asc()
        with self.records.reading() as session:
            return list(session.scalars(query.order_by(order).limit(limit)))

    def number_of(self, id: str, event_id: str) -> int | None:
        """Return an event's number among those of its job; None if it has no such event."""
        with self.records.reading() as session:
            return session.scalar(
                select(Event.number).where(Event.job_id == id, Event.id == event_id)
            )

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by status."""
        query = select(Job.status, func.count()).group_by(Job.status)
        with self.records.reading() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def cancel(self, id: str, gently: bool = False) -> Job:
        """End a job. `gently`: a running one ends itself, with the result that it has."""
        with self.records.session() as session:
            job = _locked(session, id)
            if job.status == "running" and gently:
                job.cancel = True
                job.result = {**job.result, "cancelling_at": now()}
                _record_event(
                    session, job, "message", say("Asked to stop.", "已请求停止。")
                )
            elif job.status not in ENDED:
                _end(session, job, "cancelled", say("Cancelled.", "已取消。"))
            return job

    def pause(self, id: str) -> Job:
        """Take a job from its holder; it waits until it is resumed."""
        with self.records.session() as session:
            job = _locked(session, id)
            if job.status in ("queued", "running"):
                job.status = "paused"
                _release(job)
                _record_event(session, job, "message", say("Paused.", "已暂停。"))
            return job

    def resume(self, id: str) -> Job:
        with self.records.session() as session:
            job = _locked(session, id)
            if job.status == "paused":
                job.status = "queued"
                job.attempts = 0
                _record_event(
                    session, job, "message", say("Waiting to go on.", "等待继续执行。")
                )
            return job

    # For workers.

    def claim(self, holder: str, only: tuple[str, ...] = ()) -> Job | None:
        """The job that waited longest, of these kinds or of any, now held by `holder`;
        None when nothing waits. Jobs whose processes keep dying fail here.
        """
        free = (Job.status == "queued") | (
            (Job.status == "running") & (Job.held_until < now())
        )
        if only:
            free &= Job.kind.in_(only)
        query = (
            select(Job)
            .where(free)
            .order_by(Job.created, Job.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self.records.session() as session:
            while job := session.scalar(query):
                if job.attempts < ATTEMPTS:
                    _hold(session, job, holder)
                    return job
                message = say(
                    f"Its process died {ATTEMPTS} times in a row.",
                    f"其进程连续 {ATTEMPTS} 次异常退出。",
                )
                _end(session, job, "failed", message, "crashed")
                session.flush()
        return None

    def free_abandoned(self) -> None:
        """End the leases of servers on this machine that do not run any more. That they
        ended does not count as an attempt of their jobs.
        """
        query = (
            select(Job).where(Job.status == "running").with_for_update(skip_locked=True)
        )
        with self.records.session() as session:
            for job in session.scalars(query):
                if job.holder and _server_is_gone(job.holder):
                    job.held_until = 0
                    job.attempts = max(job.attempts - 1, 0)

    def renew(self, id: str, holder: str) -> None:
        """Renew the lease. Raise Lost."""
        with self.records.session() as session:
            _held(session, id, holder).held_until = now() + LEASE_SECONDS

    def progress(self, id: str, holder: str, result: Mapping[str, Any]) -> bool:
        """Store how far it is; return whether it was asked to stop. Raise Lost."""
        with self.records.session() as session:
            job = _held(session, id, holder)
            job.result = {**job.result, **result}
            job.attempts = 0
            return job.cancel

    def record_event(
        self,
        id: str,
        holder: str,
        kind: str,
        message: str,
        data: Mapping[str, Any],
        level: str = "info",
    ) -> None:
        """Add an event of a job.

        Args:
            id: of the job.
            holder: the token under which it is held; raise Lost for any other.
            kind: "message", "metrics" or "checkpoint".
            message: for people.
            data: for programs.
            level: "info", "warn" or "error".
        """
        with self.records.session() as session:
            job = _held(session, id, holder)
            _record_event(session, job, kind, message, data, level)

    def end(
        self,
        id: str,
        holder: str,
        status: str,
        message: str,
        result: Mapping[str, Any],
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """End a job as its holder.

        Args:
            id: of the job.
            holder: the token under which it is held; raise Lost for any other.
            status: one of ENDED.
            message: of its last event.
            result: added to what it has.
            error: code, message and param of a job that failed.
        """
        with self.records.session() as session:
            job = _held(session, id, holder)
            job.result = {**job.result, **result}
            job.error = None if error is None else dict(error)
            _end(session, job, status, message)

    def give_back(self, id: str, holder: str, died: str | None = None) -> None:
        """Put a job back into the queue: because this server stops, or because its
        process died, of which `died` is the message; that counts as an attempt. A job
        that is lost already stays as it is.
        """
        with self.records.session() as session:
            try:
                job = _held(session, id, holder)
            except Lost:
                return
            if died is not None and job.attempts >= ATTEMPTS:
                _end(session, job, "failed", died, "crashed")
                return
            job.status = "queued"
            _release(job)
            if died is not None:
                _record_event(session, job, "message", died, level="warn")
                return
            job.attempts = max(job.attempts - 1, 0)
            message = say("Interrupted; it will go on.", "被中断，稍后继续。")
            _record_event(session, job, "message", message)


def _locked(session: Session, id: str) -> Job:
    return session.scalars(select(Job).where(Job.id == id).with_for_update()).one()


def _held(session: Session, id: str, holder: str) -> Job:
    job = _locked(session, id)
    if job.status != "running" or job.holder != holder:
        raise Lost(id)
    return job


def _hold(session: Session, job: Job, holder: str) -> None:
    message = say("Started.", "开始执行。")
    if job.started is not None:
        message = say("Goes on.", "继续执行。")
    job.status = "running"
    job.holder = holder
    job.held_until = now() + LEASE_SECONDS
    job.attempts += 1
    job.started = job.started or now()
    _record_event(session, job, "message", message)


def _release(job: Job) -> None:
    job.holder = None
    job.held_until = None


def _end(
    session: Session, job: Job, status: str, message: str, code: str | None = None
) -> None:
    job.status = status
    job.ended = now()
    _release(job)
    if code is not None:
        job.error = {"code": code, "message": message, "param": None}
    level = "error" if status == "failed" else "info"
    _record_event(session, job, "message", message, level=level)


def _record_event(
    session: Session,
    job: Job,
    kind: str,
    message: str,
    data: Mapping[str, Any] | None = None,
    level: str = "info",
) -> None:
    query = select(func.max(Event.number)).where(Event.job_id == job.id)
    last_number = session.scalar(query) or 0
    worded = {MESSAGE: message} if isinstance(message, Wording) else {}
    event = Event(
        id=new_id("ftevent"),
        job_id=job.id,
        number=last_number + 1,
        kind=kind,
        level=level,
        message=message,
        data={**(data or {}), **worded},
    )
    session.add(event)
    session.flush()
