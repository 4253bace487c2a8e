"""A server with toy engines, as a process of its own: python -m tests.studio.server
[KEY ...]. Prints its port; /v1/toys tells who was answered and who left early.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import numpy as np
import uvicorn
from tests.serve.conftest import Echo, Grey, toy_pool

from miaobi.core.engine import Abilities, Chunk
from miaobi.core.requests import ImageRequest, Request
from miaobi.serve import services as service_parts
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.jobs import Lost, Queue, new_holder
from miaobi.serve.records import Job
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings


class Writer(Echo):
    """Goes on with texts, and knows no dialogue."""

    chats = False
    abilities = Abilities(Echo.abilities.controls - {"image"})


class Painter(Grey):
    """Remembers what it was last given to start from."""

    given: dict[str, Any] = {}  # noqa: RUF012

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        assert isinstance(request, ImageRequest)
        mask = None if request.mask is None else np.asarray(request.mask)
        self.given = {
            "image": None if request.image is None else list(np.shape(request.image)),
            "repainted": None if mask is None else float((mask > 127).mean()),
            "strength": request.strength,
        }
        async for chunk in super().generate(request):
            yield chunk


class Workshop:
    """Instead of the supervisor and its processes: jobs that are quickly done, step by
    step, and go on where they were.
    """

    def __init__(self, settings: Settings, queue: Queue) -> None:
        self.queue, self.ending = queue, threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    async def start(self) -> None:
        self.thread.start()

    async def stop(self) -> None:
        self.ending.set()
        self.thread.join()

    def work(self) -> None:
        while not self.ending.wait(0.05):
            holder = new_holder()
            job = self.queue.claim(holder)
            if job is not None:
                with suppress(Lost):
                    self.do(job, holder)

    def do(self, job: Job, holder: str) -> None:
        if job.kind.endswith("estimate"):
            self.queue.end(
                job.id,
                holder,
                "succeeded",
                "",
                {"message": "Expected: 3 min, 1.2 GB of memory."},
            )
            return
        for step in range(job.result.get("step", 0) + 1, 61):
            self.ending.wait(0.05)
            self.queue.progress(job.id, holder, {"step": step})
            self.queue.record_event(
                job.id,
                holder,
                "metrics",
                f"Step {step}",
                {"step": step, "train_loss": 3 - step / 30},
            )
        self.queue.record_event(
            job.id, holder, "message", "AI-generated / 由AI生成: a sample", {}
        )
        made = "trained_model" if job.kind == "training" else "fine_tuned_model"
        self.queue.end(job.id, holder, "succeeded", "Done.", {made: job.request[made]})


def main(keys: list[str]) -> None:
    service_parts.Supervisor = Workshop  # type: ignore[assignment,misc]
    settings = Settings(
        api_keys=tuple(keys), port=int(os.environ.get("MIAOBI_TEST_PORT", "0"))
    )
    engines: dict[str, Any] = {
        "echo": Echo(),
        "slow": Echo(0.2),
        "writer": Writer(),
        "grey": Painter(),
    }
    app = create_app(
        Services(settings, toy_pool(settings, **engines), Admission(settings))
    )
    app.add_api_route(
        "/v1/toys",
        lambda: {
            "grey": engines["grey"].given,
            **{
                name: {
                    "running": engines[name].running,
                    "left": engines[name].left_early,
                }
                for name in ("echo", "slow")
            },
        },
    )
    app.router.routes.insert(0, app.router.routes.pop())
    with socket.create_server((settings.host, settings.port)) as at:
        print(at.getsockname()[1], flush=True)
        uvicorn.Server(
            uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        ).run(sockets=[at])


if __name__ == "__main__":
    main(sys.argv[1:])
