"""/v1/audio/speech: texts read aloud, in OpenAI's shapes; /v1/audio/voices: by whom."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from miaobi.core.engine import Weights
from miaobi.core.errors import MiaobiError
from miaobi.data.audio.media import media_type
from miaobi.engines import voices
from miaobi.provenance.publish import encode
from miaobi.serve.audio.fields import Speech
from miaobi.serve.audio.speaking import (
    AsEvents,
    AsFile,
    Speaking,
    SpeechStream,
    named_as_sent,
    whole,
)
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.services import Serving

router = APIRouter(prefix="/v1/audio", tags=["sound"])
SENT_WHOLE = (".wav", ".flac")
"""Formats whose beginning says how long they are: sent when all is there, unless
stream_format asks otherwise.
"""
SOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The sound, or its events.",
        "content": {
            "audio/mpeg": {},
            "audio/ogg": {},
            "audio/aac": {},
            "audio/flac": {},
            "audio/wav": {},
            "audio/pcm": {},
            "text/event-stream": {},
        },
    }
}


@router.post("/speech", response_class=Response, responses=SOUND)
async def speech(
    fields: Speech, request: Request, services: Serving, caller: CurrentCaller
) -> Response:
    """A text read aloud. It is sent while it is made; what is wrong with the request is
    said before the first byte.
    """
    fields.check(services.settings.limits)
    request_id = getattr(request.state, "request_id", "")
    speaking = Speaking(services, caller, fields, request_id)
    if fields.stream_format == "sse":
        return SpeechStream(speaking, AsEvents(fields.ending))
    if fields.stream_format == "audio" or fields.ending not in SENT_WHOLE:
        return SpeechStream(speaking, AsFile(fields.ending))
    try:
        sound = await whole(speaking)
    except MiaobiError as error:
        raise named_as_sent(error) from None
    content = await asyncio.to_thread(encode, [sound], fields.ending)
    return Response(content, media_type=media_type(fields.ending))


def _voices_of(weights: Weights) -> list[str]:
    return voices.names(weights) if voices.reads(weights) else []


@router.get("/voices")
async def list_voices(services: Serving, model: str | None = None) -> dict[str, Any]:
    """The voices of all models, or of one. `voices` holds the same for Open WebUI."""
    names = [model] if model else services.pool.names()
    data = [
        {"id": voice, "object": "voice", "name": voice, "model": name}
        for name in names
        for voice in _voices_of(services.pool.find(name))
    ]
    return {"object": "list", "data": data, "voices": data}
