"""A batch: every line of a file through the application in this process, in the name of
the key that sent it.
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

from miaobi.core.language import say
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.callers import Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.jobs.batches import Journal, Line, answer, client_of, read, unanswered
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.serve.records import Key, now
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings


def run(task: Task) -> Outcome:
    asked = task.job.asked
    requests, wrong = read(task.files.path(asked["input_file_id"]), asked["endpoint"])
    if wrong:
        message = say(
            f"{len(wrong)} requests cannot be used; the first: {wrong[0]['message']}",
            f"有 {len(wrong)} 条请求无法使用；第一条：{wrong[0]['message']}",
        )
        return Outcome(
            message,
            {"errors": wrong[:100], "total": len(requests) + len(wrong)},
            "failed",
        )
    task.progress(
        total=len(requests),
        in_progress_at=task.job.result.get("in_progress_at") or now(),
    )
    with Journal(task.folder / "answers.jsonl") as journal:
        stopped = asyncio.run(_answer(task, requests, journal))
        return _conclude(task, requests, journal, stopped)


async def _answer(task: Task, requests: list[Line], journal: Journal) -> str:
    """Why it stopped before the last request: "cancelled", "expired", or "" when it did not."""
    ids = [line.id for line in requests]
    why = ""

    def look() -> bool:
        nonlocal why
        completed, failed = journal.counts(ids)
        if task.progress(completed=completed, failed=failed):
            why = "cancelled"
        elif now() >= task.job.asked["expires_at"]:
            why = "expired"
        return bool(why)

    if look():
        return why
    async with client_of(application(task.settings), _caller(task)) as client:
        await answer(client, requests, journal, task.settings.streams, look)
    look()
    return why if any(id not in journal for id in ids) else ""


def application(settings: Settings) -> FastAPI:
    """A server's application without its jobs and rooms; a model is opened when a
    request first asks for it.
    """
    from miaobi.serve.opening import build_pool

    own = replace(settings, workers=0, studio=False)
    return create_app(
        Services(replace(own, models=()), build_pool(own), Admission(own))
    )


def _caller(task: Task) -> Caller:
    """Whose tokens are counted. Raises ApiError for a key that was revoked since."""
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
    task: Task, requests: list[Line], journal: Journal, stopped: str
) -> Outcome:
    """Both files, in the order of the requests; under ids that were set aside at the
    start, so that doing this twice makes them once.
    """
    asked = task.job.asked
    task.progress(finalizing_at=now())
    done = [line.id for line in requests if line.id in journal]
    rest = (
        [line for line in requests if line.id not in journal]
        if stopped == "expired"
        else []
    )
    expired = say(
        "The batch's time was over before this request's turn came.",
        "批处理已超时，未轮到此请求。",
    )
    missed = [
        json.dumps(
            unanswered(line, "batch_expired", expired), ensure_ascii=False
        ).encode()
        + b"\n"
        for line in rest
    ]
    result: dict[str, Any] = {
        "usage": _usage(journal.rows(done, True)),
        "expired": stopped == "expired",
    }
    for name, rows in (
        ("output", journal.rows(done, True)),
        ("error", [*journal.rows(done, False), *missed]),
    ):
        path = task.folder / f"{name}.jsonl"
        if _write(path, rows):
            task.files.put(
                path,
                asked[f"{name}_file_id"],
                task.job.key_id,
                f"{task.job.id}_{name}.jsonl",
                "batch_output",
                now() + asked["output_seconds"],
            )
            result[f"{name}_file_id"] = asked[f"{name}_file_id"]
    completed, failed = journal.counts(done)
    message = say(
        f"{completed} answered, {failed + len(rest)} not, of {len(requests)}.",
        f"共 {len(requests)} 条：成功 {completed}，失败 {failed + len(rest)}。",
    )
    return Outcome(
        message,
        {**result, "completed": completed, "failed": failed + len(rest)},
        "cancelled" if stopped == "cancelled" else "succeeded",
    )


def _write(path: Path, rows: Iterable[bytes]) -> bool:
    with path.open("wb") as file:
        file.writelines(rows)
    return path.stat().st_size > 0


def _usage(rows: Iterable[bytes]) -> dict[str, Any]:
    total = Counter[str]()
    for row in rows:
        total.update(
            {
                key: value
                for key, value in (
                    json.loads(row)["response"]["body"].get("usage") or {}
                ).items()
                if isinstance(value, int)
            }
        )
    tokens_in, tokens_out = (
        total["prompt_tokens"] + total["input_tokens"],
        total["completion_tokens"] + total["output_tokens"],
    )
    return {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
