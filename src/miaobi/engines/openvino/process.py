"""OpenVINO's pipeline in a process of its own: the door to it, and what runs behind it.

`ContinuousBatchingPipeline.step()` keeps Python's interpreter lock, so whatever shares
its process stands still while it computes (a server's event loop was measured to wait
85 % of its time). Lines of JSON go both ways. In: {"add": number, "text": ...,
"special": ..., "config": {...}} and {"cancel": number}; the end of the input ends the
process. Out: first what the model says of itself, or an error; then, after each step,
one list of [number, event, value] for every request that has news.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

CLOSE_SECONDS = 10
"""How long a process that was asked to end may take over its last step."""
PROPERTIES = {"KV_CACHE_PRECISION": "f16"}
"""Of the device. Keys and values in eight bits, as they are otherwise, are a tenth
slower to read behind a prefix of 512 tokens.
"""


@dataclass(eq=False)
class Job:
    """One request. `deliver` is called in `loop` with each event and its value:
    ("prompt", tokens), ("too long", tokens), ("answer", [[token ids, log-probabilities,
    "NONE" | "STOP" | "LENGTH", score], ...]), ("end", None), ("error", text).
    """

    text: str
    special: bool
    """Whether the tokenizer adds its own first token."""
    config: Mapping[str, Any]
    """Fields of GenerationConfig; `grammar` is one in EBNF that the answer follows."""
    deliver: Callable[[str, Any], None]
    loop: asyncio.AbstractEventLoop
    number: int = 0


class PipelineProcess:
    """The door. Safe to use from any thread; a thread each for writing and reading, so
    nobody waits for the pipe.
    """

    def __init__(
        self,
        path: Path,
        words: Path,
        context_length: int,
        scheduler: Mapping[str, int],
        threads: int,
    ) -> None:
        """`path`: the model, a folder or a GGUF file; `words`: where its tokenizer is.
        Raises RuntimeError with OpenVINO's own words where it cannot load them.
        """
        opened = {
            "path": str(path),
            "words": str(words),
            "context_length": context_length,
            "scheduler": scheduler,
            "threads": threads,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self.ended = False
        self._outbox.put(opened)
        self._writer = threading.Thread(
            target=self._write,
            args=(self._process.stdin,),
            name="miaobi-openvino-in",
            daemon=True,
        )
        self._writer.start()
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read,
            args=(self._process.stdout,),
            name="miaobi-openvino-out",
            daemon=True,
        )
        first = json.loads(
            self._process.stdout.readline()
            or '{"error": "its process ended while it was opened"}'
        )
        if "error" in first:
            self.close()
            raise RuntimeError(first["error"])
        self.ends: list[int] = first["ends"]
        self._reader.start()

    @property
    def id(self) -> int:
        return self._process.pid

    def add(self, job: Job) -> None:
        job.number = next(self._numbers)
        self._jobs[job.number] = job
        self._outbox.put(
            {
                "add": job.number,
                "text": job.text,
                "special": job.special,
                "config": job.config,
            }
        )
        if self.ended:  # meanwhile: the reader has told those it knew
            self._tell([[job.number, "error", self._died()]])

    def cancel(self, job: Job) -> None:
        """Free a job's place, if it still holds one."""
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
            pass  # it died: the reader tells

    def _read(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._tell(json.loads(line))
        self.ended = True
        self._tell([[number, "error", self._died()] for number in list(self._jobs)])

    def _tell(self, news: list[Any]) -> None:
        """One wake-up of an event loop a step, however many answers run."""
        told = [
            (job, event, value)
            for number, event, value in news
            if (job := self._jobs.get(number))
        ]
        for job, event, _ in told:
            if event in ("end", "error", "too long"):
                self._jobs.pop(job.number, None)
        for loop in {job.loop for job, _, _ in told}:
            mine = [item for item in told if item[0].loop is loop]
            try:
                loop.call_soon_threadsafe(_deliver, mine)
            except RuntimeError:  # closed meanwhile: nobody waits there
                for job, _, _ in mine:
                    self.cancel(job)

    def _died(self) -> str:
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
        assert self._process.stdout is not None
        self._process.stdout.close()


def _deliver(told: list[tuple[Job, str, Any]]) -> None:
    for job, event, value in told:
        job.deliver(event, value)


class _Pipeline:
    """Behind the door. One thread, which obeys between two steps."""

    def __init__(
        self,
        path: str,
        words: str,
        context_length: int,
        scheduler: Mapping[str, int],
        threads: int,
    ) -> None:
        import openvino_genai

        self._genai = openvino_genai
        settings = openvino_genai.SchedulerConfig()
        for name, value in scheduler.items():
            setattr(settings, name, value)
        self._tokenizer = openvino_genai.Tokenizer(words)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            path,
            self._tokenizer,
            settings,
            "CPU",
            INFERENCE_NUM_THREADS=threads,
            **PROPERTIES,
        )
        self._defaults = self._pipeline.get_config()
        self._context_length = context_length
        self._handles: dict[int, Any] = {}
        self._news: list[tuple[int, str, Any]] = []
        self.ends = [self._defaults.eos_token_id, *self._defaults.stop_token_ids]

    def run(self, inbox: SimpleQueue[Any], tell: Callable[[Any], None]) -> None:
        """Until None comes in."""
        while True:
            while not self._handles or not inbox.empty():
                if (command := inbox.get()) is None:
                    return
                self._obey(command)
                if not self._handles and self._news:
                    tell(self._taken())
            self._step()
            if self._news:
                tell(self._taken())

    def _taken(self) -> list[tuple[int, str, Any]]:
        news, self._news = self._news, []
        return news

    def _obey(self, command: Mapping[str, Any]) -> None:
        if "cancel" in command:
            if handle := self._handles.pop(command["cancel"], None):
                handle.cancel()
            return
        number = command["add"]
        try:
            tokens = self._encode(command["text"], command["special"])
            length = tokens.shape[1]
            room = self._context_length - length
            if room < 1:
                self._news.append((number, "too long", length))
                return
            self._news.append((number, "prompt", length))
            self._handles[number] = self._pipeline.add_request(
                number, tokens, self._config(command["config"], room)
            )
        except Exception as error:
            self._news.append((number, "error", str(error)))

    def _encode(self, text: str, special: bool) -> Any:
        """Token ids as a tensor [1, T]. An empty prompt, which the pipeline does not
        take, is the token that begins a text, or ends one.
        """
        import numpy
        import openvino

        # Without max_length the tokenizer cuts a long prompt at the context's end and
        # says nothing.
        ids = self._tokenizer.encode(
            text, add_special_tokens=special, max_length=2**31 - 1
        ).input_ids
        if ids.shape[1]:
            return ids
        begin = self._tokenizer.get_bos_token_id()
        return openvino.Tensor(
            numpy.array(
                [[begin if begin >= 0 else self._defaults.eos_token_id]],
                dtype=numpy.int64,
            )
        )

    def _config(self, asked: Mapping[str, Any], room: int) -> Any:
        config = self._genai.GenerationConfig()
        config.eos_token_id = self._defaults.eos_token_id
        for name, value in asked.items():
            if name == "grammar":
                config.structured_output_config = self._genai.StructuredOutputConfig(
                    grammar=value
                )
            else:
                setattr(config, name, set(value) if isinstance(value, list) else value)
        config.max_new_tokens = min(config.max_new_tokens, room)
        return config

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except Exception as error:
            self._news += [(number, "error", str(error)) for number in self._handles]
            self._handles.clear()
            return
        for number, handle in list(self._handles.items()):
            if handle.can_read():
                self._news.append(
                    (
                        number,
                        "answer",
                        [
                            [
                                output.generated_ids,
                                output.generated_log_probs,
                                output.finish_reason.name,
                                output.score,
                            ]
                            for output in handle.read().values()
                        ],
                    )
                )
            elif handle.get_status() != self._genai.GenerationStatus.RUNNING:
                del self._handles[number]
                self._news.append((number, "end", None))


def main() -> None:
    """Behind the door: lines in, lines out."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for whoever opened the door
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(item: Any) -> None:
        out.write(json.dumps(item).encode() + b"\n")
        out.flush()

    opened = json.loads(sys.stdin.readline() or "null")
    if opened is None:
        return
    try:
        pipeline = _Pipeline(**opened)
    except Exception as error:
        tell({"error": str(error)})
        return
    tell({"ends": pipeline.ends})
    inbox: SimpleQueue[Any] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            inbox.put(json.loads(line))
        inbox.put(None)

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        pipeline.run(inbox, tell)


if __name__ == "__main__":
    main()
