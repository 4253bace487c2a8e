"""What the native engine does: one worker thread steps all answers together (continuous batching).

Take in what arrived, run the model once over every live row, let each request choose
its next tokens, drop the rows that ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from typing import Any

import torch

from miaobi.core.artifacts import TokenLogprob
from miaobi.core.engine import (
    Abilities,
    Chunk,
    accepted,
    context_error,
    no_chat_error,
    with_tools,
)
from miaobi.core.errors import NotFound, nearest
from miaobi.core.language import say
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.native import checkpoints
from miaobi.engines.native.answers import (
    Answers,
    Beams,
    Drawn,
    Vocabulary,
    token_logprob,
)
from miaobi.engines.native.decoders import BASE
from miaobi.engines.text.streaming import TextStream


@dataclass(eq=False)
class Job:
    """One request on its way through the worker."""

    request: TextRequest
    prompt: list[int]
    send: Callable[[Chunk | BaseException], None]
    answers: Answers
    adapter: str = BASE
    rows: int = 0
    cancelled: bool = False


@dataclass
class Batch:
    """Jobs stepped together: their rows stand one after the other in `state`."""

    jobs: list[Job]
    tokens: list[int]
    state: Any


class Worker(threading.Thread):
    """Owns the model. `submit` and `cancel` may be called from any thread."""

    def __init__(self, decoder: Any) -> None:
        super().__init__(name="miaobi-native", daemon=True)
        self.decoder = decoder
        self._inbox: SimpleQueue[Job | Callable[[], None] | None] = SimpleQueue()
        self._batches: list[Batch] = []
        self._open = True

    def submit(self, job: Job | Callable[[], None] | None) -> None:
        """A job, a call to run between two steps, or None to end."""
        self._inbox.put(job)

    def run(self) -> None:
        with torch.inference_mode():
            while self._open:
                arrived = self._arrived()
                if arrived:
                    self._admit(arrived)
                for batch in list(self._batches):
                    self._step(batch)

    def _arrived(self) -> list[Job]:
        """New jobs; waits for one only when there is nothing else to do."""
        jobs: list[Job] = []
        while not self._inbox.empty() or not (self._batches or jobs):
            item = self._inbox.get()
            if item is None:
                self._open = False
                return []
            if isinstance(item, Job):
                jobs.append(item)
            else:
                item()
        return [job for job in jobs if not job.cancelled]

    def _admit(self, jobs: list[Job]) -> None:
        for group in [jobs] if self.decoder.joins else [[job] for job in jobs]:
            try:
                logits, state = self.decoder.prefill(
                    [job.prompt for job in group], [job.adapter for job in group]
                )
                widths = [job.answers.width for job in group]
                spread = [row for row, width in enumerate(widths) for _ in range(width)]
                if len(spread) > len(group):
                    logits, state = logits[spread], self.decoder.select(state, spread)
                for job, width in zip(group, widths, strict=True):
                    job.rows = width
                batch = Batch(list(group), [], state)
                if self._choose(batch, logits):
                    self._place(batch)
            except Exception as error:
                for job in group:
                    job.send(error)

    def _place(self, batch: Batch) -> None:
        if not (self.decoder.joins and self._batches):
            self._batches.append(batch)
            return
        running = self._batches[0]
        running.state = self.decoder.join(running.state, batch.state)
        running.jobs += batch.jobs
        running.tokens += batch.tokens

    def _step(self, batch: Batch) -> None:
        try:
            alive = self._drop_cancelled(batch)
            if alive:
                logits, batch.state = self.decoder.step(
                    torch.tensor(batch.tokens), batch.state
                )
                alive = self._choose(batch, logits)
        except Exception as error:
            for job in batch.jobs:
                job.send(error)
            alive = False
        if not alive:
            self._batches.remove(batch)

    def _drop_cancelled(self, batch: Batch) -> bool:
        if not any(job.cancelled for job in batch.jobs):
            return True
        kept, at = list[int](), 0
        for job in batch.jobs:
            kept += [] if job.cancelled else range(at, at + job.rows)
            at += job.rows
        batch.jobs = [job for job in batch.jobs if not job.cancelled]
        if kept:
            batch.state = self.decoder.select(batch.state, kept)
            batch.tokens = [batch.tokens[row] for row in kept]
        return bool(kept)

    def _choose(self, batch: Batch, logits: torch.Tensor) -> bool:
        """Let every job look at its rows; keep the rows that live on. False when none does."""
        rows, tokens, at = list[int](), list[int](), 0
        for job in batch.jobs:
            step = job.answers.advance(logits[at : at + job.rows])
            rows += [at + row for row in step.rows]
            tokens += step.tokens
            at += job.rows
            job.rows = len(step.rows)
            for chunk in step.chunks:
                job.send(chunk)
        batch.jobs = [job for job in batch.jobs if job.rows]
        batch.tokens = tokens
        if rows and rows != list(range(len(logits))):
            batch.state = self.decoder.select(batch.state, rows)
        return bool(rows)


class NativeEngine:
    modality = "text"

    def __init__(
        self, checkpoint: checkpoints.Checkpoint, abilities: Abilities
    ) -> None:
        self.checkpoint, self.abilities = (
            checkpoint,
            with_tools(abilities, checkpoint.chat),
        )
        self.context_length, self.chat = checkpoint.context_length, checkpoint.chat
        self.chats = any(
            template is not None
            for template in (
                checkpoint.chat,
                *(adapter.chat for adapter in checkpoint.adapters.values()),
            )
        )

    @cached_property
    def _worker(self) -> Worker:
        worker = Worker(self.checkpoint.decoder)
        worker.start()
        return worker

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        tokenizer = self.checkpoint.tokenizer
        return Vocabulary(
            self.checkpoint.eos_ids,
            lambda stops: TextStream(tokenizer.detokenizer(), stops),
            tokenizer.spell,
        )

    def encode(self, request: TextRequest) -> list[int]:
        """The request's prompt as token ids."""
        tokenizer = self.checkpoint.tokenizer
        if request.messages is None:
            return tokenizer.encode(request.prompt or "", special=True)
        template = (
            self.chat
            if request.adapter is None
            else self._adapter(request.adapter).chat
        )
        if template is None:
            raise no_chat_error(request.adapter or self.checkpoint.name)
        return tokenizer.encode(
            template.render(request.messages, tools=request.tools or None),
            special=False,
        )

    def _adapter(self, name: str) -> checkpoints.Adapter:
        if name not in self.checkpoint.adapters:
            raise NotFound(
                say(
                    f"{self.checkpoint.name} was not opened with an adapter {name!r}.",
                    f"打开 {self.checkpoint.name} 时没有加载适配器 {name!r}。",
                ),
                nearest(name, self.checkpoint.adapters),
            )
        return self.checkpoint.adapters[name]

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = accepted(request, TextRequest, self.abilities, "native")
        prompt = self.encode(request) or self.checkpoint.bos_ids
        room = self.context_length - len(prompt)
        if room < 1:
            raise context_error(len(prompt), self.context_length)
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Chunk | BaseException]()
        kind = Beams if request.num_beams > 1 else Drawn

        def send(item: Chunk | BaseException) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, item)

        adapter = (
            BASE if request.adapter is None else self._adapter(request.adapter).key
        )
        job = Job(
            request,
            prompt,
            send,
            kind(request, prompt, room, self._vocabulary),
            adapter,
        )
        self._worker.submit(job)
        left = request.n
        try:
            yield Chunk(prompt_tokens=len(prompt))
            while left:
                item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                left -= item.finish is not None
                yield item
        finally:
            job.cancelled = True

    def score(self, text: str) -> list[TokenLogprob]:
        """Natural-log probability of every token after the first. Raises BadInput for a
        text beyond the context.
        """
        ids = self.checkpoint.tokenizer.encode(text, special=True)
        if len(ids) > self.context_length:
            raise context_error(len(ids), self.context_length)
        with torch.inference_mode():
            likely = self.checkpoint.decoder.score(ids).log_softmax(1)
        return [
            token_logprob(row, token, None, self._vocabulary)
            for row, token in zip(likely, ids[1:], strict=False)
        ]

    def close(self) -> None:
        if "_worker" in self.__dict__:
            self._worker.submit(None)
            self._worker.join()
