"""The process that runs OpenVINO's pipeline, seen from the process that started it.

`ContinuousBatchingPipeline.step()` keeps Python's interpreter lock, so whatever shares
its process stands still while it computes (a server's event loop was measured to wait
85 % of its time). pipeline.py is what runs there; it says what the two exchange.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from miaobi.models.control_tokens import Prompt

CLOSE_SECONDS = 10
"""How long a process that was asked to end may take over its last step."""

LAST_EVENTS = ("end", "error", "died", "too long")
"""Events that no other follows."""


@dataclass(eq=False)
class Job:
    """One request of the pipeline.

    `deliver` is called in `loop` with each event and its value:
    ("prompt", tokens), ("too long", tokens), ("answer", [[token ids, log-probabilities,
    "NONE" | "STOP" | "LENGTH", score], ...]), ("end", None), ("error", text).
    """

    prompt: Prompt | tuple[int, ...]
    """A text, or token ids."""
    special: bool
    """Whether the tokenizer adds its own first token."""
    config: Mapping[str, Any]
    """Fields of GenerationConfig; `grammar` is one in EBNF that the answer follows."""
    deliver: Callable[[str, Any], None]
    loop: asyncio.AbstractEventLoop
    number: int = 0
    """Set by the process that takes the job."""


ENDED_EARLY = '{"error": "its process ended while it was opened"}'

Event = tuple[Job, str, Any]


class PipelineProcess:
    """A running pipeline. Safe to use from any thread.

    A thread each writes and reads, so that nobody waits for the pipe.

    Args:
        path: The model, a folder or a GGUF file.
        tokenizer: Where its tokenizer is.
        context_length: Tokens of prompt and answer together.
        scheduler: Fields of SchedulerConfig.
        threads: Of the processor.

    Raises RuntimeError with OpenVINO's own words where it cannot load them.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Path,
        context_length: int,
        scheduler: Mapping[str, int],
        threads: int,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "miaobi.engines.openvino.pipeline"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self.ended = False
        self._outbox.put(
            {
                "path": str(path),
                "tokenizer": str(tokenizer),
                "context_length": context_length,
                "scheduler": scheduler,
                "threads": threads,
            }
        )
        self._writer = threading.Thread(
            target=self._write,
            args=(self._process.stdin,),
            name="miaobi-openvino-in",
            daemon=True,
        )
        self._writer.start()
        self._reader = threading.Thread(
            target=self._read, name="miaobi-openvino-out", daemon=True
        )
        self.eos_ids = self._opened()
        self._reader.start()

    def _opened(self) -> list[int]:
        """Wait for the pipeline; return the tokens that end an answer."""
        line = self._output.readline() or ENDED_EARLY
        answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise RuntimeError(answer["error"])
        eos_ids: list[int] = answer["eos_ids"]
        return eos_ids

    @property
    def id(self) -> int:
        return self._process.pid

    def add(self, job: Job) -> None:
        job.number = next(self._numbers)
        self._jobs[job.number] = job
        self._outbox.put(
            {
                "add": job.number,
                "prompt": _as_json(job.prompt),
                "special": job.special,
                "config": job.config,
            }
        )
        if self.ended:
            # The reader has notified only the jobs that it knew.
            self._dispatch([[job.number, "died", self._exit_message()]])

    def cancel(self, job: Job) -> None:
        """Free a job's slot, if it still holds one."""
        if self._jobs.pop(job.number, None):
            self._outbox.put({"cancel": job.number})

    def _write(self, pipe: IO[bytes]) -> None:
        try:
            while (item := self._outbox.get()) is not None:
                pipe.write(json.dumps(item).encode() + b"\n")
                if self._outbox.empty():
                    pipe.flush()
            pipe.close()
        except OSError:
            pass  # The process died: the reader notifies the jobs.

    def _read(self) -> None:
        for line in self._output:
            self._dispatch(json.loads(line))
        self.ended = True
        message = self._exit_message()
        self._dispatch([[number, "died", message] for number in list(self._jobs)])

    def _dispatch(self, news: Sequence[Sequence[Any]]) -> None:
        """Deliver [number, event, value] to the jobs.

        One wake-up of an event loop a step, however many answers run.
        """
        events_by_loop: dict[asyncio.AbstractEventLoop, list[Event]] = {}
        for number, event, value in news:
            job = self._jobs.get(number)
            if job is None:
                continue
            events_by_loop.setdefault(job.loop, []).append((job, event, value))
            if event in LAST_EVENTS:
                self._jobs.pop(number, None)
        for loop, events in events_by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # The loop was closed: nobody waits there.
                for job, _, _ in events:
                    self.cancel(job)

    def _exit_message(self) -> str:
        return f"the process that runs OpenVINO ended ({self._process.wait()})"

    def close(self) -> None:
        self._outbox.put(None)
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._writer.join()
        if self._reader.is_alive():
            self._reader.join()
        self._output.close()


def _as_json(prompt: Prompt | tuple[int, ...]) -> Any:
    if isinstance(prompt, Prompt):
        return {"text": prompt.text, "cuts": prompt.cuts}
    return prompt


def _deliver(events: list[Event]) -> None:
    for job, event, value in events:
        job.deliver(event, value)
