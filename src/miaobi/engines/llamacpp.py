"""llama.cpp in this process, through `xllamacpp`: any GGUF file, quick to start,
quickest for a single stream.

Its server runs on threads of its own and calls back from them. We render the chat
template (one renderer for all engines) and give it raw prompts.

What differs here: presence and frequency penalties also count the prompt's tokens, as
    llama.cpp keeps one window for all penalties.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
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
from miaobi.core.errors import BadInput, Damaged, MiaobiError, Unsupported
from miaobi.core.language import say
from miaobi.core.machine import physical_cores
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.text import grammar
from miaobi.models import chat, converted

FORMATS = ("gguf", "bundle")
ABILITIES = Abilities(
    frozenset(
        {
            "n",
            "seed",
            "prompt",
            "messages",
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "stop",
            "logit_bias",
            "logprobs",
            "json_schema",
        }
    )
)

CACHE_BYTES = 2 << 30
"""Memory that keys and values may take unless a context length is asked for."""

SLOT_TOKENS = 2048
"""Room in the shared cache that each stream adds, once they are more than the context
itself holds.
"""

HOLD_SECONDS = 0.025
"""Pieces of an answer that come sooner after one another go to the reader together."""


def installed() -> str | None:
    from importlib.util import find_spec

    return None if find_spec("xllamacpp") else 'pip install "miaobi[engines]"'


def reads(weights: Weights) -> bool:
    return weights.format == "gguf" or converted.fits(weights)


def open_engine(
    weights: Weights,
    *,
    streams: int = 1,
    context_length: int | None = None,
    threads: int | None = None,
) -> LlamaCppEngine:
    """`context_length` defaults to what the model was trained for, as far as memory for
    its cache allows.
    """
    path = weights.path if weights.format == "gguf" else converted.gguf_of(weights)
    return LlamaCppEngine(path, weights.name, streams, context_length, threads)


class LlamaCppEngine:
    modality = "text"

    def __init__(
        self,
        path: Path,
        name: str,
        streams: int,
        context_length: int | None,
        threads: int | None,
    ) -> None:
        import xllamacpp

        header = gguf.read(path)
        self.name, self.slots = name, max(streams, 4)
        self.chat = chat.from_gguf(header.metadata)
        self.chats, self.abilities = (
            self.chat is not None,
            with_tools(ABILITIES, self.chat),
        )
        self._adds_start = bool(header.metadata.get("tokenizer.ggml.add_bos_token"))
        trained = header.of_model("context_length") or 4096
        fits = max(512, CACHE_BYTES // max(1, cache_bytes_per_token(header)))
        self.context_length = context_length or min(trained, fits)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        # One cache shared by all slots: a slot takes what it needs, so a few long
        # prompts and many short ones both fit. It is cleared when opened, so no larger
        # than needed: 755 MB instead of 188 cost SmolLM2 seconds of start.
        params.kv_unified, params.n_parallel = True, self.slots
        params.n_ctx = max(
            self.context_length,
            min(self.context_length * self.slots, SLOT_TOKENS * streams, fits),
        )
        params.kv_unified_per_slot = self.context_length
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = (
            threads or physical_cores()
        )
        params.warmup, params.verbosity, params.cache_ram_mib = False, -1, 0
        # The server also listens on a port of the loopback interface; nobody else may
        # use it.
        params.api_keys, params.ui, params.fit_params = (
            [secrets.token_hex(16)],
            False,
            False,
        )
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise Unsupported(
                say(
                    f"llama.cpp cannot load {path} ({header.architecture}): {error}.",
                    f"llama.cpp 无法加载 {path}（{header.architecture}）：{error}。",
                ),
                say(
                    "Try another engine (--engine native), or a newer xllamacpp.",
                    "请换一个引擎（--engine native），或升级 xllamacpp。",
                ),
            ) from None
        self._threads = ThreadPoolExecutor(
            max_workers=256, thread_name_prefix="miaobi-llamacpp"
        )

    def _prompt(self, request: TextRequest) -> str:
        if request.messages is None:
            return request.prompt or ""
        if self.chat is None:
            raise no_chat_error(self.name)
        text = self.chat.render(request.messages, tools=request.tools or None)
        # llama.cpp puts the first token before every prompt; a template that wrote it
        # too would double it.
        return (
            text.removeprefix(self.chat.bos_token)
            if self._adds_start and self.chat.bos_token
            else text
        )

    def _body(self, request: TextRequest, first: int, count: int) -> dict[str, Any]:
        """The server's parameters for answers `first` to `first + count - 1`; answer i
        draws from seed + i.
        """
        body: dict[str, Any] = {
            "prompt": self._prompt(request),
            "stream": True,
            "return_progress": True,
            "n_predict": request.max_new_tokens,
            "n": count,
            "cache_prompt": True,
            "repeat_last_n": self.context_length,
            "stop": list(request.stop),
            # top_k before temperature keeps the same tokens, and spares the rest of the
            # vocabulary all that follows.
            "samplers": [
                "penalties",
                "top_k",
                "temperature",
                "typ_p",
                "top_p",
                "min_p",
            ],
            "temperature": 1.0 if request.greedy else request.temperature,
            "top_k": 1 if request.greedy else request.top_k,
            "top_p": request.top_p,
            "min_p": request.min_p,
            "typical_p": request.typical_p,
            "repeat_penalty": request.repetition_penalty,
            "presence_penalty": request.presence_penalty,
            "frequency_penalty": request.frequency_penalty,
            "logit_bias": [
                [token, False if value <= -100 else value]
                for token, value in request.logit_bias.items()
            ],
        }
        if request.seed is not None:
            body["seed"] = (request.seed + first) % (2**32 - 1)
        if request.logprobs is not None:
            body["n_probs"] = max(1, request.logprobs)
        if request.json_schema is not None:
            body["grammar"] = grammar.of_schema(request.json_schema)
        return body

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = accepted(request, TextRequest, self.abilities, "llamacpp")
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[list[Chunk] | BaseException] = asyncio.Queue()
        groups = [
            _Group(first, min(self.slots, request.n - first), request.logprobs)
            for first in range(0, request.n, self.slots)
        ]

        def send(item: list[Chunk] | BaseException) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, item)

        try:
            for group in groups:
                body = self._body(request, group.first, group.count)
                self._threads.submit(group.run, self._server, body, send)
            left = request.n
            while left:
                item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                for chunk in item:
                    left -= chunk.finish is not None
                    yield chunk
        finally:
            for group in groups:
                group.cancelled = True

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        # A server that is told to end before its loop has begun never does; one token
        # proves that it has.
        self._server.handle_completions(
            {"prompt": " ", "n_predict": 1}, lambda piece: False
        )
        del self._server


class _Group:
    """Answers made by one call of the server, which blocks its thread and calls back
    piece by piece.
    """

    def __init__(self, first: int, count: int, rivals: int | None) -> None:
        self.first, self.count, self.rivals = first, count, rivals
        self.cancelled = False
        self._made, self._told = [0] * count, False
        self._held: list[Chunk] = []
        self._sent = 0.0

    def run(self, server: Any, body: dict[str, Any], send: Any) -> None:
        def receive(piece: Any) -> bool:
            # An exception in here would be swallowed by the server and the answer would
            # never end.
            try:
                if not self.cancelled:
                    self._held += self._chunks(piece)
                    self._send(send)
            except Exception as error:
                send(self._held)
                send(error)
                return True
            return self.cancelled

        try:
            if not self.cancelled:
                server.handle_completions(body, receive)
        except Exception as error:
            send(error)

    def _send(self, send: Any) -> None:
        """What is held, unless something went just now: at a hundred tokens a second,
        waking the reader for each costs one of them in twenty.
        """
        now = time.monotonic()
        if self._held and (
            now - self._sent > HOLD_SECONDS or any(chunk.finish for chunk in self._held)
        ):
            self._sent = now
            send(self._held)
            self._held = []

    def _chunks(self, piece: Any) -> list[Chunk]:
        if "error" in piece:
            raise _as_error(piece["error"])
        if "prompt_progress" in piece:
            # The first of these says how long the prompt is; every group reads the
            # same.
            told, self._told = self._told, True
            return (
                []
                if told or self.first
                else [Chunk(prompt_tokens=piece["prompt_progress"]["total"])]
            )
        return [self._chunk(choice, piece) for choice in piece["choices"]]

    def _chunk(self, choice: dict[str, Any], piece: Any) -> Chunk:
        entries = (choice.get("logprobs") or {}).get("content") or ()
        index, finish = choice["index"], choice["finish_reason"]
        logprobs = (
            ()
            if self.rivals is None
            else tuple(self._logprob(entry) for entry in entries)
        )
        # Tokens whose text was held back came without a piece; the last one tells how
        # many there were in all.
        tokens = (
            max(0, piece["usage"]["completion_tokens"] - self._made[index])
            if finish
            else 1
        )
        self._made[index] += tokens
        return Chunk(
            self.first + index,
            choice["text"],
            logprobs,
            tokens,
            finish if finish in (None, "stop") else "length",
        )

    def _logprob(self, entry: dict[str, Any]) -> TokenLogprob:
        top = entry["top_logprobs"][: self.rivals]
        return TokenLogprob(
            _spell(entry),
            entry["logprob"],
            tuple((_spell(other), other["logprob"]) for other in top),
        )


def _spell(entry: dict[str, Any]) -> str:
    return bytes(entry["bytes"]).decode("utf-8", errors="replace")


def _as_error(error: dict[str, Any]) -> MiaobiError:
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        return context_error(error["n_prompt_tokens"], error["n_ctx"])
    if error.get("type") == "invalid_request_error":
        return BadInput(
            say(
                f"llama.cpp refuses the request: {message}.",
                f"llama.cpp 拒绝了请求：{message}。",
            ),
            say("Change the setting it names.", "请修改它指出的设置。"),
        )
    return Damaged(
        say(f"llama.cpp failed: {message}.", f"llama.cpp 出错：{message}。"),
        say("Try again, or another engine.", "请重试，或换一个引擎。"),
    )


def cache_bytes_per_token(header: gguf.Header) -> int:
    """Keys and values of one token in float16."""
    heads = header.of_model("attention.head_count", 1) or 1
    width = (
        header.of_model("attention.key_length")
        or header.of_model("embedding_length") // heads
    )
    return (
        header.of_model("block_count")
        * 2
        * (header.of_model("attention.head_count_kv") or heads)
        * width
        * 2
    )
