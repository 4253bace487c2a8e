"""`miaobi batch`: a file of requests is answered without a server, by the same code
that answers them over HTTP.

results.jsonl            one answer for each request, in their order, when all are there
.results.jsonl.journal   answers so far; the next run goes on from it
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from miaobi.core.config import checked
from miaobi.core.errors import BadInput, Conflict, NotFound
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.data.progress import bar
from miaobi.serve.callers import Caller
from miaobi.serve.jobs.batches import (
    BatchRequest,
    Journal,
    answer,
    answers,
    client_of,
    read,
)
from miaobi.serve.jobs.work.batch import application
from miaobi.serve.settings import Settings

LISTED = 5


@dataclass(frozen=True)
class Answered:
    out: Path
    total: int
    answered: int
    failed: int
    reused: int
    """Of the answered, those of an earlier run."""
    seconds: float

    def __str__(self) -> str:
        sentences = [
            say(
                f"{self.answered} of {self.total} requests answered in {self.seconds:.1f} s: {self.out}",
                f"{self.total} 条请求已回答 {self.answered} 条，用时 {self.seconds:.1f} 秒：{self.out}",
            )
        ]
        if self.reused:
            sentences.append(
                say(
                    f"  {self.reused} of them by an earlier run",
                    f"  其中 {self.reused} 条来自之前的运行",
                )
            )
        if self.failed:
            sentences.append(
                say(
                    f"  {self.failed} failed; their lines say why. The same command asks them again.",
                    f"  {self.failed} 条失败，原因见相应行；再次运行同一命令会重试。",
                )
            )
        return "\n".join(sentences)


@checked
def batch(
    requests: str,
    *,
    out: str,
    model: str | None = None,
    streams: Annotated[int, Field(ge=1)] = 16,
) -> Answered:
    """Answer a file of requests in OpenAI's batch format, without a server. A run that
    was stopped goes on where it was.

    Args:
        requests: JSONL, each line {"custom_id", "method": "POST", "url":
            "/v1/chat/completions", "body"}.
        out: Where the answers go, one line each, in the order of the requests.
        model: Answers all requests, whatever model they name.
        streams: Requests in flight at the same time.
    """
    source = Path(requests)
    target = Path(out)
    if not source.is_file():
        raise NotFound(
            say(f"There is no file {requests}.", f"文件 {requests} 不存在。"),
            say("Check the path.", "请检查路径。"),
        )
    batch_requests, unusable = read(source, model=model)
    if unusable:
        first = "\n  ".join(
            f"{item['line'] or ''}: {item['message']}".removeprefix(": ")
            for item in unusable[:LISTED]
        )
        raise BadInput(
            say(
                f"{requests}: {len(unusable)} lines cannot be used:\n  {first}",
                f"{requests}：有 {len(unusable)} 行无法使用：\n  {first}",
            ),
            say(
                "Mend or remove them; nothing was asked yet.",
                "请修正或删除这些行；尚未发出任何请求。",
            ),
        )
    began = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.journal")
    _begin(path, target)
    with Journal(path) as journal:
        journal.forget_failed()
        ids = [request.id for request in batch_requests]
        reused, _ = journal.counts(ids)
        try:
            asyncio.run(_answer(batch_requests, journal, streams))
        except BaseException:
            answered_count, _ = journal.counts(ids)
            print(
                say(
                    f"{answered_count} of {len(batch_requests)} answers are kept; the same command goes on.",
                    f"已保留 {answered_count}/{len(batch_requests)} 条回答；再次运行同一命令即可继续。",
                ),
                file=sys.stderr,
            )
            raise
        with write_beside(target) as draft, draft.open("wb") as file:
            file.writelines(journal.rows(ids))
        answered, failed = journal.counts(ids)
        path.unlink()
    return Answered(
        target, len(batch_requests), answered, failed, reused, time.monotonic() - began
    )


def _begin(path: Path, target: Path) -> None:
    """Begin the journal with the answers of a finished run."""
    if path.exists() or not target.exists():
        return
    if (
        max((location.end for _, location in answers(target)), default=0)
        < target.stat().st_size
    ):
        raise Conflict(
            say(
                f"{target} exists and does not hold answers of a batch.",
                f"{target} 已存在，且内容不是批处理结果。",
            ),
            say("Choose another --out.", "请用 --out 指定其他文件。"),
        )
    with write_beside(path) as draft:
        draft.write_bytes(target.read_bytes())


async def _answer(requests: list[BatchRequest], journal: Journal, streams: int) -> None:
    ids = [request.id for request in requests]
    if all(id in journal for id in ids):
        return
    app = application(Settings(streams=streams, queue=streams))
    with bar() as report:

        def look() -> bool:
            done, failed = journal.counts(ids)
            report(
                say("answering", "正在回答")
                + (
                    say(f" ({failed} failed)", f"（{failed} 条失败）") if failed else ""
                ),
                done + failed,
                len(ids),
            )
            return False

        async with client_of(app, Caller()) as client:
            await answer(client, requests, journal, streams, look)
