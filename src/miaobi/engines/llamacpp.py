"""llama.cpp in this process, through `xllamacpp`: any GGUF file, quick to start,
quickest for a single stream.

Its server runs on threads of its own and calls back from them. We render the chat
template (one renderer for all engines) and give it raw prompts.

What differs here: presence and frequency penalties also count the prompt's tokens, as
    llama.cpp keeps one window for all penalties.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from miaobi.core import gguf
from miaobi.core.artifacts import FinishReason, TokenLogprob
from miaobi.core.engine import (
    Abilities,
    Chunk,
    Weights,
    accepted,
    check_token_ids,
    context_error,
    either,
    no_chat_error,
    with_template,
)
from miaobi.core.errors import BadInput, Damaged, MiaobiError, Unsupported
from miaobi.core.language import say
from miaobi.core.machine import physical_cores
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.text import constraint, grammar
from miaobi.engines.text.constraint import TextMatcher
from miaobi.engines.text.filling import form_of, refuse_without
from miaobi.models import chat, converted
from miaobi.models.control_tokens import tokens_of_gguf

FORMATS = ("gguf", "bundle")
TAKES = TextRequest
ABILITIES = Abilities(
    frozenset(
        {
            "n",
            "seed",
            "prompt",
            "prompt_ids",
            "messages",
            "suffix",
            "continue_final_message",
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
    ),
    tokenize=True,
    checks={"json_schema": either(grammar.check, constraint.check)},
)

CACHE_BYTES = 2 << 30
"""Memory that keys and values may take unless a context length is asked for."""

SLOT_TOKENS = 2048
"""Tokens of the shared cache that each stream adds, once they are more than the context
itself holds.
"""

MIN_SLOTS = 4
"""Answers that the server makes together, at least, before others wait."""

HOLD_SECONDS = 0.025
"""Pieces of an answer that come sooner after one another go to the reader together."""

_without_proxies = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this process's own server, which no proxy of the machine reaches."""

LLGUIDANCE = "%llguidance {}\nstart: %json "
"""What begins a grammar that llama.cpp hands to its own llguidance."""

SAMPLERS = ["penalties", "top_k", "temperature", "typ_p", "top_p", "min_p"]
"""In their order. top_k before temperature keeps the same tokens, and spares the rest of
the vocabulary all that follows.
"""


def installed() -> str | None:
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
    """Open a GGUF file, or a bundle that becomes one.

    Args:
        weights: The model.
        streams: How many answers will be made at the same time.
        context_length: Unless given, what the model was trained for, as far as memory
            for its cache allows.
        threads: Of the processor; its physical cores unless given.
    """
    path = weights.path if weights.format == "gguf" else converted.gguf_of(weights)
    return LlamaCppEngine(path, weights.name, streams, context_length, threads)


class LlamaCppEngine:
    """llama.cpp's server in this process. Args as those of `open_engine`."""

    takes = TextRequest

    def __init__(
        self,
        path: Path,
        name: str,
        streams: int,
        context_length: int | None,
        threads: int | None,
    ) -> None:
        header = gguf.read(path)
        self.name = name
        self.slots = max(streams, MIN_SLOTS)
        self.chat = chat.from_gguf(header.metadata)
        self.chats = self.chat is not None
        self._form = form_of(header.metadata.get("tokenizer.ggml.tokens", ()))
        self._control_tokens = tokens_of_gguf(header.metadata)
        checks = {**ABILITIES.checks, "suffix": refuse_without(self._form, name)}
        self.abilities = with_template(replace(ABILITIES, checks=checks), self.chat)
        self._vocabulary_size = len(header.metadata.get("tokenizer.ggml.tokens", ()))
        self.bos_token = chat.named_token(header.metadata, "bos") or None
        self.eos_token = chat.named_token(header.metadata, "eos") or None
        self._adds_bos = bool(header.metadata.get("tokenizer.ggml.add_bos_token"))
        trained_for = header.of_model("context_length") or 4096
        affordable = max(512, CACHE_BYTES // max(1, cache_bytes_per_token(header)))
        self.context_length = context_length or min(trained_for, affordable)
        cache_tokens = max(
            self.context_length,
            min(self.context_length * self.slots, SLOT_TOKENS * streams, affordable),
        )
        self._api_key = secrets.token_hex(16)
        params = self._params(path, cache_tokens, threads or physical_cores())
        self._server = _start_server(params, path, header.architecture)
        self._threads = ThreadPoolExecutor(
            max_workers=256, thread_name_prefix="miaobi-llamacpp"
        )

    def _params(self, path: Path, cache_tokens: int, threads: int) -> Any:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        # One cache shared by all slots: a slot takes what it needs, so a few long
        # prompts and many short ones both fit. It is cleared when opened, so no larger
        # than needed: 755 MB instead of 188 cost SmolLM2 seconds of start.
        params.kv_unified = True
        params.n_parallel = self.slots
        params.n_ctx = cache_tokens
        params.kv_unified_per_slot = self.context_length
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.warmup = False
        params.verbosity = -1
        params.cache_ram_mib = 0
        params.ui = False
        params.fit_params = False
        # The server also listens on a port of the loopback interface; nobody else may
        # use it.
        params.api_keys = [self._api_key]
        return params

    def _prompt(self, request: TextRequest) -> str | list[int]:
        """Return the prompt for the server: a text, or token ids where it has parts.

        The server puts BOS before a text; a template that wrote it too would double it.
        """
        if request.prompt_ids is not None:
            return self._known(request.prompt_ids)
        if request.suffix is not None:
            return self._fill_ids(request)
        if request.messages is None:
            return request.prompt or ""
        if self.chat is None:
            raise no_chat_error(self.name)
        prompt = self.chat.render(
            request.messages,
            continue_final_message=request.continue_final_message,
            tools=request.tools or None,
        )
        if self._adds_bos and self.chat.bos_token:
            prompt = prompt.without_first(self.chat.bos_token)
        if not prompt.cuts:
            return prompt.text
        return [*self._encode("", special=True), *prompt.encode(self._encode)]

    def _fill_ids(self, request: TextRequest) -> list[int]:
        """The prompt that asks to fill in between two texts. The server itself ends
        answers at the tokens that end a fill (llama-vocab.cpp).
        """
        self.abilities.check("suffix", request.suffix)
        assert self._form is not None
        prompt = self._form.prompt(
            request.prompt or "", request.suffix or "", self._control_tokens
        )
        return [*self._encode("", special=True), *prompt.encode(self._encode)]

    def tokenize(self, request: TextRequest, special: bool = True) -> list[int]:
        prompt = self._prompt(request)
        if isinstance(prompt, str):
            return self._encode(prompt, special=special or request.prompt is None)
        return prompt

    def detokenize(self, ids: Sequence[int]) -> str:
        text: str = self._ask("detokenize", {"tokens": self._known(ids)})["content"]
        return text

    def _known(self, ids: Sequence[int]) -> list[int]:
        """Return token ids. Raises BadInput for one beyond the vocabulary."""
        check_token_ids(ids, self._vocabulary_size)
        return list(ids)

    def _encode(self, text: str, special: bool = False) -> list[int]:
        """Return token ids; `special` adds BOS where the model has it."""
        body = {"content": text, "add_special": special, "parse_special": True}
        ids: list[int] = self._ask("tokenize", body)["tokens"]
        return ids

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the server answers on its port of the loopback interface."""
        request = urllib.request.Request(
            f"{self._server.listening_address}/{path}",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._api_key}"},
        )
        with _without_proxies.open(request) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def _body(
        self, request: TextRequest, prompt: str | list[int], first: int, count: int
    ) -> dict[str, Any]:
        """The server's parameters for answers `first` to `first + count - 1`; answer i
        draws from seed + i.
        """
        logit_bias = [
            [token, False if value <= -100 else value]
            for token, value in request.logit_bias.items()
        ]
        body: dict[str, Any] = {
            "prompt": prompt,
            "stream": True,
            "return_progress": True,
            "n_predict": request.max_new_tokens,
            "n": count,
            "cache_prompt": True,
            "repeat_last_n": self.context_length,
            "stop": list(request.stop),
            "samplers": SAMPLERS,
            "temperature": 1.0 if request.greedy else request.temperature,
            "top_k": 1 if request.greedy else request.top_k,
            "top_p": request.top_p,
            "min_p": request.min_p,
            "typical_p": request.typical_p,
            "repeat_penalty": request.repetition_penalty,
            "presence_penalty": request.presence_penalty,
            "frequency_penalty": request.frequency_penalty,
            "logit_bias": logit_bias,
        }
        if request.seed is not None:
            body["seed"] = (request.seed + first) % (2**32 - 1)
        if request.logprobs is not None:
            body["n_probs"] = max(1, request.logprobs)
        if request.json_schema is not None:
            body["grammar"] = _grammar(request.json_schema)
        return body

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = accepted(request, TextRequest, self.abilities, "llamacpp")
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[list[Chunk] | BaseException] = asyncio.Queue()
        groups = [
            _Group(first, min(self.slots, request.n - first), request)
            for first in range(0, request.n, self.slots)
        ]

        def send(item: list[Chunk] | BaseException) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, item)

        prompt = await loop.run_in_executor(self._threads, self._prompt, request)
        try:
            for group in groups:
                body = self._body(request, prompt, group.first, group.count)
                self._threads.submit(group.run, self._server, body, send)
            unfinished = request.n
            while unfinished:
                item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                for chunk in item:
                    if chunk.finish is not None:
                        unfinished -= 1
                    yield chunk
        finally:
            for group in groups:
                group.cancelled = True

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        # A server that is asked to end before its loop has begun never does; one token
        # proves that it has.
        self._server.handle_completions(
            {"prompt": " ", "n_predict": 1}, lambda piece: False
        )
        del self._server


def _start_server(params: Any, path: Path, architecture: str) -> Any:
    import xllamacpp

    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise Unsupported(
            say(
                f"llama.cpp cannot load {path} ({architecture}): {error}.",
                f"llama.cpp 无法加载 {path}（{architecture}）：{error}。",
            ),
            say(
                "Try another engine (--engine native), or a newer xllamacpp.",
                "请换一个引擎（--engine native），或升级 xllamacpp。",
            ),
        ) from None


def _grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of a schema: ours, or that of the llguidance inside llama.cpp for
    what ours does not hold.
    """
    try:
        return grammar.of_schema(schema)
    except Unsupported:
        prepared = json.dumps(constraint.with_layout(schema), ensure_ascii=False)
        return f"{LLGUIDANCE}{prepared}"


Send = Callable[[list[Chunk] | BaseException], None]


class _Group:
    """Answers made by one call of the server, which blocks its thread and calls back
    piece by piece.

    Args:
        first: Number of the first answer.
        count: How many answers.
        request: What they answer.
    """

    def __init__(self, first: int, count: int, request: TextRequest) -> None:
        self.first = first
        self.count = count
        self.top_count = request.logprobs
        """How many top_logprobs to report; None for no log-probabilities."""
        self._matchers = _matchers(request, count)
        self._may_be_cut = bool(request.stop)
        self.cancelled = False
        self._token_counts = [0] * count
        self._prompt_counted = False
        self._held: list[Chunk] = []
        self._sent_at = 0.0

    def run(self, server: Any, body: dict[str, Any], send: Send) -> None:
        def receive(piece: Any) -> bool:
            """Return whether the server is to stop."""
            # An exception in here would be swallowed by the server and the answer would
            # never end.
            try:
                if not self.cancelled:
                    self._held += self._chunks(piece)
                    self._send_held(send)
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

    def _send_held(self, send: Send) -> None:
        """Send what is held, unless something went just now.

        At a hundred tokens a second, waking the reader for each costs one of them in
        twenty.
        """
        if not self._held:
            return
        now = time.monotonic()
        recent = now - self._sent_at <= HOLD_SECONDS
        if recent and not any(chunk.finish for chunk in self._held):
            return
        self._sent_at = now
        send(self._held)
        self._held = []

    def _chunks(self, piece: Any) -> list[Chunk]:
        if "error" in piece:
            raise _as_error(piece["error"])
        if "prompt_progress" in piece:
            # The first of these says how long the prompt is; every group reads the
            # same.
            counted = self._prompt_counted or self.first > 0
            self._prompt_counted = True
            if counted:
                return []
            return [Chunk(prompt_tokens=piece["prompt_progress"]["total"])]
        return [self._chunk(choice, piece) for choice in piece["choices"]]

    def _chunk(self, choice: dict[str, Any], piece: Any) -> Chunk:
        index = choice["index"]
        reason = choice["finish_reason"]
        logprobs: tuple[TokenLogprob, ...] = ()
        if self.top_count is not None:
            entries = (choice.get("logprobs") or {}).get("content") or ()
            logprobs = tuple(self._logprob(entry) for entry in entries)
        tokens = 1
        if reason:
            # Tokens whose text was held back came without a piece; the last one says
            # how many there were in all.
            total = piece["usage"]["completion_tokens"]
            tokens = max(0, total - self._token_counts[index])
        self._token_counts[index] += tokens
        if self._matchers:
            self._check(self._matchers[index], choice["text"], reason)
        finish: FinishReason | None = None
        if reason:
            finish = "stop" if reason == "stop" else "length"
        return Chunk(self.first + index, choice["text"], logprobs, tokens, finish)

    def _check(self, matcher: TextMatcher, text: str, reason: str | None) -> None:
        """Raise Unsupported for text that the schema does not allow, or too little."""
        held = matcher.take(text)
        if held and reason == "stop" and not self._may_be_cut:
            held = matcher.complete
        if not held:
            raise _not_held()

    def _logprob(self, entry: dict[str, Any]) -> TokenLogprob:
        top = entry["top_logprobs"][: self.top_count]
        return TokenLogprob.of(
            bytes(entry["bytes"]),
            entry["logprob"],
            tuple(
                TokenLogprob.of(bytes(other["bytes"]), other["logprob"])
                for other in top
            ),
        )


def _matchers(request: TextRequest, count: int) -> list[TextMatcher]:
    """What each answer is read along with, where llama.cpp's llguidance holds it.

    A llama.cpp without it, or with an older one, leaves the answer free without a word.
    """
    if request.json_schema is None:
        return []
    try:
        grammar.check(request.json_schema)
    except Unsupported:
        rules = constraint.grammar_of(request.json_schema)
        return [TextMatcher(rules) for _ in range(count)]
    return []


def _not_held() -> Unsupported:
    return Unsupported(
        say(
            "This build of llama.cpp does not enforce the JSON schema.",
            "此版本的 llama.cpp 不能保证该 JSON schema。",
        ),
        say(
            "Install a newer xllamacpp, or use another engine (--engine native).",
            "请安装更新的 xllamacpp，或换一个引擎（--engine native）。",
        ),
        field="json_schema",
    )


def _as_error(error: dict[str, Any]) -> MiaobiError:
    message = str(error.get("message", error))
    kind = error.get("type")
    if kind == "exceed_context_size_error":
        return context_error(error["n_prompt_tokens"], error["n_ctx"])
    if kind == "invalid_request_error":
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
    """Return the bytes of one token's keys and values, in float16, in all layers."""
    heads = header.of_model("attention.head_count", 1) or 1
    kv_heads = header.of_model("attention.head_count_kv") or heads
    head_width = (
        header.of_model("attention.key_length")
        or header.of_model("embedding_length") // heads
    )
    layers = header.of_model("block_count")
    return int(layers * 2 * kv_heads * head_width * 2)
