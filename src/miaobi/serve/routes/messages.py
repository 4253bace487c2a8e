"""/v1/messages: a conversation to answer, in Anthropic's shapes, whole or as it comes.

A second dialect over the path of /v1/chat/completions. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from miaobi.core.engine import Chunk
from miaobi.core.requests import TextRequest
from miaobi.engines.model import Model
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import answer_of
from miaobi.serve.messages.blocks import chat_of
from miaobi.serve.messages.fields import MessageFields
from miaobi.serve.messages.output import MessageEvents, Output, message_of, refused
from miaobi.serve.services import Serving
from miaobi.serve.text.conversation import controls_of, request_of
from miaobi.serve.text.events import streamed
from miaobi.serve.text.exchange import Exchange
from miaobi.serve.text.fields import within
from miaobi.serve.text.pieces import Pieces
from miaobi.serve.text.tools import kit_of


class InAnthropicsShape(APIRoute):
    """A route whose errors are in Anthropic's shape."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def handle_in_shape(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                raise refused(answer_of(request, error)) from None

        return handle_in_shape


router = APIRouter(prefix="/v1/messages", tags=["text"], route_class=InAnthropicsShape)


@router.post(
    "",
    response_model=None,
    responses=streamed("The answer, or its pieces with stream: true."),
)
async def create(
    fields: MessageFields, services: Serving, caller: CurrentCaller
) -> Response:
    """Answer a conversation, in Anthropic's shapes."""
    limits = services.settings.limits
    chat = chat_of(fields)
    kit = kit_of(chat, limits)
    controls = controls_of(chat, limits)

    def ask(model: Model) -> Sequence[TextRequest]:
        return [request_of(model, chat, kit, controls, limits)]

    exchange = Exchange(services, caller, fields.model, ask, "msg")
    stops = fields.stop_sequences or []
    within("stop_sequences", len(stops), limits.stop)
    output = Output(exchange, Pieces(kit, fields.only_one), stops)
    if fields.stream:
        return MessageEvents(output)

    def put(chunk: Chunk) -> None:
        output.push(chunk)

    await exchange.run(put)
    return JSONResponse(message_of(output))
