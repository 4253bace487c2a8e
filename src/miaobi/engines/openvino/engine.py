"""What the openvino engine does: requests go to the pipeline's process, token ids come
back and are turned into text here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from miaobi.core import gguf
from miaobi.core.artifacts import FinishReason, TokenLogprob
from miaobi.core.engine import (
    Abilities,
    Chunk,
    accepted,
    check_token_ids,
    context_error,
    no_chat_error,
    with_template,
)
from miaobi.core.errors import EngineDied, Unsupported
from miaobi.core.language import in_each, say
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.openvino.pipeline import NO_LIMIT
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
from miaobi.engines.text.tokenizer import Tokenizer
from miaobi.models import chat, converted
from miaobi.models.control_tokens import Prompt
from miaobi.models.weights import read_json

log = logging.getLogger("miaobi.engines")

PACKED = {"Q4_1", "Q4_K", "Q6_K", "Q8_0"}
"""What runs faster, or is read right at all, after a rewrite (see openvino_rows.py).
Q4_0 alone and float16 are run as they are.
"""

CONTROL_TOKEN = 3
"""A token's type in a GGUF file."""


def runnable_path(path: Path) -> Path:
    """Return what OpenVINO opens for this file or folder: itself, or a rewritten copy.

    The copy is made on first use. Raises RuntimeError where it cannot be made.
    """
    if path.suffix == ".gguf" and gguf.read(path).types & PACKED:
        return converted.as_openvino(path)
    return path


class OpenVinoEngine:
    """A model in a process of its own.

    Args:
        path: A GGUF file or an OpenVINO folder.
        name: What people call the model.
        abilities: What the engine offers.
        streams: Answers that are made together at most.
        cache_gb: Memory for keys and values of all answers together.
        threads: Of the processor.
    """

    takes = TextRequest

    def __init__(
        self,
        path: Path,
        name: str,
        abilities: Abilities,
        *,
        streams: int,
        cache_gb: int,
        threads: int,
    ) -> None:
        self.name = name
        self._path = path
        self._threads = threads
        self._scheduler = {
            "enable_prefix_caching": True,
            "cache_size": cache_gb,
            "max_num_seqs": streams,
        }
        self._description = describe(path)
        self.chat = self._description.chat
        self.chats = self.chat is not None
        self.context_length = self._description.context_length
        self.abilities = with_template(abilities, self.chat)
        self._opening = threading.Lock()
        self._process = self._start_process()
        self._eos_ids = set(self._process.eos_ids)

    def _start_process(self) -> PipelineProcess:
        try:
            return PipelineProcess(
                runnable_path(self._path),
                self._path,
                self.context_length,
                self._scheduler,
                self._threads,
            )
        except RuntimeError as error:
            reason = _last_line(error)
            raise Unsupported(
                say(
                    f"OpenVINO cannot load {self._path}: {reason}.",
                    f"OpenVINO 无法加载 {self._path}：{reason}。",
                ),
                say(
                    "Try another engine (--engine llamacpp).",
                    "请换一个引擎（--engine llamacpp）。",
                ),
            ) from None

    def _restart_process(self) -> PipelineProcess:
        """Return the process, started again where it has died."""
        with self._opening:
            if self._process.ended:
                log.error(
                    "the process that runs %s died; it is started again", self.name
                )
                self._process.close()
                self._process = self._start_process()
            return self._process

    @property
    def bos_token(self) -> str | None:
        return str(self._description.tokenizer.get_bos_token()) or None

    @property
    def eos_token(self) -> str | None:
        return str(self._description.tokenizer.get_eos_token()) or None

    @property
    def process_id(self) -> int:
        return self._process.id

    def _prompt(self, request: TextRequest) -> Prompt:
        if request.messages is None:
            return Prompt(request.prompt or "")
        if self.chat is None:
            raise no_chat_error(self.name)
        return self.chat.render(
            request.messages,
            continue_final_message=request.continue_final_message,
            tools=request.tools or None,
        )

    def tokenize(self, request: TextRequest, special: bool = True) -> list[int]:
        if request.prompt_ids is not None:
            return self._description.known(request.prompt_ids)
        add_special_tokens = special and request.messages is None

        def encode(text: str) -> list[int]:
            encoded = self._description.tokenizer.encode(
                text, add_special_tokens=add_special_tokens, max_length=NO_LIMIT
            )
            ids: list[int] = encoded.input_ids.data[0].tolist()
            return ids

        return self._prompt(request).encode(encode)

    def detokenize(self, ids: Sequence[int]) -> str:
        known = self._description.known(ids)
        decode = self._description.tokenizer.decode
        return str(decode(known, skip_special_tokens=False))

    def _config(self, request: TextRequest, index: int) -> dict[str, Any]:
        """The GenerationConfig of answer `index`, which draws from seed + index; for
        beam search, of all answers.
        """
        config: dict[str, Any] = {
            "stop_token_ids": sorted(self._eos_ids),
            "max_new_tokens": request.max_new_tokens,
            "min_new_tokens": request.min_new_tokens,
            "repetition_penalty": request.repetition_penalty,
            "presence_penalty": request.presence_penalty,
            "frequency_penalty": request.frequency_penalty,
        }
        if request.stop:
            # The pipeline ends the answer; the text is cut here, so that no part of a
            # stop string is ever shown.
            config["stop_strings"] = sorted(set(request.stop))
            config["include_stop_str_in_output"] = True
        if request.num_beams > 1:
            config["num_beams"] = request.num_beams
            config["num_return_sequences"] = request.n
            if request.no_repeat_ngram_size:
                config["no_repeat_ngram_size"] = request.no_repeat_ngram_size
        elif not request.greedy:
            config["do_sample"] = True
            config["rng_seed"] = (request.seed or 0) + index
            config["temperature"] = request.temperature
            config["top_p"] = request.top_p
            config["min_p"] = min(request.min_p, 1 - 1e-6)  # it refuses 1
            if request.top_k:
                config["top_k"] = request.top_k
        if request.logprobs is not None:
            config["logprobs"] = 1
        if request.json_schema is not None:
            config["grammar"] = grammar.of_schema(request.json_schema)
        return config

    def _check(self, request: Request) -> TextRequest:
        text_request = accepted(request, TextRequest, self.abilities, "openvino")
        if text_request.no_repeat_ngram_size and text_request.num_beams == 1:
            raise _offered_only(
                "no_repeat_ngram_size",
                say("with num_beams above 1", "在 num_beams 大于 1 时"),
            )
        if text_request.logprobs:
            raise _offered_only(
                "logprobs",
                say(
                    "as 0: of the chosen token, without top_logprobs",
                    "为 0（只给出所选词元，不含候选）时",
                ),
            )
        return text_request

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = self._check(request)
        inbox: asyncio.Queue[tuple[int, str, Any]] = asyncio.Queue()
        jobs = self._jobs(request, inbox)
        answers = _Answers(request, self._description, self._eos_ids)
        process = self._process
        if process.ended:
            process = await asyncio.to_thread(self._restart_process)
        # Once the first has taken in the prompt, the others find it in the prefix cache.
        waiting = jobs[1:]
        process.add(jobs[0])
        prompt_counted = False
        try:
            while answers.unfinished:
                index, event, value = await inbox.get()
                if event == "prompt":
                    if not prompt_counted:
                        prompt_counted = True
                        yield Chunk(prompt_tokens=value)
                    continue
                if event == "too long":
                    raise context_error(value, self.context_length)
                if event == "died":
                    raise _died(self.name, value)
                if event == "error":
                    raise RuntimeError(value)
                for job in waiting:
                    process.add(job)
                waiting = []
                for chunk in answers.chunks(index, event, value):
                    yield chunk
                    if chunk.finish:
                        process.cancel(jobs[index])
        finally:
            for job in jobs:
                process.cancel(job)

    def _jobs(
        self, request: TextRequest, inbox: asyncio.Queue[tuple[int, str, Any]]
    ) -> list[Job]:
        """A job an answer, or in beam search one for all; events go to `inbox`."""
        if request.prompt_ids is not None:
            self._description.known(request.prompt_ids)
        prompt = self._prompt(request)
        special = request.messages is None
        loop = asyncio.get_running_loop()

        def job(index: int) -> Job:
            return Job(
                request.prompt_ids or prompt,
                special,
                self._config(request, index),
                lambda event, value: inbox.put_nowait((index, event, value)),
                loop,
            )

        count = request.n if request.num_beams == 1 else 1
        return [job(index) for index in range(count)]

    def close(self) -> None:
        self._process.close()


class _Answers:
    """The answers to one request: turns the pipeline's outputs into chunks.

    Each job makes one answer; in beam search the only job makes all n.
    """

    def __init__(
        self, request: TextRequest, description: Description, eos_ids: set[int]
    ) -> None:
        self._request = request
        self._eos_ids = eos_ids
        self._spell = description.spell
        self._streams = [
            TextStream(description.detokenizer(), request.stop)
            for _ in range(request.n)
        ]
        self._finished = [False] * request.n

    @property
    def unfinished(self) -> int:
        return self._finished.count(False)

    def chunks(self, index: int, event: str, value: Any) -> list[Chunk]:
        """Return the chunks of one event ("answer" or "end") of job `index`."""
        if event == "end":
            return self._end(index)
        return self._read(index, value)

    def _read(self, index: int, outputs: list[Any]) -> list[Chunk]:
        if self._request.num_beams > 1:
            # Every beam comes, once the search has ended.
            best = sorted(outputs, key=lambda output: -output[3])[: self._request.n]
            return [self._chunk(at, *output[:3]) for at, output in enumerate(best)]
        if self._finished[index]:
            return []
        return [self._chunk(index, *output[:3]) for output in outputs]

    def _chunk(
        self, index: int, tokens: list[int], log_probs: list[float], reason: str
    ) -> Chunk:
        stream = self._streams[index]
        text = ""
        logprobs: list[TokenLogprob] = []
        for position, token in enumerate(tokens):
            if token in self._eos_ids:
                continue
            text += stream.push(token)
            if self._request.logprobs is not None:
                logprobs.append(
                    TokenLogprob.of(self._spell(token), log_probs[position])
                )
            if stream.stopped:
                break
        finish: FinishReason | None = None
        if stream.stopped or reason != "NONE":
            text += stream.finish()
            finish = "length" if reason == "LENGTH" and not stream.stopped else "stop"
            self._finished[index] = True
        return Chunk(index, text, tuple(logprobs), len(tokens), finish)

    def _end(self, index: int) -> list[Chunk]:
        """The last chunk of an answer whose end the pipeline did not announce."""
        if self._finished[index]:
            return []
        self._finished[index] = True
        return [Chunk(index, self._streams[index].finish(), finish="length")]


@dataclass(frozen=True)
class Description:
    """What the files say of the model."""

    path: Path
    chat: chat.ChatTemplate | None
    context_length: int
    table: list[bytes] | None
    """The bytes of every token, where the vocabulary has such."""

    def detokenizer(self) -> Detokenizer:
        """Return a detokenizer for one answer."""
        if self.table is not None:
            return ByteDetokenizer(self.table)
        decode, anchor = self._decoder
        return WindowDetokenizer(decode, anchor)

    @cached_property
    def tokenizer(self) -> Any:
        """OpenVINO's own."""
        import openvino_genai

        return openvino_genai.Tokenizer(str(self.path))

    @cached_property
    def _decoder(self) -> tuple[Callable[[list[int]], str], int]:
        """What decodes, and a token to stand before others."""
        ids = self.tokenizer.encode("a", add_special_tokens=False).input_ids.data[0]
        return self.tokenizer.decode, ids[-1].item()

    @cached_property
    def _vocabulary_size(self) -> int:
        return len(self.tokenizer.get_vocab())

    def known(self, ids: Sequence[int]) -> list[int]:
        """Return token ids. Raises BadInput for one beyond the vocabulary."""
        check_token_ids(ids, self._vocabulary_size)
        return list(ids)

    def spell(self, token: int) -> bytes:
        """Return the bytes of one token; a control token's are its name.

        Embeddings may have more rows than the vocabulary has tokens; such a row is b"".
        """
        if token >= self._vocabulary_size:
            return b""
        if self.table is not None and self.table[token]:
            return self.table[token]
        text: str = self.tokenizer.decode([token], skip_special_tokens=False)
        return text.encode()


def describe(path: Path) -> Description:
    """Read what the engine needs to know of a GGUF file or an OpenVINO folder."""
    if path.suffix == ".gguf":
        header = gguf.read(path)
        return Description(
            path,
            chat.from_gguf(header.metadata),
            header.of_model("context_length") or 4096,
            byte_table(header),
        )
    config = read_json(path / "config.json")
    table = None
    if (path / "tokenizer.json").exists():
        table = Tokenizer.from_file(path / "tokenizer.json").table
    return Description(
        path,
        chat.from_folder(path),
        config.get("max_position_embeddings", 4096),
        table,
    )


def byte_table(header: gguf.Header) -> list[bytes] | None:
    """Return the bytes of every token of a GGUF vocabulary.

    None for kinds other than byte-level BPE and SentencePiece.
    """
    pieces = header.metadata.get("tokenizer.ggml.tokens", [])
    types = header.metadata.get("tokenizer.ggml.token_type", ())
    control = {token for token, kind in enumerate(types) if kind == CONTROL_TOKEN}
    model = header.metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        return byte_level_table(pieces, control)
    if model == "llama":
        return sentencepiece_table(pieces, control)
    return None


def _offered_only(name: str, when: str) -> Unsupported:
    return Unsupported(
        in_each(
            lambda: say(
                f"The openvino engine offers {name} only {when}.",
                f"openvino 引擎仅{when}支持 {name}。",
            )
        ),
        say(
            "Change it, or choose another engine with --engine.",
            "请修改，或用 --engine 换一个引擎。",
        ),
    )


def _died(name: str, reason: str) -> EngineDied:
    return EngineDied(
        say(
            f"The engine of {name} died during the answer: {reason}.",
            f"{name} 的引擎在回答时意外终止：{reason}。",
        ),
        say(
            "It is started again for the next request; send this one again.",
            "下一次请求会重新启动它；请重新发送此请求。",
        ),
    )


def _last_line(error: Exception) -> str:
    """The last line of OpenVINO's many."""
    return [line for line in str(error).splitlines() if line.strip()][-1]
