"""The process that listens: uvicorn, with a deadline for headers and an end that waits
for those who are being answered.

SIGTERM or Ctrl-C: /ready says no, new requests are refused (503), answers
that run may end until `drain_seconds`; then connections close, the services with them,
and the exit code is 0. A second signal does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from miaobi.core import machine
from miaobi.core.errors import BadInput, Conflict
from miaobi.core.language import say
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

log = logging.getLogger("miaobi.serve")

HEADER_SECONDS = 15.0
"""From the connection, or the first byte of the next request on it, to the end of the headers."""
KEEP_ALIVE = 65
"""Seconds that an idle connection is kept; longer than the minute that most clients and
proxies keep theirs.
"""
CLOSING = 3
"""Seconds after the drain for what holds no slot: uploads, event streams, open pages."""


class Patient(H11Protocol):
    """uvicorn's protocol waits for ever for a request's headers; this one does not (slow loris)."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._idle:
            self._disarm()
        elif self._deadline is None:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._idle:
            self.transport.close()


class Listener(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self.services = services
        self._signals = 0
        self._until = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        admission = self.services.admission
        if self._signals and not admission.draining:
            admission.drain()
            self._until = time.monotonic() + self.services.settings.drain_seconds
            log.info(
                "stopping: %d answers are running", sum(admission.running.values())
            )
        drained = admission.draining and (
            not admission.running or time.monotonic() > self._until
        )
        return await super().on_tick(counter) or drained

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's raises the signal again at the end, and the process would die of
        what it obeyed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in machine.STOP_SIGNALS
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bind(settings: Settings) -> socket.socket:
    """The socket to listen on; with port 0 the system chooses one. Raises Conflict or BadInput."""
    try:
        family = socket.getaddrinfo(
            settings.host,
            settings.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0][0]
        server = socket.create_server(
            (settings.host, settings.port), family=family, backlog=2048
        )
        # Connections inherit it. Without, a stream's first words wait for the client to
        # acknowledge its headers, 40 ms; asyncio sets it only on sockets that were made
        # with the protocol's number.
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server
    except socket.gaierror:
        raise BadInput(
            say(
                f"{settings.host!r} is no address of this machine.",
                f"{settings.host!r} 不是本机地址。",
            ),
            "--host 127.0.0.1, --host 0.0.0.0",
        ) from None
    except OSError as error:
        raise Conflict(
            say(
                f"Port {settings.port} of {settings.host} cannot be listened on: {error.strerror}.",
                f"无法监听 {settings.host} 的端口 {settings.port}：{error.strerror}。",
            ),
            say("Choose another: --port 8001.", "请换一个端口：--port 8001。"),
        ) from None


def listen(services: Services, at: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    limits = services.settings.limits
    options: dict[str, Any] = {
        "http": Patient,
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "h11_max_incomplete_event_size": 2 * limits.header_bytes,
        "timeout_keep_alive": KEEP_ALIVE,
        "timeout_graceful_shutdown": CLOSING,
    }
    Listener(uvicorn.Config(create_app(services), **options), services).run(
        sockets=[at]
    )
