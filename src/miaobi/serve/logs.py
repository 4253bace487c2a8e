"""What the server writes down: one JSON line a request, each with the request's id, and
no prompt's text unless that was asked for.

The outermost layer. It gives every request its id (`request.state.request_id`, header
x-request-id), answers unexpected errors, and counts. A line is JSON with everything
beyond ASCII escaped, so that nothing a client sends can begin a line of its own.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
import time
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaobi.serve.errors import from_exception
from miaobi.serve.meters import Meters

log = logging.getLogger("miaobi.serve.requests")

current: ContextVar[dict[str, Any] | None] = ContextVar("miaobi_request", default=None)
"""The state of the request that is being answered (`request.state`): its id, its
caller, what it used.
"""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Requested every few seconds by monitoring: logged only with log_level debug."""
GONE = 499
"""In log and metrics: the client left before it was answered (nginx's number)."""
PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "message", "request_id", ...}: what a call gave as
    `extra` becomes keys of the line.
    """

    def format(self, record: logging.LogRecord) -> str:
        state = current.get() or {}
        record_fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if "request_id" in state:
            record_fields["request_id"] = state["request_id"]
        record_fields |= {
            name: value for name, value in vars(record).items() if name not in PLAIN
        }
        if record.exc_info:
            record_fields["trace"] = self.formatException(record.exc_info)
        return json.dumps(record_fields, default=str)


def configure(level: str) -> None:
    """Everything to stderr as JSON lines: ours, and uvicorn's own words."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("miaobi", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())


class Logged:
    """The outermost layer: id, log line, counts, and an answer to unexpected errors."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self.app = app
        self.meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        request_id = state["request_id"] = f"req_{secrets.token_hex(12)}"
        began = time.perf_counter()
        status = 0
        token = current.set(state)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                own = {
                    "x-request-id": request_id,
                    "x-content-type-options": "nosniff",
                    **state.get("rates", {}),
                }
                names = {name for name, _ in headers}
                message["headers"] = [
                    *headers,
                    *(
                        (name.encode(), value.encode())
                        for name, value in own.items()
                        if name.encode() not in names
                    ),
                ]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            answer = from_exception(error, request_id)
            if status:
                # Half an answer was sent: the connection ends, so that no client takes
                # it for a whole one.
                raise
            await answer.response()(scope, receive, sending)
        finally:
            self._log_request(scope, state, status or GONE, time.perf_counter() - began)
            current.reset(token)

    def _log_request(
        self, scope: Scope, state: dict[str, Any], status: int, seconds: float
    ) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.meters.request(
            getattr(scope.get("route"), "path", "other"), method, status, seconds
        )
        caller = state.get("caller")
        level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
        if log.isEnabledFor(level):
            path = (
                scope["path"][:200].encode("unicode_escape").decode()
            )  # for whatever else may write this log, line by line
            log.log(
                level,
                "%s %s %d",
                method,
                path,
                status,
                extra={
                    "request_id": state["request_id"],
                    "method": method,
                    "path": path,
                    "status": status,
                    "seconds": round(seconds, 4),
                    "key": getattr(caller, "name", None),
                    **state.get("used", {}),
                },
            )
