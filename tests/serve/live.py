"""A server of this process on a real socket, for what only a socket shows: clients that
leave, floods, the official client.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from time import monotonic, sleep

import uvicorn
from fastapi import FastAPI

from miaobi.serve import listening
from miaobi.serve.settings import Settings


@contextmanager
def live(app: FastAPI) -> Iterator[str]:
    """The address of `app`, served until the block ends."""
    at = listening.bind(Settings(port=0))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=listening.Patient,
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    thread = Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield f"http://127.0.0.1:{at.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def wait_until(true: object, seconds: float = 20) -> None:
    """Until that callable says so. Fails when it never does."""
    until = monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert monotonic() < until, "it did not happen"
        sleep(0.01)
