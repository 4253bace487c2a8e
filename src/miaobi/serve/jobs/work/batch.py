"""A batch: each request of a file is answered by the application in this process, in
the name of the key that sent the file.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from miaobi.core.language import in_each, say
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.callers import Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.jobs.batches import (
    BatchRequest,
    Journal,
    answer,
    client_of,
    read,
    unanswered,
)
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.serve.records import Key, now
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

ERRORS_LISTED = 100


def run(task: Task) -> Outcome:
    request = task.job.request
    path = task.files.path(request["input_file_id"])
    requests, errors = read(path, request["endpoint"])
    if errors:
        first = errors[0]["message"]
        message = in_each(
            lambda: say(
                f"{len(errors)} requests cannot be used; the first: {first}",
                f"有 {len(errors)} 条请求无法使用；第一条：{first}",
            )
        )
        return Outcome(
            message,
            {
                "errors": errors[:ERRORS_LISTED],
                "total": len(requests) + len(errors),
            },
            "failed",
        )
    task.progress(
        total=len(requests),
        in_progress_at=task.job.result.get("in_progress_at") or now(),
    )
    with Journal(task.folder / "answers.jsonl") as journal:
        stopped = asyncio.run(_answer(task, requests, journal))
        return _conclude(task, requests, journal, stopped)


async def _answer(task: Task, requests: list[BatchRequest], journal: Journal) -> str:
    """Answer the requests; return why it stopped before the last one: "cancelled",
    "expired", or "" when it did not.
    """
    ids = [item.id for item in requests]
    reason = ""

    def look() -> bool:
        nonlocal reason
        completed, failed = journal.counts(ids)
        if task.progress(completed=completed, failed=failed):
            reason = "cancelled"
        elif now() >= task.job.request["expires_at"]:
            reason = "expired"
        return bool(reason)

    if look():
        return reason
    async with client_of(application(task.settings), _caller(task)) as client:
        await answer(client, requests, journal, task.settings.streams, look)
    look()
    return reason if any(id not in journal for id in ids) else ""


def application(settings: Settings) -> FastAPI:
    """Return a server's application without its jobs and its studio; a model is opened
    by the first request for it.
    """
    from miaobi.serve.opening import build_pool

    own = replace(settings, workers=0, studio=False)
    return create_app(
        Services(replace(own, models=()), build_pool(own), Admission(own))
    )


def _caller(task: Task) -> Caller:
    """Return the caller whose tokens are counted. Raise ApiError for a revoked key."""
    with task.queue.records.reading() as session:
        key = session.get(Key, task.job.key_id)
    if key is None:
        return Caller(task.job.key_id, task.job.key_id)
    if key.revoked is not None:
        raise ApiError(
            401,
            say(
                "The key that sent this batch was revoked.",
                "提交此批处理的密钥已被吊销。",
            ),
            code="key_revoked",
        )
    return Caller(key.id, key.name, tokens_per_day=key.tokens_per_day)


def _conclude(
    task: Task, requests: list[BatchRequest], journal: Journal, stopped: str
) -> Outcome:
    """Write both files, in the order of the requests. Their ids are those of the
    request, so that doing this twice makes each file once.
    """
    request = task.job.request
    task.progress(finalizing_at=now())
    done = [item.id for item in requests if item.id in journal]
    expired = [
        _expired_row(item)
        for item in requests
        if stopped == "expired" and item.id not in journal
    ]
    result: dict[str, Any] = {
        "usage": _usage(journal.rows(done, True)),
        "expired": stopped == "expired",
    }
    for name, rows in (
        ("output", journal.rows(done, True)),
        ("error", [*journal.rows(done, False), *expired]),
    ):
        path = task.folder / f"{name}.jsonl"
        if _write(path, rows):
            task.files.put(
                path,
                request[f"{name}_file_id"],
                task.job.key_id,
                f"{task.job.id}_{name}.jsonl",
                "batch_output",
                now() + request["output_seconds"],
            )
            result[f"{name}_file_id"] = request[f"{name}_file_id"]
    completed, failed = journal.counts(done)
    failed += len(expired)
    message = say(
        f"{completed} answered, {failed} not, of {len(requests)}.",
        f"共 {len(requests)} 条：成功 {completed}，失败 {failed}。",
    )
    return Outcome(
        message,
        {**result, "completed": completed, "failed": failed},
        "cancelled" if stopped == "cancelled" else "succeeded",
    )


def _expired_row(request: BatchRequest) -> bytes:
    message = say(
        "The batch's time was over before this request's turn came.",
        "批处理已超时，未轮到此请求。",
    )
    row = unanswered(request, "batch_expired", message)
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _write(path: Path, rows: Iterable[bytes]) -> bool:
    with path.open("wb") as file:
        file.writelines(rows)
    return path.stat().st_size > 0


def _usage(rows: Iterable[bytes]) -> dict[str, Any]:
    total = Counter[str]()
    for row in rows:
        usage = json.loads(row)["response"]["body"].get("usage") or {}
        total.update({key: n for key, n in usage.items() if isinstance(n, int)})
    tokens_in = total["prompt_tokens"] + total["input_tokens"]
    tokens_out = total["completion_tokens"] + total["output_tokens"]
    return {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
