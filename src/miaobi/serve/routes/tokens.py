"""/tokenize and /detokenize: a model's own tokens, in vLLM's shapes, and /tokenizer_info."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter

from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest, Request, TextRequest
from miaobi.engines.model import Model
from miaobi.models.weights import context_length_of
from miaobi.serve.callers import Caller, CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Services, Serving
from miaobi.serve.text.fields import (
    GenerationFields,
    Ids,
    Message,
    Name,
    Tool,
    plain,
)

router = APIRouter(tags=["text"])


class Tokenize(GenerationFields):
    """A text, or a conversation as the model's chat template writes it."""

    model: Name | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    """Whether a text gets the tokenizer's own first token, where it has one; true
    unless given.
    """
    return_token_strs: bool | None = None


class Detokenize(GenerationFields):
    """Token ids."""

    model: Name | None = None
    tokens: Ids


@router.post("/tokenize")
async def tokenize(
    fields: Tokenize, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """The token ids of a prompt."""
    async with _opened(fields.model, services, caller) as model:
        request = _request(fields, model)
        special = fields.add_special_tokens is not False
        tokenizer = model.tokenizer
        ids = await asyncio.to_thread(tokenizer.tokenize, request, special)
        texts = None
        if fields.return_token_strs:
            texts = [tokenizer.detokenize([token]) for token in ids]
        return {
            "count": len(ids),
            "max_model_len": context_length_of(model.weights),
            "tokens": ids,
            "token_strs": texts,
        }


def _kind(name: str, services: Services) -> type[Request]:
    """Return what the model is asked with: a text to write on, or one to embed."""
    is_encoder = services.pool.find(name).modality == EmbeddingRequest.makes
    return EmbeddingRequest if is_encoder else TextRequest


def _request(fields: Tokenize, model: Model) -> Request:
    """Return the request whose prompt is asked about. Raises BadInput."""
    if fields.messages is None and model.engine.takes is EmbeddingRequest:
        return EmbeddingRequest(texts=(fields.prompt or "",))
    if fields.messages is None:
        return TextRequest(prompt=fields.prompt)
    return TextRequest(
        prompt=fields.prompt,
        messages=tuple(plain(message) for message in fields.messages),
        tools=tuple(
            tool.model_dump(exclude_none=True, by_alias=True)
            for tool in fields.tools or ()
        ),
    )


@router.post("/detokenize")
async def detokenize(
    fields: Detokenize, services: Serving, caller: CurrentCaller
) -> dict[str, str]:
    """The text of token ids, control tokens as they are written."""
    async with _opened(fields.model, services, caller) as model:
        text = await asyncio.to_thread(model.tokenizer.detokenize, fields.tokens)
        return {"prompt": text}


@router.get("/tokenizer_info")
async def tokenizer_info(
    services: Serving, caller: CurrentCaller, model: Name | None = None
) -> dict[str, str | None]:
    """The tokens that begin and end a text."""
    async with _opened(model, services, caller) as opened:
        tokenizer = opened.tokenizer
        return {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}


@asynccontextmanager
async def _opened(
    requested: str | None, services: Services, caller: Caller
) -> AsyncIterator[Model]:
    """Yield the model that a request is about, in a slot of the caller's."""
    name = _model(requested, services)
    async with (
        services.admission.slot(caller, name),
        services.pool.lease(name, _kind(name, services)) as model,
    ):
        yield model


def _model(name: str | None, services: Services) -> str:
    """Return the named model, or the only one that is served."""
    names = services.pool.names()
    if name is not None:
        return name
    if len(names) == 1:
        return names[0]
    raise ApiError(
        400,
        say(
            f"This server has {len(names)} models; say which.",
            f"此服务器有 {len(names)} 个模型，请指定其中一个。",
        ),
        param="model",
    )
