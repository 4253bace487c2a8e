"""The routes of every kind of job that makes a model: list, retrieve, pause, resume,
cancel, events, checkpoints.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from miaobi.core.language import say
from miaobi.serve.callers import Caller, CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.jobs import ENDED
from miaobi.serve.pages import page
from miaobi.serve.records import MESSAGE, Event, Job
from miaobi.serve.services import Services, Serving
from miaobi.serve.text.events import dumped

LOOK_SECONDS = 0.5
ESTIMATE_SECONDS = 300.0
"""The longest that a request waits for an estimate."""
EVENT_KINDS = ("message", "metrics")
OWN_KEYS = ("what", MESSAGE)
"""Of an event's data, those that are not for programs."""

Limit = Annotated[int, Query(ge=1, le=1000)]


@dataclass(frozen=True)
class JobRoutes:
    """The routes under `/jobs` of a kind of job, but for the one that creates it."""

    kind: str
    """In the queue, and in the names of the objects: "training" makes training.job.event."""
    model: str
    """The field that names the model the job makes."""
    to_object: Callable[[Job], dict[str, Any]]
    """The job's object."""
    steps: bool = True
    """Whether it goes in steps: can be paused between them, and keeps checkpoints."""

    def add_to(self, router: APIRouter) -> None:
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("", "GET", self.list_jobs),
            ("/{job_id}", "GET", self.retrieve),
            ("/{job_id}/cancel", "POST", self.cancel),
            ("/{job_id}/events", "GET", self.events),
        ]
        if self.steps:
            routes += [
                ("/{job_id}/pause", "POST", self.pause),
                ("/{job_id}/resume", "POST", self.resume),
                ("/{job_id}/checkpoints", "GET", self.checkpoints),
            ]
        for path, method, answer in routes:
            router.add_api_route(f"/jobs{path}", answer, methods=[method])

    def list_jobs(
        self,
        services: Serving,
        caller: CurrentCaller,
        after: str | None = None,
        limit: Limit = 20,
    ) -> dict[str, Any]:
        """The caller's jobs, newest first."""
        return page(
            [
                self.to_object(job)
                for job in services.jobs.listed(self.kind, caller.key_id, after, limit)
            ],
            limit,
        )

    def retrieve(
        self, job_id: str, services: Serving, caller: CurrentCaller
    ) -> dict[str, Any]:
        """One job."""
        return self.to_object(services.jobs.find(job_id, self.kind, caller.key_id))

    def cancel(
        self, job_id: str, services: Serving, caller: CurrentCaller
    ) -> dict[str, Any]:
        """End a job without its result."""
        return self._move(
            services,
            caller,
            job_id,
            services.jobs.cancel,
            ("queued", "running", "paused", "cancelled"),
        )

    def pause(
        self, job_id: str, services: Serving, caller: CurrentCaller
    ) -> dict[str, Any]:
        """Stop a job at a checkpoint, to go on later."""
        return self._move(
            services,
            caller,
            job_id,
            services.jobs.pause,
            ("queued", "running", "paused"),
        )

    def resume(
        self, job_id: str, services: Serving, caller: CurrentCaller
    ) -> dict[str, Any]:
        """Go on with a paused job."""
        return self._move(
            services,
            caller,
            job_id,
            services.jobs.resume,
            ("paused", "queued", "running"),
        )

    def _move(
        self,
        services: Services,
        caller: Caller,
        job_id: str,
        move: Callable[[str], Job],
        fitting: tuple[str, ...],
    ) -> dict[str, Any]:
        services.jobs.find(job_id, self.kind, caller.key_id)
        job = move(job_id)
        if job.status not in fitting:
            raise ApiError(
                409,
                say(f"The job is {job.status}.", f"该任务的状态为 {job.status}。"),
                code="wrong_status",
            )
        return self.to_object(job)

    async def events(
        self,
        job_id: str,
        services: Serving,
        caller: CurrentCaller,
        after: str | None = None,
        limit: Limit = 20,
        stream: bool = False,
    ) -> Any:
        """The events of a job, newest first; with `stream`, from the first one on as they
        come, until the job ends.
        """
        await anyio.to_thread.run_sync(
            services.jobs.find, job_id, self.kind, caller.key_id
        )
        if stream:
            return StreamingResponse(
                self._as_they_come(services, job_id, caller),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )

        def look() -> list[Event]:
            before = (
                None if after is None else services.jobs.number_of(job_id, after) or 0
            )
            return services.jobs.events(
                job_id, EVENT_KINDS, before=before, limit=limit + 1, newest_first=True
            )

        return page(
            [self._event(event) for event in await anyio.to_thread.run_sync(look)],
            limit,
        )

    async def _as_they_come(
        self, services: Services, job_id: str, caller: Caller
    ) -> AsyncIterator[bytes]:
        last = 0
        while True:
            job = await anyio.to_thread.run_sync(
                services.jobs.find, job_id, self.kind, caller.key_id
            )
            for event in await anyio.to_thread.run_sync(
                services.jobs.events, job_id, EVENT_KINDS, last
            ):
                last = event.number
                yield b"data: " + dumped(self._event(event)) + b"\n\n"
            if job.status in ENDED:
                break
            await asyncio.sleep(LOOK_SECONDS)
        yield b"data: [DONE]\n\n"

    def checkpoints(
        self,
        job_id: str,
        services: Serving,
        caller: CurrentCaller,
        after: str | None = None,
        limit: Limit = 10,
    ) -> dict[str, Any]:
        """Where a job can go on from, newest first. They are not served: the model that
        the job ends with is.
        """
        job = services.jobs.find(job_id, self.kind, caller.key_id)
        before = None if after is None else services.jobs.number_of(job_id, after) or 0
        events = services.jobs.events(
            job_id, ("checkpoint",), before=before, limit=limit + 1, newest_first=True
        )
        return page([self._checkpoint(job, event) for event in events], limit)

    def _event(self, event: Event) -> dict[str, Any]:
        return {
            "id": event.id,
            "object": f"{self.kind}.job.event",
            "created_at": event.created,
            "level": event.level,
            "message": event.text,
            "type": event.kind,
            "data": {
                key: value for key, value in event.data.items() if key not in OWN_KEYS
            },
        }

    def _checkpoint(self, job: Job, event: Event) -> dict[str, Any]:
        metrics = event.data["metrics"]
        return {
            "id": event.id,
            "object": f"{self.kind}.job.checkpoint",
            "created_at": event.created,
            f"{self.kind}_job_id": job.id,
            "step_number": event.data["step"],
            f"{self.model}_checkpoint": f"{job.request[self.model]}:step-{event.data['step']}",
            "metrics": {
                "step": metrics.get("step"),
                "train_loss": metrics.get("train_loss"),
                "valid_loss": metrics.get("valid_loss"),
            },
        }


async def measure(
    services: Services, caller: Caller, kind: str, request: Mapping[str, Any], id: str
) -> dict[str, Any]:
    """Return what a job would cost here, measured by a short job of the kind `kind`,
    which is cancelled when the caller leaves. Raise ApiError.
    """
    if not services.settings.workers:
        raise ApiError(
            503,
            say(
                "This server runs no jobs, so it cannot measure one.",
                "此服务器不运行任务，无法估算。",
            ),
        )
    await anyio.to_thread.run_sync(services.jobs.add, kind, caller.key_id, request, id)
    until = time.monotonic() + ESTIMATE_SECONDS
    try:
        while (
            job := await anyio.to_thread.run_sync(
                services.jobs.find, id, kind, caller.key_id
            )
        ).status not in ENDED:
            if time.monotonic() > until:
                raise ApiError(
                    503,
                    say(
                        "Measuring takes too long just now; the machine is busy.",
                        "机器繁忙，估算超时。",
                    ),
                    retry_after=60,
                )
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(services.jobs.cancel, id)
    if job.status != "succeeded":
        error = job.error or {
            "message": say("The estimate was stopped.", "估算已停止。"),
            "code": None,
        }
        raise ApiError(400, error["message"], code=error["code"])
    return dict(job.result)
