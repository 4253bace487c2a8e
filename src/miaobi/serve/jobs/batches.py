"""OpenAI's batch format: a file of requests, each answered by the endpoint it names,
through the application itself.

A request:  {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
             "body": {"model": "smollm2", "messages": [...]}}
An answer:  {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200,
             "request_id": "...", "body": {...}}, "error": null}

Answers go to a journal as they come, one whole line each; a process that was killed
goes on with the requests whose answers are missing there. The id of an answer is a hash
of its request, so it belongs to that request only while the request stays the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from fastapi import FastAPI

from miaobi.core import machine
from miaobi.core.errors import Conflict, nearest
from miaobi.core.files import explain_refusal
from miaobi.core.language import say
from miaobi.serve import lines
from miaobi.serve.callers import Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.guard import inside
from miaobi.serve.routes import batch_paths

ANSWER_KEYS = {"id", "custom_id", "response", "error"}
NAME = 256
"""Characters of a custom_id."""
TRIES = 6
BUSY = (429, 503)
MAX_PAUSE = 60.0
"""Seconds between two tries, at most."""
FLUSH_SECONDS = 1.0
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class BatchRequest:
    number: int
    """Of its line, from 1."""
    custom_id: str
    url: str
    body: Mapping[str, Any]

    @property
    def id(self) -> str:
        content = json.dumps(
            [self.custom_id, self.url, self.body], sort_keys=True
        ).encode("utf-8", "surrogatepass")
        return f"batch_req_{hashlib.sha256(content).hexdigest()[:24]}"


@dataclass
class _Requests:
    """The requests of a file, and the errors of those that cannot be used."""

    usable: list[BatchRequest] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    line_numbers: dict[str, int] = field(default_factory=dict)
    """By custom_id."""

    def add(self, request: BatchRequest) -> None:
        custom_id = request.custom_id
        if custom_id in self.line_numbers:
            number = self.line_numbers[custom_id]
            raise _Unusable(
                "custom_id",
                say(
                    f"custom_id {custom_id[:64]!r} is on line {number} already.",
                    f"custom_id {custom_id[:64]!r} 已用于第 {number} 行。",
                ),
            )
        self.line_numbers[custom_id] = request.number
        self.usable.append(request)

    def add_error(
        self, code: str | None, line: int | None, message: str, param: str | None = None
    ) -> None:
        self.errors.append(
            {"code": code, "line": line, "message": message, "param": param}
        )


def read(
    path: Path, endpoint: str | None = None, model: str | None = None
) -> tuple[list[BatchRequest], list[dict[str, Any]]]:
    """Read a file of requests.

    Args:
        path: JSONL.
        endpoint: the only one allowed; by default any that may stand in a batch.
        model: answers all requests, whatever model they name.

    Returns the requests, and an error with its line for each that cannot be used.
    """
    requests = _Requests()
    allowed = batch_paths() if endpoint is None else [endpoint]
    try:
        for number, record in lines.objects(path):
            try:
                requests.add(_request(number, record, allowed, model))
            except _Unusable as error:
                requests.add_error(
                    "invalid_request", number, error.message, error.param
                )
    except ApiError as error:
        # A line that is no JSON ends the file: later lines may not begin where they seem to.
        requests.add_error(error.code, None, error.message)
    if not requests.usable and not requests.errors:
        message = say("The file has no request.", "文件中没有请求。")
        requests.add_error("empty_file", None, message)
    return requests.usable, requests.errors


class _Unusable(Exception):
    """A request that cannot be used; `param` is its field."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        self.message = message


def _request(
    number: int, record: Mapping[str, Any], allowed: Sequence[str], model: str | None
) -> BatchRequest:
    unknown = next(
        (key for key in record if key not in ("custom_id", "method", "url", "body")),
        None,
    )
    if unknown is not None:
        raise _Unusable(
            unknown[:64],
            say(
                f"There is no field {unknown[:64]!r} in a request of a batch.",
                f"批处理请求中没有字段 {unknown[:64]!r}。",
            ),
        )
    custom_id, method, url, body = (
        record.get(key) for key in ("custom_id", "method", "url", "body")
    )
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= NAME:
        raise _Unusable(
            "custom_id",
            say(
                f"custom_id has to be a text of 1 to {NAME} characters, another on each line.",
                f"custom_id 应为 1 到 {NAME} 个字符的文本，每行不同。",
            ),
        )
    if method != "POST":
        raise _Unusable(
            "method",
            say(
                f"method is {method!r:.64}; it can be POST only.",
                f"method 为 {method!r:.64}；只能是 POST。",
            ),
        )
    if url not in allowed:
        raise _Unusable(
            "url",
            say(f"url is {url!r:.64}. ", f"url 为 {url!r:.64}。")
            + nearest(str(url)[:64], allowed),
        )
    if not isinstance(body, dict):
        raise _Unusable("body", say("body has to be an object.", "body 应为对象。"))
    if body.get("stream"):
        raise _Unusable(
            "body.stream",
            say(
                "A batch streams nothing; leave stream out.",
                "批处理不支持流式输出，请去掉 stream。",
            ),
        )
    body = {**body, "model": model} if model is not None else body
    if not isinstance(body.get("model"), str):
        raise _Unusable(
            "body.model", say("body names no model.", "body 未指定 model。")
        )
    if body.get("response_format") == "url":
        raise _Unusable(
            "body.response_format",
            say(
                "A batch answers no URL, which would expire before it is read. Ask for b64_json.",
                "批处理不返回 URL：它在读取前会失效。请使用 b64_json。",
            ),
        )
    return BatchRequest(number, custom_id, str(url), body)


@dataclass(frozen=True)
class Location:
    """Of an answer's line in the journal: bytes `start` to `end`."""

    start: int
    end: int
    succeeded: bool


def answers(path: Path) -> Iterator[tuple[str, Location]]:
    """Yield the id and the location of each answer, up to the first line that is none:
    usually one that was cut off.
    """
    start = 0
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(row, dict) or not row.keys() >= ANSWER_KEYS:
                return
            end = start + len(line)
            yield row["id"], Location(start, end, has_succeeded(row))
            start = end


class Journal:
    """Answers on disk, in the order they came: found by id, without being held in
    memory. One process at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = machine.open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            machine.lock(self._handle, wait=False)
        except BlockingIOError:
            os.close(self._handle)
            raise Conflict(
                say(
                    "Another process is answering these requests.",
                    "另一个进程正在处理这些请求。",
                ),
                say("Wait for it, or stop it.", "请等待其完成或先停止它。"),
            ) from None
        self._locations = dict[str, Location]()
        self._end = 0
        for id, location in answers(path):
            self._locations[id] = location
            self._end = location.end
        os.ftruncate(self._handle, self._end)
        self._flushed = time.monotonic()

    def __contains__(self, id: str) -> bool:
        return id in self._locations

    def counts(self, ids: Iterable[str]) -> tuple[int, int]:
        """Return how many of these succeeded, and how many failed."""
        states = [self._locations[id].succeeded for id in ids if id in self._locations]
        return sum(states), len(states) - sum(states)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a whole line or none. Raise DoesNotFit on a full disk."""
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        start = self._end
        with explain_refusal(self.path):
            try:
                self._write(line)
            except OSError:
                os.ftruncate(self._handle, start)
                raise
        self._end = start + len(line)
        self._locations[row["id"]] = Location(start, self._end, has_succeeded(row))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _write(self, line: bytes) -> None:
        position = self._end
        rest = memoryview(line)
        while rest:
            written = machine.write_at(self._handle, rest, position)
            position += written
            rest = rest[written:]

    def flush(self) -> None:
        os.fsync(self._handle)
        self._flushed = time.monotonic()

    def rows(self, ids: Iterable[str], good: bool | None = None) -> Iterator[bytes]:
        """Yield the lines of these answers, in this order; with `good`, only of those
        that succeeded (True) or failed (False).
        """
        for id in ids:
            location = self._locations[id]
            if good is None or location.succeeded == good:
                length = location.end - location.start
                yield machine.read_at(self._handle, length, location.start)

    def forget_failed(self) -> None:
        """Forget the answers that failed, so that their requests are sent again."""
        self._locations = {
            id: location
            for id, location in self._locations.items()
            if location.succeeded
        }

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)


def has_succeeded(row: Mapping[str, Any]) -> bool:
    return (
        row["error"] is None
        and row["response"] is not None
        and row["response"]["status_code"] == 200
    )


async def answer(
    client: httpx.AsyncClient,
    requests: Sequence[BatchRequest],
    journal: Journal,
    streams: int,
    look: Callable[[], bool],
) -> None:
    """Answer every request that the journal lacks.

    Args:
        client: of the application (`client_of`).
        requests: of the file.
        journal: gets the answers.
        streams: requests that are answered at the same time.
        look: is called every second, and stops the rest by returning True.
    """
    waiting = iter([request for request in requests if request.id not in journal])

    async def answer_in_turn() -> None:
        for request in waiting:
            journal.add(await _answer(client, request))

    async def watch() -> None:
        while not look():
            await asyncio.sleep(LOOK_SECONDS)
        raise _Stopped

    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            async with asyncio.TaskGroup() as streams_group:
                for _ in range(streams):
                    streams_group.create_task(answer_in_turn())
            watching.cancel()
    except BaseExceptionGroup as group_of_errors:
        error = _first(group_of_errors)
        if not isinstance(error, _Stopped):
            raise error from None
    journal.flush()


def _first(error: BaseException) -> BaseException:
    """Return the first error inside the groups that task groups wrap it in."""
    return (
        _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
    )


class _Stopped(Exception):
    """`look` returned True: the answers that are being made are dropped."""


@asynccontextmanager
async def client_of(app: FastAPI, caller: Caller) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the application in this process, in the name of `caller`; the
    application is open until the block ends.
    """
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(inside(app, caller), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=None
        ) as client:
            yield client


async def _answer(client: httpx.AsyncClient, request: BatchRequest) -> dict[str, Any]:
    for attempt in range(TRIES):
        response = await client.post(request.url, json=request.body)
        if response.status_code not in BUSY or attempt == TRIES - 1:
            break
        retry_after = response.headers.get("retry-after", "")
        seconds = float(retry_after) if retry_after.isdigit() else 2.0**attempt
        await asyncio.sleep(min(seconds, MAX_PAUSE))
    try:
        body = response.json()
    except ValueError:
        body = {
            "error": {
                "message": say("The answer is no JSON.", "回答不是 JSON。"),
                "type": "server_error",
                "param": None,
                "code": None,
            }
        }
    request_id = response.headers.get("x-request-id", "")
    return {
        "id": request.id,
        "custom_id": request.custom_id,
        "response": {
            "status_code": response.status_code,
            "request_id": request_id,
            "body": body,
        },
        "error": None,
    }


def unanswered(request: BatchRequest, code: str, message: str) -> dict[str, Any]:
    """Return the row of a request that was not answered."""
    return {
        "id": request.id,
        "custom_id": request.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
