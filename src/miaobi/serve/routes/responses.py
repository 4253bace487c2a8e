"""/v1/responses: a conversation to go on with, in OpenAI's shapes, whole or as it comes;
kept by choice, so that the next request names the last and says only what is new.

The answer takes the way of /v1/chat/completions. Turns are kept in the one table of
conversations (serve/conversations.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from miaobi.core.engine import Chunk
from miaobi.core.errors import NotFound
from miaobi.core.language import say
from miaobi.core.requests import TextRequest
from miaobi.engines.model import Model
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.pages import page
from miaobi.serve.records import Turn
from miaobi.serve.responses.events import ResponseEvents
from miaobi.serve.responses.fields import ResponseFields
from miaobi.serve.responses.items import (
    CLIENT_NAMES,
    chat_of,
    history_of,
    items_before,
    items_of,
)
from miaobi.serve.responses.output import Answer, Output
from miaobi.serve.services import Serving
from miaobi.serve.text.conversation import controls_of, request_of
from miaobi.serve.text.dialect import named
from miaobi.serve.text.events import streamed
from miaobi.serve.text.exchange import Exchange
from miaobi.serve.text.pieces import Pieces
from miaobi.serve.text.tools import kit_of

router = APIRouter(prefix="/v1/responses", tags=["text"])
BATCH = ("/v1/responses",)
PAGE = 100


@router.post(
    "",
    response_model=None,
    responses=streamed("The answer, or its pieces with stream: true."),
)
async def create(
    fields: ResponseFields, services: Serving, caller: CurrentCaller
) -> Response:
    """Go on with a conversation."""
    limits = services.settings.limits
    conversations = services.conversations
    if fields.store:
        conversations.demand_storing()
    try:
        history = await asyncio.to_thread(
            history_of, conversations, caller.key_id, fields
        )
    except NotFound:
        raise _no_previous(fields.previous_response_id or "") from None
    items = items_of(fields)
    with named(CLIENT_NAMES):
        chat = chat_of(fields, [*items_before(history), *items])
        kit = kit_of(chat, limits)
        controls = controls_of(chat, limits)

    def ask(model: Model) -> Sequence[TextRequest]:
        return [request_of(model, chat, kit, controls, limits)]

    exchange = Exchange(services, caller, fields.model, ask, "resp")
    pieces = Pieces(kit, fields.parallel_tool_calls is False)
    output = Output(pieces, fields)
    stored = conversations.kept and fields.store is not False
    answer = Answer(fields, exchange, output, stored)

    def keep() -> None:
        details = answer.body()
        conversations.add(
            caller.key_id,
            items,
            details.pop("output"),
            parent_id=details.pop("previous_response_id"),
            id=answer.id,
            model=fields.model,
            details=details,
        )

    async def keep_if_wanted() -> None:
        if stored:
            await asyncio.to_thread(keep)

    if fields.stream:
        return ResponseEvents(answer, keep_if_wanted)

    def put(chunk: Chunk) -> None:
        output.push(chunk)

    with named(CLIENT_NAMES):
        await exchange.run(put)
    await keep_if_wanted()
    return JSONResponse(answer.body())


@router.get("/{response_id}")
def retrieve(
    response_id: str, services: Serving, caller: CurrentCaller, stream: bool = False
) -> dict[str, Any]:
    """A response that was kept."""
    if stream:
        raise ApiError(
            400,
            say(
                "A response that was kept is answered whole: leave stream out.",
                "已保存的回答只能整体返回：请去掉 stream。",
            ),
            param="stream",
        )
    turn = _find(services, caller.key_id, response_id)
    return {
        **turn.details,
        "previous_response_id": turn.parent_id,
        "output": turn.output,
    }


@router.delete("/{response_id}")
def delete(
    response_id: str, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Delete a response; those that went on with it go on with the one before it."""
    _find(services, caller.key_id, response_id)
    services.conversations.delete_turn(caller.key_id, response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.get("/{response_id}/input_items")
def input_items(
    response_id: str,
    services: Serving,
    caller: CurrentCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """All that the model was given: what was said and answered before, and what this
    request said. Newest first.
    """
    turn = _find(services, caller.key_id, response_id)
    *before, _ = services.conversations.path(caller.key_id, turn.id)
    items = [*items_before(before), *turn.input]
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise ApiError(
            400,
            say(f"There is no item {after[:64]!r}.", f"没有条目 {after[:64]!r}。"),
            param="after",
        )
    begin = ids.index(after) + 1 if after is not None else 0
    return page(items[begin:], limit)


@router.post("/{response_id}/cancel")
def cancel(
    response_id: str, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Refused: no response is made in the background."""
    _find(services, caller.key_id, response_id)
    raise ApiError(
        400,
        say(
            "This response has ended; none is made in the background here.",
            "该回答已结束；此服务器不在后台生成回答。",
        ),
        code="not_in_background",
    )


def _find(services: Serving, key_id: str, id: str) -> Turn:
    """The turn of a response. Raise ApiError 404, for other parts' turns too."""
    try:
        turn = services.conversations.turn(key_id, id)
    except NotFound:
        turn = None
    if turn is None or turn.details.get("object") != "response":
        raise ApiError(
            404,
            say(
                f"There is no response {id[:64]!r}: it was not stored, or was deleted, or has expired.",
                f"没有回答 {id[:64]!r}：未保存、已删除或已过期。",
            ),
            code="response_not_found",
            param="response_id",
        )
    return turn


def _no_previous(id: str) -> ApiError:
    return ApiError(
        400,
        say(
            f"There is no response {id[:64]!r} to go on with: it was not stored "
            "(store: false), or was deleted, or has expired. Send the conversation as input.",
            f"没有可继续的回答 {id[:64]!r}：未保存（store: false）、已删除或已过期。请在 input 中发送完整对话。",
        ),
        code="previous_response_not_found",
        param="previous_response_id",
    )
