"""What a room of the studio is, and what it is given.

A room is a module in this folder, named in the registry. It offers

    TITLE = ("Chat", "对话")            English and Chinese
    ORDER = 10                          where its tab stands; the first room is the one that opens
    def build(desk: Desk) -> None       fills its tab with Gradio components

Everything a room does goes through the server's own HTTP API, with the visitor's key: a
room can do nothing that a program with the same key could not, and every limit holds
here too.
"""

from __future__ import annotations

import html
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gradio as gr
import httpx
from starlette.types import ASGIApp

from miaobi.serve.sessions import COOKIE, Sessions
from miaobi.serve.settings import Settings
from miaobi.studio.inside import Inside

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""For events that need no sign that they are under way. None of the page's events can
be called by programs: those have the API.
"""


class Room(Protocol):
    TITLE: tuple[str, str]
    ORDER: int

    def build(self, desk: Desk) -> None: ...


@dataclass(frozen=True)
class Desk:
    """What a room works with: the API in the visitor's name, the page's language, and
    its own tab.
    """

    app: ASGIApp
    settings: Settings
    sessions: Sessions
    language: str
    """"en" or "zh": the page's, which need not be the server's."""
    tab: gr.Tab
    page: gr.Blocks
    closed: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    """Pages that were closed lately: an answer that begins only now has no reader."""
    streams: dict[str, set[httpx.Response]] = field(default_factory=dict)
    """The answers that are being written now, by the page they are for."""

    def say(self, english: str, chinese: str) -> str:
        return chinese if self.language == "zh" else english

    def error(self, english: str, chinese: str) -> Refusal:
        """For what the visitor can put right."""
        return Refusal(
            html.escape(self.say(english, chinese)), self.say("Not yet", "还不行"), None
        )

    def number(
        self, given: str | None, kind: type[int] | type[float] = int
    ) -> int | float | None:
        """An optional number as it was typed; None for nothing."""
        typed = (given or "").strip()
        try:
            return kind(typed) if typed else None
        except ValueError:
            raise self.error(
                f"{typed!r} is not a number. Write one, or leave the field empty.",
                f"{typed!r} 不是数字。请填写数字或留空。",
            ) from None

    def on_entry(
        self,
        handler: Callable[..., Any],
        outputs: Sequence[Any],
        inputs: Sequence[Any] = (),
    ) -> None:
        """Call `handler` when the page opens and whenever a visitor comes into the room."""
        gr.on(
            [self.page.load, self.tab.select],
            handler,
            list(inputs),
            list(outputs),
            **QUIET,
        )

    def client(self, visitor: gr.Request) -> httpx.AsyncClient:
        """A client of this server that asks in the visitor's name."""
        key = self.sessions.key(visitor.cookies.get(COOKIE, ""))
        given = f"Bearer {key}" if key else visitor.headers.get("authorization", "")
        return httpx.AsyncClient(
            transport=Inside(self.app),
            base_url="http://127.0.0.1",
            timeout=None,
            headers={"authorization": given} if given else {},
        )

    async def call(
        self, visitor: gr.Request, method: str, path: str, **given: Any
    ) -> Any:
        """The answer's JSON. What the API refuses is shown to the visitor in its words
        (gr.Error).
        """
        return json.loads(await self.content(visitor, path, method, **given))

    async def content(
        self, visitor: gr.Request, path: str, method: str = "GET", **given: Any
    ) -> bytes:
        """The answer as it is."""
        async with self.client(visitor) as api:
            answer = await api.request(method, path, **given)
        if answer.is_error:
            raise self.refusal(answer.content)
        return answer.content

    async def events(
        self, visitor: gr.Request, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any]]:
        """The server-sent events of a streamed answer, each one's JSON. Leaving early
        stops the work.
        """
        async with (
            self.client(visitor) as api,
            api.stream("POST", path, json={**body, "stream": True}) as answer,
        ):
            if answer.is_error:
                raise self.refusal(await answer.aread())
            streams = self.streams.setdefault(str(visitor.session_hash), set())
            streams.add(answer)
            try:
                if str(visitor.session_hash) in self.closed:
                    return
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise self.refusal(line[6:].encode())
                        yield event
            finally:
                streams.discard(answer)
                if not streams:
                    self.streams.pop(str(visitor.session_hash), None)

    async def stop(self, visitor: gr.Request) -> None:
        """End the answers that are being written on this visitor's page, as far as they
        are. Gradio's own way to cancel an event misses one whose number the browser has
        not heard of yet.
        """
        for answer in list(self.streams.get(str(visitor.session_hash), ())):
            await answer.aclose()

    async def leave(self, visitor: gr.Request) -> None:
        """The visitor's page was closed."""
        self.closed.append(str(visitor.session_hash))
        await self.stop(visitor)

    async def models(self, visitor: gr.Request, modality: str) -> list[str]:
        """Names of the served models that make this."""
        listed = (await self.call(visitor, "GET", "/v1/models"))["data"]
        return [
            item["id"] for item in listed if item.get("modality", modality) == modality
        ]

    def refusal(self, content: bytes) -> Refusal:
        """The API's own words, for the visitor, who gets them as text and not as HTML.
        Not printed to the log: it was the visitor's request that could not be met.
        """
        try:
            told = json.loads(content)["error"]
            message, code = str(told["message"]), told.get("code")
        except (ValueError, KeyError, TypeError):
            message, code = content.decode("utf-8", "replace")[:500], None
        return Refusal(
            html.escape(message), self.say("That did not work", "未能完成"), code
        )


def still_there(chosen: str | None, offered: Iterable[str]) -> str | None:
    """What was chosen, where it is still offered; else the first."""
    names = list(offered)
    return chosen if chosen in names else next(iter(names), None)


def room_asked(names: Collection[str]) -> Callable[[gr.Request], Any]:
    """Return what opens the room that the address names, where it names one of these."""

    def open_room(visitor: gr.Request) -> Any:
        name = visitor.query_params.get("room", "")
        return gr.Tabs(selected=name) if name in names else gr.skip()

    return open_room


class Refusal(gr.Error):
    """What the API would not do, with its code. Raised out of an event it covers what
    the event would have changed; where that must stay in sight, `tell` it and go on.
    """

    def __init__(self, message: str, title: str, code: str | None) -> None:
        super().__init__(message, duration=10, print_exception=False, title=title)
        self.code = code

    def tell(self) -> None:
        gr.Warning(self.message, duration=10, title=self.title)
