"""OpenAI's batch format: a file of requests, each answered by the endpoint it names,
through the application itself.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "smollm2", "messages": [...]}}      in
    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, "request_id": "...", "body": {...}}, "error": null}   out

Answers go to a journal as they come, one whole line each; whoever is killed goes on
with the lines that are missing there. An answer's id is that of its request's content,
so an answer is taken for a line only while the line is what it was.
"""

from __future__ import annotations

import asyncio
import fcntl
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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from fastapi import FastAPI

from miaobi.core.errors import Conflict, nearest
from miaobi.core.files import explain_refusal
from miaobi.core.language import say
from miaobi.serve import lines
from miaobi.serve.callers import Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.guard import inside

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/moderations",
)
ROW = {"id", "custom_id", "response", "error"}
NAME = 256
"""Characters of a custom_id."""
TRIES = 6
BUSY = (429, 503)
PATIENCE = 60.0
"""Seconds between two tries, at most."""
FLUSH_SECONDS = LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Line:
    number: int
    custom_id: str
    url: str
    body: Mapping[str, Any]

    @property
    def id(self) -> str:
        content = json.dumps(
            [self.custom_id, self.url, self.body], sort_keys=True
        ).encode("utf-8", "surrogatepass")
        return f"batch_req_{hashlib.sha256(content).hexdigest()[:24]}"


def read(
    path: Path, endpoint: str | None = None, model: str | None = None
) -> tuple[list[Line], list[dict[str, Any]]]:
    """(the requests, what is wrong with those that cannot be used, each with its line).
    `endpoint`: the only one allowed. `model`: answers all, whatever they name.
    """
    found, wrong, met = list[Line](), list[dict[str, Any]](), dict[str, int]()
    try:
        for number, record in lines.objects(path):
            try:
                line = _line(number, record, endpoint, model)
                if line.custom_id in met:
                    raise _Wrong(
                        "custom_id",
                        say(
                            f"custom_id {line.custom_id[:64]!r} stands on line {met[line.custom_id]} already.",
                            f"custom_id {line.custom_id[:64]!r} 已用于第 {met[line.custom_id]} 行。",
                        ),
                    )
            except _Wrong as error:
                wrong.append(
                    {
                        "code": "invalid_request",
                        "line": number,
                        "message": error.message,
                        "param": error.param,
                    }
                )
            else:
                met[line.custom_id] = number
                found.append(line)
    except ApiError as error:  # nothing after a line that is no JSON can be trusted to be where it seems
        wrong.append(
            {"code": error.code, "line": None, "message": error.message, "param": None}
        )
    if not found and not wrong:
        wrong.append(
            {
                "code": "empty_file",
                "line": None,
                "message": say("The file has no request.", "文件中没有请求。"),
                "param": None,
            }
        )
    return found, wrong


class _Wrong(Exception):
    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param, self.message = param, message


def _line(
    number: int, record: Mapping[str, Any], endpoint: str | None, model: str | None
) -> Line:
    unknown = next(
        (key for key in record if key not in ("custom_id", "method", "url", "body")),
        None,
    )
    if unknown is not None:
        raise _Wrong(
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
        raise _Wrong(
            "custom_id",
            say(
                f"custom_id has to be a text of 1 to {NAME} characters, another on each line.",
                f"custom_id 应为 1 到 {NAME} 个字符的文本，每行不同。",
            ),
        )
    if method != "POST":
        raise _Wrong(
            "method",
            say(
                f"method is {method!r:.64}; it can be POST only.",
                f"method 为 {method!r:.64}；只能是 POST。",
            ),
        )
    allowed = ENDPOINTS if endpoint is None else (endpoint,)
    if url not in allowed:
        raise _Wrong(
            "url",
            say(f"url is {url!r:.64}. ", f"url 为 {url!r:.64}。")
            + nearest(str(url)[:64], allowed),
        )
    if not isinstance(body, dict):
        raise _Wrong("body", say("body has to be an object.", "body 应为对象。"))
    if body.get("stream"):
        raise _Wrong(
            "body.stream",
            say(
                "A batch streams nothing; leave stream out.",
                "批处理不支持流式输出，请去掉 stream。",
            ),
        )
    body = {**body, "model": model} if model is not None else body
    if not isinstance(body.get("model"), str):
        raise _Wrong("body.model", say("body names no model.", "body 未指定 model。"))
    if url == "/v1/images/generations":
        if body.get("response_format") == "url":
            raise _Wrong(
                "body.response_format",
                say(
                    "A picture of a batch comes as b64_json: a URL would expire before it is read.",
                    "批处理的图片只能以 b64_json 返回：URL 在读取前会失效。",
                ),
            )
        body = {**body, "response_format": "b64_json"}
    return Line(number, custom_id, str(url), body)


def answers(path: Path) -> Iterator[tuple[dict[str, Any], int, int]]:
    """(an answer, where its line begins and ends), up to the first line that is none:
    one that was cut off, as a rule.
    """
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(row, dict) or not ROW <= row.keys():
                return
            yield row, end, end + len(line)
            end += len(line)


class Journal:
    """Answers on disk, in the order they came: found by id, without being held in
    memory. One process at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise Conflict(
                say(
                    "Another process is answering these requests.",
                    "另一个进程正在处理这些请求。",
                ),
                say("Wait for it, or stop it.", "请等待其完成或先停止它。"),
            ) from None
        self._places = dict[str, tuple[int, int, bool]]()
        """id -> (from, to, answered well)."""
        self._end = 0
        for row, start, end in answers(path):
            self._note(row, start, end)
        os.ftruncate(self._handle, self._end)
        self._flushed = time.monotonic()

    def _note(self, row: Mapping[str, Any], start: int, end: int) -> None:
        self._places[row["id"]] = (start, end, well(row))
        self._end = end

    def __contains__(self, id: str) -> bool:
        return id in self._places

    def counts(self, ids: Iterable[str]) -> tuple[int, int]:
        """(answered well, failed) among these."""
        states = [self._places[id][2] for id in ids if id in self._places]
        return sum(states), len(states) - sum(states)

    def add(self, row: Mapping[str, Any]) -> None:
        """A whole line or none. Raises DoesNotFit on a full disk."""
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        start, rest = self._end, memoryview(line)
        with explain_refusal(self.path):
            try:
                while rest:
                    rest = rest[
                        os.pwrite(self._handle, rest, start + len(line) - len(rest)) :
                    ]
            except OSError:
                os.ftruncate(self._handle, start)
                raise
        self._note(row, start, start + len(line))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        os.fsync(self._handle)
        self._flushed = time.monotonic()

    def rows(self, ids: Iterable[str], good: bool | None = None) -> Iterator[bytes]:
        """The lines of these answers, in this order; `good`: only those answered well,
        or only the others.
        """
        for id in ids:
            start, end, state = self._places[id]
            if good is None or state == good:
                yield os.pread(self._handle, end - start, start)

    def forget_failed(self) -> None:
        """So that they are asked again."""
        self._places = {id: place for id, place in self._places.items() if place[2]}

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)


def well(row: Mapping[str, Any]) -> bool:
    return (
        row["error"] is None
        and row["response"] is not None
        and row["response"]["status_code"] == 200
    )


async def answer(
    client: httpx.AsyncClient,
    requests: Sequence[Line],
    journal: Journal,
    streams: int,
    look: Callable[[], bool],
) -> None:
    """Ask for every request that the journal lacks, `streams` at a time. `look` is
    called every second, and stops the rest by True.
    """
    waiting = iter([line for line in requests if line.id not in journal])

    async def one_after_another() -> None:
        for line in waiting:
            journal.add(await _ask(client, line))

    async def watch() -> None:
        while not look():
            await asyncio.sleep(LOOK_SECONDS)
        raise _Stopped

    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            async with asyncio.TaskGroup() as hands:
                for _ in range(streams):
                    hands.create_task(one_after_another())
            watching.cancel()
    except BaseExceptionGroup as group_of_errors:
        error = _first(group_of_errors)
        if not isinstance(error, _Stopped):
            raise error from None
    journal.flush()


def _first(error: BaseException) -> BaseException:
    """What went wrong, out of the groups that task groups wrap it in."""
    return (
        _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
    )


class _Stopped(Exception):
    """Somebody asked to stop: what is being answered is dropped."""


@asynccontextmanager
async def client_of(app: FastAPI, caller: Caller) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application in this process, in the name of `caller`; the
    application is open as long as the block runs.
    """
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(inside(app, caller), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=None
        ) as client:
            yield client


async def _ask(client: httpx.AsyncClient, line: Line) -> dict[str, Any]:
    for attempt in range(TRIES):
        response = await client.post(line.url, json=line.body)
        if response.status_code not in BUSY or attempt == TRIES - 1:
            break
        after = response.headers.get("retry-after", "")
        await asyncio.sleep(
            min(float(after) if after.isdigit() else 2.0**attempt, PATIENCE)
        )
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
        "id": line.id,
        "custom_id": line.custom_id,
        "response": {
            "status_code": response.status_code,
            "request_id": request_id,
            "body": body,
        },
        "error": None,
    }


def unanswered(line: Line, code: str, message: str) -> dict[str, Any]:
    """The row of a request that nobody got to."""
    return {
        "id": line.id,
        "custom_id": line.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
