"""What the native engine does: one worker thread steps all answers together
(continuous batching).

Take in what arrived, run the model once over every live row, let each request choose
its next tokens, drop the rows that ended.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from queue import SimpleQueue
from typing import Any

import torch

from miaobi.core.artifacts import TokenLogprob
from miaobi.core.engine import (
    Abilities,
    Chunk,
    accepted,
    check_token_ids,
    context_error,
    no_chat_error,
    with_template,
)
from miaobi.core.errors import NotFound, nearest
from miaobi.core.language import say
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.native.answers import (
    Answers,
    BeamAnswers,
    SampledAnswers,
    Vocabulary,
    token_logprob,
)
from miaobi.engines.native.checkpoints import Adapter, Checkpoint
from miaobi.engines.native.decoders import BASE, Decoder
from miaobi.engines.text import constraint
from miaobi.engines.text.filling import form_of, refuse_without
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
    """Live rows."""
    cancelled: bool = False


@dataclass
class Batch:
    """Jobs stepped together: their rows stand one after the other in `state`."""

    jobs: list[Job]
    tokens: list[int]
    """The token that each row takes in next."""
    state: Any


class Worker(threading.Thread):
    """The thread that owns the model. `submit` may be called from any thread."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(name="miaobi-native", daemon=True)
        self.decoder = decoder
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._batches: list[Batch] = []
        self._open = True

    def submit(self, job: Job | None) -> None:
        """Take a job, or None to end."""
        self._inbox.put(job)

    def run(self) -> None:
        with torch.inference_mode():
            while self._open:
                jobs = self._arrived()
                if jobs:
                    self._admit(jobs)
                for batch in list(self._batches):
                    self._step(batch)

    def _arrived(self) -> list[Job]:
        """New jobs; waits for one only when there is nothing else to do."""
        jobs: list[Job] = []
        while not self._inbox.empty() or not (self._batches or jobs):
            job = self._inbox.get()
            if job is None:
                self._open = False
                return []
            jobs.append(job)
        return [job for job in jobs if not job.cancelled]

    def _admit(self, jobs: list[Job]) -> None:
        if self.decoder.joins:
            self._begin(jobs)
            return
        for job in jobs:
            self._begin([job])

    def _begin(self, jobs: list[Job]) -> None:
        """Take in the prompts of these jobs together, and make their first tokens."""
        try:
            answers = [
                (job, number) for job in jobs for number in range(self._draws_of(job))
            ]
            logits, state = self.decoder.prefill(
                [job.prompt for job, _ in answers],
                [job.adapter for job, _ in answers],
                [(job.request.seed or 0) + number for job, number in answers],
            )
            rows: list[int] = []
            first = 0
            for job in jobs:
                job.rows = job.answers.width
                draws = self._draws_of(job)
                rows += [first + number % draws for number in range(job.rows)]
                first += draws
            if len(rows) > first:
                logits = logits[rows]
                state = self.decoder.select(state, rows)
            batch = Batch(jobs, [], state)
            if self._choose(batch, logits):
                self._add(batch)
        except Exception as error:
            for job in jobs:
                job.send(error)

    def _draws_of(self, job: Job) -> int:
        """How many rows a job's prompt is taken in for: one, or one an answer where
        each begins with a draw of its own. The beams of a search share theirs.
        """
        if self.decoder.draws and job.request.num_beams == 1:
            return job.request.n
        return 1

    def _add(self, batch: Batch) -> None:
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
                tokens = torch.tensor(batch.tokens)
                logits, batch.state = self.decoder.step(tokens, batch.state)
                alive = self._choose(batch, logits)
        except Exception as error:
            for job in batch.jobs:
                job.send(error)
            alive = False
        if not alive:
            self._batches.remove(batch)

    def _drop_cancelled(self, batch: Batch) -> bool:
        """Drop the rows of cancelled jobs. False when no row is left."""
        if not any(job.cancelled for job in batch.jobs):
            return True
        rows: list[int] = []
        first = 0
        for job in batch.jobs:
            if not job.cancelled:
                rows += range(first, first + job.rows)
            first += job.rows
        batch.jobs = [job for job in batch.jobs if not job.cancelled]
        if rows:
            batch.state = self.decoder.select(batch.state, rows)
            batch.tokens = [batch.tokens[row] for row in rows]
        return bool(rows)

    def _choose(self, batch: Batch, logits: torch.Tensor) -> bool:
        """Let every job look at its rows; keep the rows that go on. False when none does."""
        rows: list[int] = []
        tokens: list[int] = []
        first = 0
        for job in batch.jobs:
            step = job.answers.advance(logits[first : first + job.rows])
            rows += [first + row for row in step.rows]
            tokens += step.tokens
            first += job.rows
            job.rows = len(step.rows)
            for chunk in step.chunks:
                job.send(chunk)
        batch.jobs = [job for job in batch.jobs if job.rows]
        batch.tokens = tokens
        if rows and rows != list(range(len(logits))):
            batch.state = self.decoder.select(batch.state, rows)
        return bool(rows)


class NativeEngine:
    """A checkpoint in this process; its worker starts with the first request."""

    takes = TextRequest

    def __init__(self, checkpoint: Checkpoint, abilities: Abilities) -> None:
        self.checkpoint = checkpoint
        if not constraint.spells_json(checkpoint.tokenizer.table):
            controls = abilities.controls - {"json_schema"}
            abilities = replace(abilities, controls=controls)
        if checkpoint.start_ids is not None or checkpoint.decoder.draws:
            abilities = replace(abilities, score=False)
        self._form = form_of(checkpoint.tokenizer.control_tokens.tokens)
        checks = {
            **abilities.checks,
            "suffix": refuse_without(self._form, checkpoint.name),
        }
        abilities = replace(abilities, checks=checks)
        self.abilities = with_template(abilities, checkpoint.chat)
        self.context_length = checkpoint.context_length
        self.chat = checkpoint.chat
        adapters = checkpoint.adapters.values()
        templates = [checkpoint.chat, *(adapter.chat for adapter in adapters)]
        self.chats = any(template is not None for template in templates)
        self._worker: Worker | None = None
        tokenizer = checkpoint.tokenizer
        self._vocabulary = Vocabulary(
            checkpoint.eos_ids,
            lambda stops: TextStream(tokenizer.detokenizer(), stops),
            tokenizer.spell,
        )

    @cached_property
    def _constraint(self) -> constraint.Constraint:
        table = self.checkpoint.tokenizer.table
        assert table is not None
        return constraint.Constraint(table, self.checkpoint.eos_ids)

    def _submit(self, job: Job) -> None:
        if self._worker is None:
            self._worker = Worker(self.checkpoint.decoder)
            self._worker.start()
        self._worker.submit(job)

    @property
    def bos_token(self) -> str | None:
        return self._named(self.checkpoint.bos_ids)

    @property
    def eos_token(self) -> str | None:
        return self._named(sorted(self.checkpoint.eos_ids))

    def _named(self, ids: Sequence[int]) -> str | None:
        return self.checkpoint.tokenizer.decode(ids[:1]) if ids else None

    def tokenize(self, request: TextRequest, special: bool = True) -> list[int]:
        tokenizer = self.checkpoint.tokenizer
        if request.prompt_ids is not None:
            return self._known(request.prompt_ids)
        if request.suffix is not None:
            return self._fill_ids(request, special)
        if request.messages is None:
            return tokenizer.encode(request.prompt or "", special=special)
        template = self.chat
        if request.adapter is not None:
            template = self._adapter(request.adapter).chat
        if template is None:
            raise no_chat_error(request.adapter or self.checkpoint.name)
        prompt = template.render(
            request.messages,
            continue_final_message=request.continue_final_message,
            tools=request.tools or None,
        )
        return prompt.encode(lambda text: tokenizer.encode(text, special=False))

    def _fill_ids(self, request: TextRequest, special: bool) -> list[int]:
        """The prompt that asks to fill in between two texts."""
        self.abilities.check("suffix", request.suffix)
        assert self._form is not None
        tokenizer = self.checkpoint.tokenizer
        prompt = self._form.prompt(
            request.prompt or "",
            request.suffix or "",
            self.checkpoint.tokenizer.control_tokens,
        )
        first = tokenizer.encode("", special=special)
        return first + prompt.encode(lambda text: tokenizer.encode(text, special=False))

    def _vocabulary_for(self, request: TextRequest) -> Vocabulary:
        """The model's tokens; those that end a fill too, where one is asked for."""
        if request.suffix is None or self._form is None:
            return self._vocabulary
        backend = self.checkpoint.tokenizer.tokenizer
        ends = (backend.token_to_id(token) for token in self._form.ends)
        ids = {token for token in ends if token is not None}
        return replace(self._vocabulary, eos_ids=self.checkpoint.eos_ids | ids)

    def detokenize(self, ids: Sequence[int]) -> str:
        return self.checkpoint.tokenizer.decode(self._known(ids))

    def _known(self, ids: Sequence[int]) -> list[int]:
        """Return token ids. Raises BadInput for one beyond the vocabulary."""
        check_token_ids(ids, self.checkpoint.tokenizer.tokenizer.get_vocab_size())
        return list(ids)

    def _adapter(self, name: str) -> Adapter:
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
        prompt = self.tokenize(request) or self.checkpoint.bos_ids
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Chunk | BaseException] = asyncio.Queue()

        def send(item: Chunk | BaseException) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, item)

        answers = await asyncio.to_thread(self._answers, request, prompt)
        job = Job(request, prompt, send, answers)
        if request.adapter is not None:
            job.adapter = self._adapter(request.adapter).key
        self._submit(job)
        unfinished = request.n
        try:
            yield Chunk(prompt_tokens=len(prompt))
            while unfinished:
                item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                if item.finish is not None:
                    unfinished -= 1
                yield item
        finally:
            job.cancelled = True

    def _answers(self, request: TextRequest, prompt: list[int]) -> Answers:
        """Raise BadInput for a prompt that fills the context."""
        if self.checkpoint.start_ids is not None:
            prompt = self.checkpoint.start_ids
        context_left = self.context_length - len(prompt)
        if context_left < 1:
            raise context_error(len(prompt), self.context_length)
        vocabulary = self._vocabulary_for(request)
        if request.num_beams > 1:
            if request.json_schema is not None:
                request.refuse("num_beams > 1", "json_schema")
            return BeamAnswers(request, prompt, context_left, vocabulary)
        matchers = list[constraint.Matcher]()
        if request.json_schema is not None:
            matchers = self._constraint.matchers(request.json_schema, request.n)
        return SampledAnswers(request, prompt, context_left, vocabulary, matchers)

    def score(
        self, text: str | Sequence[int], top_count: int | None = None
    ) -> list[TokenLogprob]:
        """Return the natural-log probability of every token.

        Raises BadInput for a text beyond the context.
        """
        ids = self.tokenize(
            TextRequest(prompt=text)
            if isinstance(text, str)
            else TextRequest(prompt_ids=tuple(text))
        )
        if len(ids) > self.context_length:
            raise context_error(len(ids), self.context_length)
        if not ids:
            return []
        entries = [TokenLogprob.of(self._vocabulary.spell(ids[0]), math.nan)]
        following = iter(ids[1:])
        with torch.inference_mode():
            for logits in self.checkpoint.decoder.score(ids):
                # The tokens first: zip would lose one that finds no row.
                entries += [
                    token_logprob(row, token, top_count, self._vocabulary)
                    for row, token in zip(
                        logits.log_softmax(1),
                        islice(following, len(logits)),
                        strict=False,
                    )
                ]
        return entries

    def close(self) -> None:
        if self._worker is not None:
            self._worker.submit(None)
            self._worker.join()
