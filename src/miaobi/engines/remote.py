"""Any server that speaks OpenAI's completions: vLLM, SGLang, llama.cpp's server,
miaobi's own, or a paid service.

    miaobi.load("http://127.0.0.1:8000/v1", model="qwen3", api_key_from="MY_KEY")

The key is read from an environment variable and sent nowhere but to that server; no
message or log holds it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from miaobi.core.artifacts import FinishReason, TokenLogprob
from miaobi.core.engine import Abilities, Chunk, Weights, accepted
from miaobi.core.errors import BadInput, MiaobiError, NotFound, nearest
from miaobi.core.language import say
from miaobi.core.requests import Request, TextRequest

FORMATS = ("url",)
ABILITIES = Abilities(
    frozenset(
        {
            "n",
            "seed",
            "prompt",
            "messages",
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


def installed() -> str | None:
    from importlib.util import find_spec

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
    """`model`: its name there; asked for when the server offers only one. `dialect`:
    openai, or vllm for vLLM and SGLang.
    `api_key_from`: the environment variable that holds the key."""
    if dialect not in ("openai", "vllm"):
        raise BadInput(
            say(
                f"There is no dialect {dialect!r}.",
                f"没有名为 {dialect!r} 的 dialect。",
            ),
            "openai, vllm",
        )
    return RemoteEngine(
        weights.location,
        model,
        api_key or os.environ.get(api_key_from, ""),
        EXTENDED if dialect == "vllm" else ABILITIES,
        context_length,
        timeout,
    )


class RemoteEngine:
    modality, chats = "text", True

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str,
        abilities: Abilities,
        context_length: int,
        timeout: float,
    ) -> None:
        self.url, self.abilities, self.context_length = url, abilities, context_length
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self.model = model or self._only_model()

    def _only_model(self) -> str:
        """The server's model, when it has one only. Raises BadInput naming them all otherwise."""
        import httpx

        try:
            answer = httpx.get(f"{self.url}/models", headers=self._headers, timeout=30)
            names = (
                [item["id"] for item in answer.json()["data"]]
                if answer.status_code == 200
                else []
            )
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise _unreachable(self.url, error) from None
        if answer.status_code != 200:
            raise _refused(answer.status_code, answer.text)
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
        for name in self.abilities.controls - {
            "prompt",
            "messages",
            "json_schema",
            "logprobs",
            "max_new_tokens",
            "tools",
        }:
            value = getattr(request, name)
            if value != type(request).__dataclass_fields__[
                name
            ].default and value not in ((), {}, None):
                body[NAMES.get(name, name)] = (
                    list(value) if isinstance(value, tuple) else value
                )
        body["temperature"] = request.temperature
        if request.logit_bias:
            body["logit_bias"] = {
                str(token): value for token, value in request.logit_bias.items()
            }
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
            return (
                body
                | {"prompt": request.prompt}
                | ({} if request.logprobs is None else {"logprobs": request.logprobs})
            )
        ask = (
            {}
            if request.logprobs is None
            else {"logprobs": True, "top_logprobs": request.logprobs}
        )
        return (
            body | {"messages": [dict(message) for message in request.messages]} | ask
        )

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        import httpx

        request = accepted(request, TextRequest, self.abilities, "remote")
        path = "/completions" if request.messages is None else "/chat/completions"
        left, made, last = set(range(request.n)), 0, list[Chunk]()
        usage: Mapping[str, int] = {}
        try:
            # A client for each request: leaving the block closes its connection, which
            # is how the server learns of a cancel.
            async with (
                httpx.AsyncClient(
                    headers=self._headers, timeout=self._timeout, trust_env=False
                ) as client,
                client.stream(
                    "POST", self.url + path, json=self._body(request)
                ) as answer,
            ):
                if answer.status_code != 200:
                    raise _refused(
                        answer.status_code,
                        (await answer.aread()).decode(errors="replace"),
                    )
                async for event in _events(answer):
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or ():
                        chunk = _chunk(choice)
                        made, left = (
                            made + chunk.tokens,
                            left - ({chunk.index} if chunk.finish else set()),
                        )
                        if left:
                            yield chunk
                        else:  # kept back until the server has told how many tokens there were
                            last.append(chunk)
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from None
        if left:
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
        more = max(0, usage.get("completion_tokens", 0) - made)
        for place, chunk in enumerate(last):
            yield (
                replace(
                    chunk,
                    tokens=chunk.tokens + more,
                    prompt_tokens=usage.get("prompt_tokens", 0),
                )
                if place == 0
                else chunk
            )

    def close(self) -> None:
        """Nothing is held open between requests."""


async def _events(answer: Any) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event, until [DONE]."""
    async for line in answer.aiter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise _refused(
                int(event["error"].get("code") or 500)
                if str(event["error"].get("code", "")).isdigit()
                else 500,
                data,
            )
        yield event


def _chunk(choice: Mapping[str, Any]) -> Chunk:
    text = (
        choice.get("text")
        if "text" in choice
        else (choice.get("delta") or {}).get("content")
    )
    reason = choice.get("finish_reason")
    finish: FinishReason | None = (
        None if reason is None else "length" if reason == "length" else "stop"
    )
    return Chunk(
        choice.get("index", 0),
        text or "",
        _logprobs(choice.get("logprobs")),
        1 if text else 0,
        finish,
    )


def _logprobs(found: Any) -> tuple[TokenLogprob, ...]:
    """Both of OpenAI's shapes: {"content": [...]} of chats, and the parallel lists of
    completions.
    """
    if not found:
        return ()
    if found.get("content") is not None:
        return tuple(
            TokenLogprob(
                item["token"],
                item["logprob"],
                tuple(
                    (other["token"], other["logprob"])
                    for other in item.get("top_logprobs") or ()
                ),
            )
            for item in found["content"]
        )
    tokens, values = found.get("tokens") or (), found.get("token_logprobs") or ()
    rivals = found.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(token, value, tuple((top or {}).items()))
        for token, value, top in zip(tokens, values, rivals, strict=False)
    )


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
    try:
        error = json.loads(text)["error"]
        message = (
            str(error.get("message", error))
            if isinstance(error, Mapping)
            else str(error)
        )
    except (ValueError, KeyError, TypeError):
        message = text[:300]
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
