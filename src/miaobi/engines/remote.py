"""Any server that speaks OpenAI's completions: vLLM, SGLang, llama.cpp's server,
miaobi's own, or a paid service.

    miaobi.load("http://127.0.0.1:8000/v1", model="qwen3", api_key_from="MY_KEY")

The key is read from an environment variable and sent nowhere but to that server; no
message or log holds it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from miaobi.core.artifacts import FinishReason, TokenLogprob
from miaobi.core.engine import Abilities, Chunk, Weights, accepted
from miaobi.core.errors import BadInput, MiaobiError, NotFound, nearest
from miaobi.core.language import say
from miaobi.core.requests import Request, TextRequest

FORMATS = ("url",)
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
            "max_new_tokens",
            "temperature",
            "top_p",
            "presence_penalty",
            "frequency_penalty",
            "stop",
            "logit_bias",
            "logprobs",
            "json_schema",
        }
    )
)
EXTENDED = Abilities(
    ABILITIES.controls | {"top_k", "min_p", "repetition_penalty", "min_new_tokens"}
)
"""What vLLM and SGLang take beyond OpenAI's own fields."""
NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
"""OpenAI's names, where they differ from ours."""

OWN_FORM = {
    "prompt",
    "prompt_ids",
    "messages",
    "suffix",
    "json_schema",
    "logprobs",
    "max_new_tokens",
    "temperature",
    "logit_bias",
    "tools",
}
"""Controls that a request's body has in a form of their own."""

DIALECTS = {"openai": ABILITIES, "vllm": EXTENDED}


def installed() -> str | None:
    return None if find_spec("httpx") else "pip install httpx"


def reads(weights: Weights) -> bool:
    return weights.format == "url"


def open_engine(
    weights: Weights,
    *,
    streams: int = 1,
    model: str = "",
    api_key: str = "",
    api_key_from: str = "OPENAI_API_KEY",
    dialect: str = "openai",
    context_length: int = 1_000_000,
    timeout: float = 600.0,
) -> RemoteEngine:
    """Open a server.

    Args:
        weights: Its URL.
        streams: Without effect: the server decides.
        model: The model's name there; asked for when the server offers only one.
        api_key: The key itself.
        api_key_from: The environment variable that holds the key.
        dialect: openai, or vllm for vLLM and SGLang.
        context_length: Tokens of prompt and answer together.
        timeout: Seconds without a byte from the server.
    """
    if dialect not in DIALECTS:
        raise BadInput(
            say(
                f"There is no dialect {dialect!r}.",
                f"没有名为 {dialect!r} 的 dialect。",
            ),
            ", ".join(DIALECTS),
        )
    return RemoteEngine(
        weights.location,
        model,
        api_key or os.environ.get(api_key_from, ""),
        DIALECTS[dialect],
        context_length,
        timeout,
    )


class RemoteEngine:
    """A model of a server. Args as those of `open_engine`."""

    takes = TextRequest
    chats = True

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str,
        abilities: Abilities,
        context_length: int,
        timeout: float,
    ) -> None:
        self.url = url
        self.abilities = abilities
        self.context_length = context_length
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self.model = model or self._only_model()

    def _only_model(self) -> str:
        """The server's model, when it has one only. Raises BadInput naming them all otherwise."""
        import httpx

        try:
            response = httpx.get(
                f"{self.url}/models", headers=self._headers, timeout=30
            )
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from None
        if response.status_code != 200:
            raise _refused(response.status_code, response.text)
        try:
            names = [item["id"] for item in response.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise _unreachable(self.url, error) from None
        if len(names) != 1:
            raise BadInput(
                say(
                    f"{self.url} offers {len(names)} models.",
                    f"{self.url} 提供 {len(names)} 个模型。",
                ),
                say("Say which with model=. ", "请用 model= 指定。")
                + nearest("", names),
            )
        return str(names[0])

    def _body(self, request: TextRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": request.max_new_tokens,
        }
        for name, value in request.changed().items():
            if name in self.abilities.controls - OWN_FORM:
                plain = list(value) if isinstance(value, tuple) else value
                body[NAMES.get(name, name)] = plain
        body["temperature"] = request.temperature
        if request.logit_bias:
            bias = request.logit_bias.items()
            body["logit_bias"] = {str(token): value for token, value in bias}
        if request.json_schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": "answer",
                    "schema": request.json_schema,
                    "strict": True,
                },
            }
        if request.messages is None:
            ids = request.prompt_ids
            body["prompt"] = request.prompt if ids is None else list(ids)
            if request.suffix is not None:
                body["suffix"] = request.suffix
            if request.logprobs is not None:
                body["logprobs"] = request.logprobs
        else:
            body["messages"] = [dict(message) for message in request.messages]
            if request.logprobs is not None:
                body["logprobs"] = True
                body["top_logprobs"] = request.logprobs
        return body

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = accepted(request, TextRequest, self.abilities, "remote")
        unfinished = set(range(request.n))
        tokens = 0
        # Held back until the server has said how many tokens there were.
        last: list[Chunk] = []
        usage: Mapping[str, int] = {}
        async with aclosing(self._events(request)) as events:
            async for event in events:
                usage = event.get("usage") or usage
                for choice in event.get("choices") or ():
                    chunk = _chunk(choice)
                    tokens += chunk.tokens
                    if chunk.finish:
                        unfinished.discard(chunk.index)
                    if unfinished:
                        yield chunk
                    else:
                        last.append(chunk)
        if unfinished:
            raise MiaobiError(
                say(
                    f"{self.url} closed the connection before the answer ended.",
                    f"{self.url} 在回答结束前断开了连接。",
                ),
                say(
                    "Try again; look at that server's log.",
                    "请重试，并查看该服务器的日志。",
                ),
            )
        uncounted = max(0, usage.get("completion_tokens", 0) - tokens)
        first, *others = last
        yield replace(
            first,
            tokens=first.tokens + uncounted,
            prompt_tokens=usage.get("prompt_tokens", 0),
        )
        for chunk in others:
            yield chunk

    async def _events(
        self, request: TextRequest
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What the server sends. Raises for what it refuses, and where it is not there."""
        import httpx

        path = "/completions" if request.messages is None else "/chat/completions"
        try:
            # A client for each request: leaving the block closes its connection, which
            # is how the server learns of a cancel.
            async with (
                httpx.AsyncClient(
                    headers=self._headers, timeout=self._timeout, trust_env=False
                ) as client,
                client.stream(
                    "POST", self.url + path, json=self._body(request)
                ) as response,
            ):
                if response.status_code != 200:
                    content = await response.aread()
                    text = content.decode(errors="replace")
                    raise _refused(response.status_code, text)
                async for event in _server_sent_events(response):
                    yield event
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from None

    def close(self) -> None:
        """Nothing is held open between requests."""


async def _server_sent_events(response: Any) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each event, until [DONE]."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            code = str(event["error"].get("code", ""))
            raise _refused(int(code) if code.isdigit() else 500, data)
        yield event


def _chunk(choice: Mapping[str, Any]) -> Chunk:
    text = choice.get("text")
    if text is None:
        text = (choice.get("delta") or {}).get("content")
    reason = choice.get("finish_reason")
    finish: FinishReason | None = None
    if reason is not None:
        finish = "length" if reason == "length" else "stop"
    return Chunk(
        choice.get("index", 0),
        text or "",
        _logprobs(choice.get("logprobs")),
        1 if text else 0,
        finish,
    )


def _logprobs(value: Any) -> tuple[TokenLogprob, ...]:
    """Both of OpenAI's shapes: {"content": [...]} of chats, and the parallel lists of
    completions.
    """
    if not value:
        return ()
    if value.get("content") is not None:
        return tuple(_token_logprob(entry) for entry in value["content"])
    tokens = value.get("tokens") or ()
    log_probs = value.get("token_logprobs") or ()
    tops = value.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(
            token,
            log_prob,
            tuple(TokenLogprob(*other) for other in (top or {}).items()),
        )
        for token, log_prob, top in zip(tokens, log_probs, tops, strict=False)
    )


def _token_logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    top = entry.get("top_logprobs") or ()
    top_logprobs = tuple(_token_logprob(other) for other in top)
    part = entry.get("bytes")
    if part is None:
        return TokenLogprob(entry["token"], entry["logprob"], top_logprobs)
    return TokenLogprob.of(bytes(part), entry["logprob"], top_logprobs)


def _unreachable(url: str, error: Exception) -> NotFound:
    return NotFound(
        say(
            f"No answer from {url}: {type(error).__name__} {error}.",
            f"{url} 没有响应：{type(error).__name__} {error}。",
        ),
        say(
            "Check that the server runs and that the URL ends where its /completions begins (often /v1).",
            "请检查服务器是否在运行，以及 URL 是否止于 /completions 之前（通常为 /v1）。",
        ),
    )


def _refused(status: int, text: str) -> MiaobiError:
    """The server's own words, as an error of ours."""
    if status in (401, 403):
        return BadInput(
            say(
                f"The server refuses the key ({status}).",
                f"服务器拒绝了密钥（{status}）。",
            ),
            say(
                "Put a valid one in OPENAI_API_KEY, or name its variable with api_key_from=.",
                "请在 OPENAI_API_KEY 中设置有效密钥，或用 api_key_from= 指定变量名。",
            ),
        )
    message = _message(text)
    kind = BadInput if 400 <= status < 500 else MiaobiError
    return kind(
        say(
            f"The server answered {status}: {message}",
            f"服务器返回 {status}：{message}",
        ),
        say(
            "Change what it names, or look at that server's log.",
            "请按提示修改，或查看该服务器的日志。",
        ),
    )


def _message(text: str) -> str:
    """The message in OpenAI's shape of errors, or the beginning of any other text."""
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return text[:300]
    if isinstance(error, Mapping):
        return str(error.get("message", error))
    return str(error)
