"""OpenVINO GenAI's continuous batching on Intel-compatible CPUs: ahead of the others from a few streams on.

One thread owns the pipeline and takes commands from a queue: a lock shared with the stepping thread delays a cancel
by many tokens. It reads GGUF files (Llama and Qwen layouts) and OpenVINO folders; token ids come back and are turned into
text here.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from miaobi.core import gguf
from miaobi.core.artifacts import TokenLogprob
from miaobi.core.engine import Abilities, Chunk, Weights, accepted, context_error, no_chat_error, with_tools
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.core.requests import Request, TextRequest
from miaobi.engines import chat, converted, grammar
from miaobi.engines.cores import physical_cores
from miaobi.engines.streaming import (
    ByteDetokenizer,
    Detokenizer,
    TextStream,
    WindowDetokenizer,
    byte_level_table,
    sentencepiece_table,
)
from miaobi.engines.weights import read_json

FORMATS = ("openvino", "gguf", "bundle")
ABILITIES = Abilities(frozenset({
    "n", "seed", "prompt", "messages", "max_new_tokens", "min_new_tokens", "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "stop", "num_beams",
    "logprobs", "json_schema"}))

ARCHITECTURES = ("llama", "qwen2", "qwen3")
TYPES = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0"}
"""What GenAI's GGUF reader takes; a file that is float32 throughout it refuses."""
ROUNDED = {"Q4_1", "Q4_K"}
"""What it takes but reads badly (see requantise.py): such files are opened through a q8_0 copy."""


def installed() -> str | None:
    from importlib.util import find_spec
    return None if find_spec("openvino_genai") else 'pip install "miaobi[engines]"'


def reads(weights: Weights) -> bool:
    if weights.format == "gguf":
        header = gguf.read(weights.path)
        return header.architecture in ARCHITECTURES and header.types <= TYPES and header.types != {"F32"}
    return weights.format == "openvino" or converted.fits(weights)


def open_engine(weights: Weights, *, streams: int = 1, cache_gb: int = 1, threads: int | None = None) -> OpenVinoEngine:
    """`cache_gb`: memory for keys and values of all answers together."""
    path = weights.path if weights.format != "bundle" else converted.gguf_of(weights)
    if path.suffix == ".gguf" and gguf.read(path).types & ROUNDED:
        path = converted.as_q8(path)
    return OpenVinoEngine(path, weights.name, max(streams, 256), cache_gb, threads or physical_cores())


@dataclass(eq=False)
class Job:
    """One request on its way through the owner thread. `deliver` is called with outputs, an error, or None at the end."""

    tokens: Any
    config: Any
    deliver: Callable[[Any], None]
    loop: asyncio.AbstractEventLoop
    handle: Any = None
    cancelled: bool = False


class Owner(threading.Thread):
    """The only thread that touches the pipeline once it is open."""

    def __init__(self, pipeline: Any, running: Any) -> None:
        super().__init__(name="miaobi-openvino", daemon=True)
        self._pipeline, self._running = pipeline, running
        self._commands: SimpleQueue[Job | None] = SimpleQueue()
        self._jobs: list[Job] = []
        self._numbers = itertools.count(1)
        self._open = True

    def submit(self, job: Job | None) -> None:
        """A new job, one that was cancelled meanwhile, or None to end."""
        self._commands.put(job)

    def run(self) -> None:
        while self._open:
            self._obey()
            if self._jobs:
                self._step()
        for job in self._jobs:
            job.handle.cancel()

    def _obey(self) -> None:
        while not self._commands.empty() or (self._open and not self._jobs):
            job = self._commands.get()
            if job is None:
                self._open = False
                return
            if job.cancelled:
                if job in self._jobs:
                    job.handle.cancel()
                    self._jobs.remove(job)
                continue
            try:
                job.handle = self._pipeline.add_request(next(self._numbers), job.tokens, job.config)
                self._jobs.append(job)
            except Exception as error:
                self._send([(job, error)])

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except Exception as error:
            self._send([(job, error) for job in self._jobs])
            self._jobs.clear()
            return
        outbox: list[tuple[Job, Any]] = []
        for job in list(self._jobs):
            if job.handle.can_read():
                outbox.append((job, [(output.generated_ids, output.generated_log_probs, output.finish_reason, output.score)
                                     for output in job.handle.read().values()]))
            elif job.handle.get_status() != self._running:
                self._jobs.remove(job)
                outbox.append((job, None))
        self._send(outbox)

    def _send(self, outbox: list[tuple[Job, Any]]) -> None:
        """One wake-up of an event loop a step, however many answers run."""
        for loop in {job.loop for job, _ in outbox}:
            mine = [(job, item) for job, item in outbox if job.loop is loop]
            loop.call_soon_threadsafe(_deliver, mine)


def _deliver(outbox: list[tuple[Job, Any]]) -> None:
    for job, item in outbox:
        job.deliver(item)


class OpenVinoEngine:
    modality = "text"

    def __init__(self, path: Path, name: str, streams: int, cache_gb: int, threads: int) -> None:
        import openvino_genai

        self._genai, self.name = openvino_genai, name
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching, scheduler.cache_size, scheduler.max_num_seqs = True, cache_gb, streams
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(path), scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})
        except RuntimeError as error:
            raise Unsupported(say(f"OpenVINO cannot load {path}: {_reason(error)}.", f"OpenVINO 无法加载 {path}：{_reason(error)}。"),
                              say("Try another engine (--engine llamacpp).", "请换一个引擎（--engine llamacpp）。")) from None
        self._tokenizer = self._pipeline.get_tokenizer()
        self._described = _describe(path)
        self.chat, self.context_length = self._described.chat, self._described.context_length
        self.chats, self.abilities = self.chat is not None, with_tools(ABILITIES, self.chat)
        self._defaults = self._pipeline.get_config()
        self._ends = {self._defaults.eos_token_id, *self._defaults.stop_token_ids, *self._described.ends}

    @cached_property
    def _owner(self) -> Owner:
        owner = Owner(self._pipeline, self._genai.GenerationStatus.RUNNING)
        owner.start()
        return owner

    def _encode(self, request: TextRequest) -> Any:
        """The request's prompt as a tensor [1, T] of token ids."""
        if request.messages is None:
            text = request.prompt or ""
        elif self.chat is not None:
            text = self.chat.render(request.messages, tools=request.tools or None)
        else:
            raise no_chat_error(self.name)
        # Without max_length the tokenizer cuts a long prompt at the context's end and says nothing.
        ids = self._tokenizer.encode(text, add_special_tokens=request.messages is None, max_length=2**31 - 1).input_ids
        return ids if ids.shape[1] else self._start

    @cached_property
    def _start(self) -> Any:
        """What an empty prompt begins with, as the pipeline takes none that is empty: the token that begins a text, or ends one."""
        import numpy
        import openvino
        begin = self._tokenizer.get_bos_token_id()
        return openvino.Tensor(numpy.array([[begin if begin >= 0 else self._defaults.eos_token_id]], dtype=numpy.int64))

    def _config(self, request: TextRequest, room: int, index: int) -> Any:
        """For answer `index`, which draws from seed + index; for beam search, for all answers."""
        config = self._genai.GenerationConfig()
        config.eos_token_id, config.stop_token_ids = self._defaults.eos_token_id, self._ends
        config.max_new_tokens = min(request.max_new_tokens, room)
        config.min_new_tokens = request.min_new_tokens
        config.repetition_penalty = request.repetition_penalty
        config.presence_penalty, config.frequency_penalty = request.presence_penalty, request.frequency_penalty
        if request.stop:
            # The engine ends the answer; the text is cut here, so that no part of a stop string is ever shown.
            config.stop_strings, config.include_stop_str_in_output = set(request.stop), True
        if request.num_beams > 1:
            config.num_beams, config.num_return_sequences = request.num_beams, request.n
            if request.no_repeat_ngram_size:
                config.no_repeat_ngram_size = request.no_repeat_ngram_size
        elif not request.greedy:
            config.do_sample, config.rng_seed = True, (request.seed or 0) + index
            config.temperature, config.top_p = request.temperature, request.top_p
            config.min_p = min(request.min_p, 1 - 1e-6)  # it refuses 1
            if request.top_k:
                config.top_k = request.top_k
        if request.logprobs is not None:
            config.logprobs = 1
        if request.json_schema is not None:
            config.structured_output_config = self._genai.StructuredOutputConfig(grammar=grammar.of_schema(request.json_schema))
        return config

    def _check(self, request: Request) -> TextRequest:
        request = accepted(request, TextRequest, self.abilities, "openvino")
        if request.no_repeat_ngram_size and request.num_beams == 1:
            raise _only("no_repeat_ngram_size", say("with num_beams above 1", "在 num_beams 大于 1 时"))
        if request.logprobs:
            raise _only("logprobs", say("as 0: of the chosen token, without rivals", "为 0（只给出所选词元，不含候选）时"))
        return request

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = self._check(request)
        tokens = self._encode(request)
        length = tokens.shape[1]
        room = self.context_length - length
        if room < 1:
            raise context_error(length, self.context_length)
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Any]]()

        def job_of(index: int) -> Job:
            return Job(tokens, self._config(request, room, index), lambda item: inbox.put_nowait((index, item)), loop)
        jobs = [job_of(index) for index in range(request.n if request.num_beams == 1 else 1)]
        reader = _Reader(request, self._described.detokenizer(self._tokenizer), self._ends, self._described.spell,
                         self._genai.GenerationFinishReason)
        waiting = jobs[1:]
        self._owner.submit(jobs[0])
        try:
            yield Chunk(prompt_tokens=length)
            while reader.left:
                index, item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                for job in waiting:  # once the first has taken the prompt in, the others find it in the prefix cache
                    self._owner.submit(job)
                waiting = []
                for chunk in reader.rest(index) if item is None else reader.read(index, item):
                    yield chunk
                    if chunk.finish:
                        self._end(jobs[index if len(jobs) > 1 else 0])
        finally:
            for job in jobs:
                self._end(job)

    def _end(self, job: Job) -> None:
        """Free a job's place, if it still holds one."""
        if not job.cancelled:
            job.cancelled = True
            self._owner.submit(job)

    def close(self) -> None:
        if "_owner" in self.__dict__:
            self._owner.submit(None)
            self._owner.join()
            del self.__dict__["_owner"]._pipeline
        del self._pipeline


class _Reader:
    """Turns the pipeline's outputs into chunks of answers 0 to n-1: one a job, or in beam search all from one job."""

    def __init__(self, request: TextRequest, detokenizer: Callable[[], Detokenizer], ends: set[int],
                 spell: Callable[[int], str], reasons: Any) -> None:
        self._request, self._ends, self._spell, self._reasons = request, ends, spell, reasons
        self._streams = [TextStream(detokenizer(), request.stop) for _ in range(request.n)]
        self._finished = [False] * request.n

    @property
    def left(self) -> int:
        return self._finished.count(False)

    def read(self, index: int, outputs: list[Any]) -> list[Chunk]:
        if self._request.num_beams > 1:  # every beam comes, once the search has ended; the best n were asked for
            best = sorted(outputs, key=lambda output: -output[3])[:self._request.n]
            return [self._chunk(at, *output[:3]) for at, output in enumerate(best)]
        return [] if self._finished[index] else [self._chunk(index, *output[:3]) for output in outputs]

    def _chunk(self, index: int, tokens: list[int], log_probs: list[float], reason: Any) -> Chunk:
        stream, text, logprobs = self._streams[index], "", []
        for at, token in enumerate(tokens):
            if token in self._ends:
                continue
            text += stream.push(token)
            if self._request.logprobs is not None:
                logprobs.append(TokenLogprob(self._spell(token), log_probs[at]))
            if stream.stopped:
                break
        finish: Any = None
        if stream.stopped or reason != self._reasons.NONE:
            text += stream.finish()
            finish = "length" if reason == self._reasons.LENGTH and not stream.stopped else "stop"
            self._finished[index] = True
        return Chunk(index, text, tuple(logprobs), len(tokens), finish)

    def rest(self, index: int) -> list[Chunk]:
        """The last chunk of an answer whose end the pipeline did not announce."""
        if self._finished[index]:
            return []
        self._finished[index] = True
        return [Chunk(index, self._streams[index].finish(), finish="length")]


@dataclass(frozen=True)
class _Described:
    """What the files say of the model, which the pipeline does not tell."""

    chat: chat.ChatTemplate | None
    context_length: int
    table: list[bytes] | None
    ends: set[int] = field(default_factory=set)

    def detokenizer(self, tokenizer: Any) -> Callable[[], Detokenizer]:
        table = self.table
        if table is not None:
            return lambda: ByteDetokenizer(table)
        anchor = tokenizer.encode("a", add_special_tokens=False).input_ids.data[0][-1].item()
        return lambda: WindowDetokenizer(tokenizer.decode, anchor)

    def spell(self, token: int) -> str:
        return self.table[token].decode("utf-8", errors="replace") if self.table else str(token)


def _describe(path: Path) -> _Described:
    if path.suffix == ".gguf":
        header = gguf.read(path)
        return _Described(chat.from_gguf(header.metadata), header.of_model("context_length") or 4096, table_of(header))
    config = read_json(path / "config.json")
    table = None
    if (path / "tokenizer.json").exists():
        from miaobi.engines.words import Words
        table = Words.from_file(path / "tokenizer.json").table
    return _Described(chat.from_folder(path), config.get("max_position_embeddings", 4096), table)


def table_of(header: gguf.Header) -> list[bytes] | None:
    """The bytes of every token of a GGUF vocabulary; None for kinds other than byte-level BPE and SentencePiece."""
    pieces = header.metadata.get("tokenizer.ggml.tokens", [])
    kinds = header.metadata.get("tokenizer.ggml.token_type", ())
    control = {token for token, kind in enumerate(kinds) if kind == 3}
    make = {"gpt2": byte_level_table, "llama": sentencepiece_table}.get(header.metadata.get("tokenizer.ggml.model", ""))
    return make(pieces, control) if make else None


def _only(name: str, when: str) -> Unsupported:
    return Unsupported(say(f"The openvino engine offers {name} only {when}.", f"openvino 引擎仅{when}支持 {name}。"),
                       say("Change it, or choose another engine with --engine.", "请修改，或用 --engine 换一个引擎。"))


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's many."""
    return [line for line in str(error).splitlines() if line.strip()][-1]
