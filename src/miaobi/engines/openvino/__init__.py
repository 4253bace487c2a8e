"""OpenVINO GenAI's continuous batching on Intel-compatible CPUs: ahead of the others
from a few streams on.

The pipeline runs in a process of its own (openvino_process.py). It reads GGUF files
(Llama and Qwen layouts) and OpenVINO folders; token ids come back and are turned into
text here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from miaobi.core import gguf
from miaobi.core.artifacts import TokenLogprob
from miaobi.core.engine import (
    Abilities,
    Chunk,
    Weights,
    accepted,
    context_error,
    no_chat_error,
    with_tools,
)
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.core.machine import physical_cores
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.openvino.process import Job, PipelineProcess
from miaobi.engines.text import grammar
from miaobi.engines.text.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    byte_level_table,
    sentencepiece_table,
)
from miaobi.engines.text.streaming import TextStream
from miaobi.models import chat, converted
from miaobi.models.weights import read_json

log = logging.getLogger("miaobi.engines")

FORMATS = ("openvino", "gguf", "bundle")
ABILITIES = Abilities(
    frozenset(
        {
            "n",
            "seed",
            "prompt",
            "messages",
            "max_new_tokens",
            "min_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "no_repeat_ngram_size",
            "stop",
            "num_beams",
            "logprobs",
            "json_schema",
        }
    )
)

ARCHITECTURES = ("llama", "qwen2", "qwen3")
TYPES = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0"}
"""What GenAI's GGUF reader takes; a file that is float32 throughout it refuses."""
PACKED = {"Q4_1", "Q4_K", "Q6_K", "Q8_0"}
"""What runs faster, or is read right at all, after a rewrite (see openvino_rows.py).
Q4_0 alone and float16 are run as they are.
"""


def installed() -> str | None:
    from importlib.util import find_spec

    return None if find_spec("openvino_genai") else 'pip install "miaobi[engines]"'


def reads(weights: Weights) -> bool:
    if weights.format == "gguf":
        header = gguf.read(weights.path)
        return (
            header.architecture in ARCHITECTURES
            and header.types <= TYPES
            and header.types != {"F32"}
        )
    return weights.format == "openvino" or converted.fits(weights)


def open_engine(
    weights: Weights, *, streams: int = 1, cache_gb: int = 1, threads: int | None = None
) -> OpenVinoEngine:
    """`cache_gb`: memory for keys and values of all answers together."""
    path = weights.path if weights.format != "bundle" else converted.gguf_of(weights)
    return OpenVinoEngine(
        path, weights.name, max(streams, 256), cache_gb, threads or physical_cores()
    )


def runs_from(path: Path) -> Path:
    """What OpenVINO opens for this file or folder: itself, or a copy that is made on
    first use. Raises RuntimeError where it cannot be made.
    """
    return (
        converted.as_openvino(path)
        if path.suffix == ".gguf" and gguf.read(path).types & PACKED
        else path
    )


class OpenVinoEngine:
    modality = "text"

    def __init__(
        self, path: Path, name: str, streams: int, cache_gb: int, threads: int
    ) -> None:
        self.name, self._path, self._threads = name, path, threads
        self._scheduler = {
            "enable_prefix_caching": True,
            "cache_size": cache_gb,
            "max_num_seqs": streams,
        }
        self._described = _describe(path)
        self.chat, self.context_length = (
            self._described.chat,
            self._described.context_length,
        )
        self.chats, self.abilities = (
            self.chat is not None,
            with_tools(ABILITIES, self.chat),
        )
        self._opening = threading.Lock()
        self._process = self._opened()
        self._ends = {*self._process.ends, *self._described.ends}

    def _opened(self) -> PipelineProcess:
        try:
            return PipelineProcess(
                runs_from(self._path),
                self._path,
                self.context_length,
                self._scheduler,
                self._threads,
            )
        except RuntimeError as error:
            raise Unsupported(
                say(
                    f"OpenVINO cannot load {self._path}: {_reason(error)}.",
                    f"OpenVINO 无法加载 {self._path}：{_reason(error)}。",
                ),
                say(
                    "Try another engine (--engine llamacpp).",
                    "请换一个引擎（--engine llamacpp）。",
                ),
            ) from None

    def _reopened(self) -> PipelineProcess:
        """The process, begun anew where it has died."""
        with self._opening:
            if self._process.ended:
                log.error("the process that runs %s died; it is begun anew", self.name)
                self._process.close()
                self._process = self._opened()
            return self._process

    @property
    def process_id(self) -> int:
        return self._process.id

    def _text(self, request: TextRequest) -> str:
        if request.messages is None:
            return request.prompt or ""
        if self.chat is None:
            raise no_chat_error(self.name)
        return self.chat.render(request.messages, tools=request.tools or None)

    def _config(self, request: TextRequest, index: int) -> dict[str, Any]:
        """For answer `index`, which draws from seed + index; for beam search, for all answers."""
        config: dict[str, Any] = {
            "stop_token_ids": sorted(self._ends),
            "max_new_tokens": request.max_new_tokens,
            "min_new_tokens": request.min_new_tokens,
            "repetition_penalty": request.repetition_penalty,
            "presence_penalty": request.presence_penalty,
            "frequency_penalty": request.frequency_penalty,
        }
        if request.stop:
            # The engine ends the answer; the text is cut here, so that no part of a
            # stop string is ever shown.
            config |= {
                "stop_strings": sorted(set(request.stop)),
                "include_stop_str_in_output": True,
            }
        if request.num_beams > 1:
            config |= {
                "num_beams": request.num_beams,
                "num_return_sequences": request.n,
            }
            if request.no_repeat_ngram_size:
                config["no_repeat_ngram_size"] = request.no_repeat_ngram_size
        elif not request.greedy:
            config |= {
                "do_sample": True,
                "rng_seed": (request.seed or 0) + index,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "min_p": min(request.min_p, 1 - 1e-6),
            }  # it refuses 1
            if request.top_k:
                config["top_k"] = request.top_k
        if request.logprobs is not None:
            config["logprobs"] = 1
        if request.json_schema is not None:
            config["grammar"] = grammar.of_schema(request.json_schema)
        return config

    def _check(self, request: Request) -> TextRequest:
        request = accepted(request, TextRequest, self.abilities, "openvino")
        if request.no_repeat_ngram_size and request.num_beams == 1:
            raise _only(
                "no_repeat_ngram_size",
                say("with num_beams above 1", "在 num_beams 大于 1 时"),
            )
        if request.logprobs:
            raise _only(
                "logprobs",
                say(
                    "as 0: of the chosen token, without rivals",
                    "为 0（只给出所选词元，不含候选）时",
                ),
            )
        return request

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = self._check(request)
        text, special = self._text(request), request.messages is None
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str, Any]]()

        def job_of(index: int) -> Job:
            return Job(
                text,
                special,
                self._config(request, index),
                lambda event, value: inbox.put_nowait((index, event, value)),
                loop,
            )

        jobs = [
            job_of(index) for index in range(request.n if request.num_beams == 1 else 1)
        ]
        reader = _Reader(
            request, self._described.detokenizer, self._ends, self._described.spell
        )
        process = (
            await asyncio.to_thread(self._reopened)
            if self._process.ended
            else self._process
        )
        waiting = jobs[1:]
        process.add(jobs[0])
        told = False
        try:
            while reader.left:
                index, event, value = await inbox.get()
                if event == "prompt":
                    if not told:
                        told = True
                        yield Chunk(prompt_tokens=value)
                    continue
                if event == "too long":
                    raise context_error(value, self.context_length)
                if event == "error":
                    raise RuntimeError(value)
                for job in waiting:  # once the first has taken the prompt in, the others find it in the prefix cache
                    process.add(job)
                waiting = []
                for chunk in (
                    reader.rest(index) if event == "end" else reader.read(index, value)
                ):
                    yield chunk
                    if chunk.finish:
                        process.cancel(jobs[index if len(jobs) > 1 else 0])
        finally:
            for job in jobs:
                process.cancel(job)

    def close(self) -> None:
        self._process.close()


class _Reader:
    """Turns the pipeline's outputs into chunks of answers 0 to n-1: one a job, or in
    beam search all from one job.
    """

    def __init__(
        self,
        request: TextRequest,
        detokenizer: Callable[[], Detokenizer],
        ends: set[int],
        spell: Callable[[int], str],
    ) -> None:
        self._request, self._ends, self._spell = request, ends, spell
        self._streams = [
            TextStream(detokenizer(), request.stop) for _ in range(request.n)
        ]
        self._finished = [False] * request.n

    @property
    def left(self) -> int:
        return self._finished.count(False)

    def read(self, index: int, outputs: list[Any]) -> list[Chunk]:
        if (
            self._request.num_beams > 1
        ):  # every beam comes, once the search has ended; the best n were asked for
            best = sorted(outputs, key=lambda output: -output[3])[: self._request.n]
            return [self._chunk(at, *output[:3]) for at, output in enumerate(best)]
        return (
            []
            if self._finished[index]
            else [self._chunk(index, *output[:3]) for output in outputs]
        )

    def _chunk(
        self, index: int, tokens: list[int], log_probs: list[float], reason: str
    ) -> Chunk:
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
        if stream.stopped or reason != "NONE":
            text += stream.finish()
            finish = "length" if reason == "LENGTH" and not stream.stopped else "stop"
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
    """What the files say of the model."""

    path: Path
    chat: chat.ChatTemplate | None
    context_length: int
    table: list[bytes] | None
    ends: set[int] = field(default_factory=set)

    def detokenizer(self) -> Detokenizer:
        return (
            ByteDetokenizer(self.table)
            if self.table is not None
            else WindowDetokenizer(*self._decoder)
        )

    @cached_property
    def _decoder(self) -> tuple[Callable[[list[int]], str], int]:
        """For vocabularies without a table of bytes: OpenVINO's own decoder, and a
        token to stand before others.
        """
        import openvino_genai

        tokenizer = openvino_genai.Tokenizer(str(self.path))
        return tokenizer.decode, tokenizer.encode(
            "a", add_special_tokens=False
        ).input_ids.data[0][-1].item()

    def spell(self, token: int) -> str:
        return (
            self.table[token].decode("utf-8", errors="replace")
            if self.table
            else str(token)
        )


def _describe(path: Path) -> _Described:
    if path.suffix == ".gguf":
        header = gguf.read(path)
        return _Described(
            path,
            chat.from_gguf(header.metadata),
            header.of_model("context_length") or 4096,
            table_of(header),
        )
    config = read_json(path / "config.json")
    table = None
    if (path / "tokenizer.json").exists():
        from miaobi.engines.text.tokenizer import Tokenizer

        table = Tokenizer.from_file(path / "tokenizer.json").table
    return _Described(
        path, chat.from_folder(path), config.get("max_position_embeddings", 4096), table
    )


def table_of(header: gguf.Header) -> list[bytes] | None:
    """The bytes of every token of a GGUF vocabulary; None for kinds other than
    byte-level BPE and SentencePiece.
    """
    pieces = header.metadata.get("tokenizer.ggml.tokens", [])
    kinds = header.metadata.get("tokenizer.ggml.token_type", ())
    control = {token for token, kind in enumerate(kinds) if kind == 3}
    make = {"gpt2": byte_level_table, "llama": sentencepiece_table}.get(
        header.metadata.get("tokenizer.ggml.model", "")
    )
    return make(pieces, control) if make else None


def _only(name: str, when: str) -> Unsupported:
    return Unsupported(
        say(
            f"The openvino engine offers {name} only {when}.",
            f"openvino 引擎仅{when}支持 {name}。",
        ),
        say(
            "Change it, or choose another engine with --engine.",
            "请修改，或用 --engine 换一个引擎。",
        ),
    )


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's many."""
    return [line for line in str(error).splitlines() if line.strip()][-1]
