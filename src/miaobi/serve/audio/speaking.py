"""A text on its way to a voice and back, sent while it is made.

A response begins with the first sentence, so that what is wrong with a request is
answered as any other error; a client that leaves ends the work.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from miaobi.core.artifacts import Audio
from miaobi.core.engine import Chunk
from miaobi.core.errors import MiaobiError
from miaobi.core.requests import SpeechRequest
from miaobi.data.audio.media import Encoder, Resampler, media_type
from miaobi.provenance.audio import tags
from miaobi.provenance.label import label, record
from miaobi.serve.audio.fields import PCM_RATE, Speech
from miaobi.serve.callers import Caller
from miaobi.serve.errors import ApiError, from_exception
from miaobi.serve.services import Services
from miaobi.serve.text.events import HEADERS, dumped, handfuls

UNIT = "speech_seconds"
"""Of usage: seconds of sound that were made."""


@dataclass
class Speaking:
    """One request, from its slot in the queue to its last sentence.

    Attributes:
        fields: what was asked for.
        request_id: for the facts.
        seconds: of sound, so far.
    """

    services: Services
    caller: Caller
    fields: Speech
    request_id: str
    seconds: float = 0.0

    async def run(self, put: Callable[[Chunk], None]) -> None:
        """Make the sound, a piece for each sentence, with the facts of the whole.

        Raises ApiError and MiaobiError.
        """
        fields = self.fields
        async with (
            self.services.admission.slot(self.caller, fields.model) as slot,
            self.services.pool.lease(fields.model, SpeechRequest) as model,
        ):
            request = model.request(
                fields.input,
                voice=fields.mixture,
                speed=1.0 if fields.speed is None else fields.speed,
            )
            facts = model.facts(request)
            facts = replace(facts, request_id=self.request_id or facts.request_id)
            chunks = cast(Any, model.engine.generate(request))
            async with aclosing(chunks):
                async for chunk in chunks:
                    piece = cast(Audio, chunk.piece)
                    own = {**facts.parameters, **piece.facts.parameters}
                    piece = replace(piece, facts=replace(facts, parameters=own))
                    slot.add(UNIT, piece.seconds)
                    self.seconds += piece.seconds
                    put(replace(chunk, piece=piece))


async def whole(speaking: Speaking) -> Audio:
    """Return the whole sound."""
    pieces = list[Audio]()
    await speaking.run(lambda chunk: pieces.append(cast(Audio, chunk.piece)))
    return Audio.join(pieces)


def named_as_sent(error: MiaobiError) -> MiaobiError:
    """Return an error about a request's text under the name that clients know."""
    if error.field == "prompt":
        error.field = "input"
    return error


class Encoding:
    """The bytes of the file that is asked for, piece by piece."""

    def __init__(self, ending: str) -> None:
        self._ending = ending
        self._encoder: Encoder | None = None
        self._resampler: Resampler | None = None

    def add(self, sound: Audio) -> bytes:
        """Return the bytes that a piece adds; the first piece says what the file is."""
        if self._ending == ".pcm":
            return self._pcm(sound)
        if self._encoder is None:
            self._encoder = Encoder(sound.rate, self._ending, tags=tags(record(sound)))
        return self._encoder.add(sound.samples)

    def finish(self) -> bytes:
        """Return the rest of the file."""
        if self._resampler is not None:
            return _as_pcm(self._resampler.finish())
        return b"" if self._encoder is None else self._encoder.finish()

    def _pcm(self, sound: Audio) -> bytes:
        """16 bits, little-endian, at the rate that clients expect."""
        if self._resampler is None:
            self._resampler = Resampler(sound.rate, PCM_RATE)
        return _as_pcm(self._resampler.add(np.atleast_2d(sound.samples)))


def _as_pcm(samples: np.ndarray) -> bytes:
    levels = np.rint(samples.clip(-1, 1) * 32767).astype("<i2")
    return bytes(levels.tobytes())


class Form(Protocol):
    """How a sound is sent."""

    headers: list[tuple[bytes, bytes]]

    def piece(self, sound: Audio) -> bytes: ...

    def end(self, seconds: float) -> bytes: ...

    def failed(self, error: ApiError) -> bytes | None:
        """Return what tells of an error on the way; None where nothing can."""
        ...


class AsFile:
    """The file itself."""

    def __init__(self, ending: str) -> None:
        self._encoding = Encoding(ending)
        self.headers = [(b"content-type", media_type(ending).encode())]

    def piece(self, sound: Audio) -> bytes:
        return self._encoding.add(sound)

    def end(self, seconds: float) -> bytes:
        return self._encoding.finish()

    def failed(self, error: ApiError) -> None:
        return None


class AsEvents:
    """OpenAI's events: the file in pieces of base64, then what was used."""

    def __init__(self, ending: str) -> None:
        self.headers = list(HEADERS)
        self._encoding = Encoding(ending)
        self._label: dict[str, Any] = {}

    def piece(self, sound: Audio) -> bytes:
        self._label = label(sound.facts)
        return self._delta(self._encoding.add(sound))

    def end(self, seconds: float) -> bytes:
        done = {
            "type": "speech.audio.done",
            "usage": {"type": "duration", "seconds": round(seconds, 3)},
            "miaobi": self._label,
        }
        return self._delta(self._encoding.finish()) + _event(done)

    def failed(self, error: ApiError) -> bytes:
        return _event({"type": "error", **error.body})

    def _delta(self, content: bytes) -> bytes:
        if not content:
            return b""
        audio = base64.b64encode(content).decode("ascii")
        return _event({"type": "speech.audio.delta", "audio": audio})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + dumped(value) + b"\n\n"


class SpeechStream(Response):
    """A sound that is sent while it is made."""

    def __init__(self, speaking: Speaking, form: Form) -> None:
        super().__init__()
        self._speaking = speaking
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        last: bytes | None
        async with aclosing(handfuls(self._speaking.run)) as coming:
            try:
                async for chunks in coming:
                    body = await asyncio.to_thread(self._bytes, chunks)
                    if not begun:
                        await send(_start(self._form.headers))
                        begun = True
                    await send(_body(body))
                seconds = self._speaking.seconds
                last = await asyncio.to_thread(self._form.end, seconds)
            except Exception as error:
                if isinstance(error, MiaobiError):
                    named_as_sent(error)
                if not begun:
                    raise
                request_id = scope.get("state", {}).get("request_id", "-")
                last = self._form.failed(from_exception(error, request_id))
                if last is None:
                    # A file that is cut off must not look whole.
                    raise
        await send({**_body(last), "more_body": False})

    def _bytes(self, chunks: list[Chunk]) -> bytes:
        return b"".join(self._form.piece(cast(Audio, chunk.piece)) for chunk in chunks)


def _start(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _body(content: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": True}
