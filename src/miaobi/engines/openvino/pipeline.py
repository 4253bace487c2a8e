"""OpenVINO's pipeline in a process of its own: what runs there.

Started by process.py as `python -m`. Lines of JSON go both ways.
In: what the pipeline is opened with; then {"add": number, "prompt": {"text": ..., "cuts":
[...]} or token ids, "special": ..., "config": {...}} and {"cancel": number}. The end of the input ends the process.
Out: {"eos_ids": [...]} or {"error": ...}; then, after each step, one list of
[number, event, value] for every request that has news.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from miaobi.models.control_tokens import Prompt

PROPERTIES = {"KV_CACHE_PRECISION": "f16"}
"""Of the device. Keys and values in eight bits, as they are otherwise, are a tenth
slower to read behind a prefix of 512 tokens.
"""

NO_LIMIT = 2**31 - 1
"""Without a max_length the tokenizer cuts a long prompt at the context's end, silently."""

News = list[tuple[int, str, Any]]


class Pipeline:
    """A ContinuousBatchingPipeline. One thread, which takes commands between two steps.

    Args as those of PipelineProcess.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str,
        context_length: int,
        scheduler: Mapping[str, int],
        threads: int,
    ) -> None:
        import openvino_genai

        self._genai = openvino_genai
        settings = openvino_genai.SchedulerConfig()
        for name, value in scheduler.items():
            setattr(settings, name, value)
        self._tokenizer = openvino_genai.Tokenizer(tokenizer)
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
        self._news: News = []
        self.eos_ids = [self._defaults.eos_token_id, *self._defaults.stop_token_ids]

    def run(self, inbox: SimpleQueue[Any], send: Callable[[News], None]) -> None:
        """Take commands and step, until None comes in."""
        while True:
            while not self._handles or not inbox.empty():
                command = inbox.get()
                if command is None:
                    return
                self._take(command)
                if not self._handles:
                    self._send_news(send)
            self._step()
            self._send_news(send)

    def _send_news(self, send: Callable[[News], None]) -> None:
        if self._news:
            send(self._news)
            self._news = []

    def _take(self, command: Mapping[str, Any]) -> None:
        import numpy
        import openvino

        if "cancel" in command:
            handle = self._handles.pop(command["cancel"], None)
            if handle is not None:
                handle.cancel()
            return
        number = command["add"]
        try:
            ids = self._encode(command["prompt"], command["special"])
            length = len(ids)
            context_left = self._context_length - length
            if context_left < 1:
                self._news.append((number, "too long", length))
                return
            self._news.append((number, "prompt", length))
            config = self._config(command["config"], context_left)
            tokens = openvino.Tensor(numpy.array([ids], dtype=numpy.int64))
            self._handles[number] = self._pipeline.add_request(number, tokens, config)
        except Exception as error:
            self._news.append((number, "error", str(error)))

    def _encode(self, prompt: list[int] | dict[str, Any], special: bool) -> list[int]:
        """Return token ids.

        An empty prompt, which the pipeline does not take, becomes the BOS token, or EOS
        where there is none.
        """

        def encode(part: str) -> list[int]:
            encoded = self._tokenizer.encode(
                part, add_special_tokens=special, max_length=NO_LIMIT
            )
            ids: list[int] = encoded.input_ids.data[0].tolist()
            return ids

        if isinstance(prompt, list):
            return prompt
        ids = Prompt(prompt["text"], tuple(prompt["cuts"])).encode(encode)
        if ids:
            return ids
        token: int = self._tokenizer.get_bos_token_id()
        return [self._defaults.eos_token_id if token < 0 else token]

    def _config(self, settings: Mapping[str, Any], context_left: int) -> Any:
        config = self._genai.GenerationConfig()
        config.eos_token_id = self._defaults.eos_token_id
        for name, value in settings.items():
            if name == "grammar":
                config.structured_output_config = self._genai.StructuredOutputConfig(
                    grammar=value
                )
            elif isinstance(value, list):
                setattr(config, name, set(value))
            else:
                setattr(config, name, value)
        config.max_new_tokens = min(config.max_new_tokens, context_left)
        return config

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except Exception as error:
            self._news += [(number, "error", str(error)) for number in self._handles]
            self._handles.clear()
            return
        running = self._genai.GenerationStatus.RUNNING
        for number, handle in list(self._handles.items()):
            if handle.can_read():
                outputs = [_as_json(output) for output in handle.read().values()]
                self._news.append((number, "answer", outputs))
            elif handle.get_status() != running:
                del self._handles[number]
                self._news.append((number, "end", None))


def _as_json(output: Any) -> list[Any]:
    return [
        output.generated_ids,
        output.generated_log_probs,
        output.finish_reason.name,
        output.score,
    ]


def main() -> None:
    # Ctrl-C is for the process that started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "wb")
    # What libraries print must not mix with the answers.
    os.dup2(2, 1)

    def send(item: Any) -> None:
        output.write(json.dumps(item).encode() + b"\n")
        output.flush()

    settings = json.loads(sys.stdin.readline() or "null")
    if settings is None:
        return
    try:
        pipeline = Pipeline(**settings)
    except Exception as error:
        send({"error": str(error)})
        return
    send({"eos_ids": pipeline.eos_ids})
    inbox: SimpleQueue[Any] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            inbox.put(json.loads(line))
        inbox.put(None)

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # The other process is gone.
        pipeline.run(inbox, send)


if __name__ == "__main__":
    main()
