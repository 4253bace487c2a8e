"""/studio: pages that the server renders, for people who prefer pages to commands.

    /studio/                  to the visitor's language (?language=, then a cookie, then
                              Accept-Language, then $MIAOBI_LANG)
    /studio/login             asks for a key where the server has keys (sign_in.py)
    /studio/en/jobs/...       the pages of the registry (pages/), one folder each
    /studio/en/rooms/         those that are still Gradio's (rooms/)
    /studio/static/HASH/...   stylesheet and scripts

Every answer carries a content policy: nothing comes from another server, and pages run
no script but the files of static/.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaobi.core.language import LANGUAGES, language, say, speaking
from miaobi.serve.errors import from_exception
from miaobi.studio import static
from miaobi.studio.page import PageRoute
from miaobi.studio.pages import pages
from miaobi.studio.rooms.mount import Rooms
from miaobi.studio.sign_in import SignIn
from miaobi.studio.templates import render
from miaobi.studio.visit import (
    LANGUAGE,
    MODEL,
    YEAR,
    Refused,
    Visit,
    language_of,
)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
SMALL = 1000
"""Bytes that are not worth compressing."""


class Studio:
    """The application behind /studio."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._rooms = {name: Rooms(app, name) for name in LANGUAGES}
        sign_in = SignIn(self._visit)
        pages_only = Router(
            routes=[
                Route("/", self._choose),
                Route("/login", sign_in.form),
                Route("/login", sign_in.submit, methods=["POST"]),
                Route("/static/{version}/{name}", static.serve),
                *self._routes(),
            ],
            redirect_slashes=False,
            default=self._absent,
        )
        self._pages = _with_headers(GZipMiddleware(pages_only, SMALL))
        self._inner = Router(
            routes=[
                *(
                    Mount(f"/{name}/rooms", rooms)
                    for name, rooms in self._rooms.items()
                ),
                Mount("/", self._pages),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        in_path = scope["path"].removeprefix("/studio/").partition("/")[0]
        chosen = in_path if in_path in LANGUAGES else language_of(Request(scope))
        with speaking(chosen):
            await self._inner(scope, receive, send)

    async def close(self) -> None:
        for rooms in self._rooms.values():
            await rooms.close()

    def _visit(self, request: Request, page: str) -> Visit:
        return Visit(self._app, request, language(), page, render)

    def _routes(self) -> Iterator[Route]:
        for chosen in LANGUAGES:
            for name in pages.names():
                for route in pages.get(name).ROUTES:
                    yield self._route(chosen, name, route)
            yield Route(f"/{chosen}/", self._first)
            yield Route(f"/{chosen}", self._first)

    def _route(self, chosen: str, name: str, route: PageRoute) -> Route:
        async def answer(request: Request) -> Response:
            visit = self._visit(request, name)
            response = await _answered(visit, route)
            _remember(visit, response)
            return response

        path = f"/{chosen}/{name}{route.path.rstrip('/')}"
        return Route(path, answer, methods=[route.method])

    async def _choose(self, request: Request) -> Response:
        """Go to the studio in the visitor's language."""
        answer = RedirectResponse(f"/studio/{language()}/", 303)
        if "language" in request.query_params:
            _set_cookie(request, answer, LANGUAGE, language())
        return answer

    async def _first(self, request: Request) -> Response:
        """Go to the chat, or to the welcome where nothing is served yet."""
        visit = self._visit(request, "")
        served = await visit.call("GET", "/v1/models")
        return visit.go("chat" if served["data"] else "welcome")

    async def _absent(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = self._visit(Request(scope, receive), "")
        message = say("The studio has no such page.", "工作台没有这个页面。")
        await visit.refusal(404, message)(scope, receive, send)


async def _answered(visit: Visit, route: PageRoute) -> Response:
    """Return the answer of a page, or why there is none."""
    try:
        if route.method not in ("GET", "HEAD"):
            await visit.form()
        return await route.handler(visit)
    except Refused as error:
        return visit.refusal(error.status, error.message)
    except Exception as error:  # an unexpected one is logged with its trace
        answer = from_exception(error, visit.request.state.request_id)
        return visit.refusal(answer.status, answer.message)
    finally:
        await visit.request.close()  # files of its form


def _remember(visit: Visit, response: Response) -> None:
    model = visit.query.get("model")
    if model is not None and len(model) < 200:
        visit.remember(MODEL, model)
    if visit.request.cookies.get(LANGUAGE) != visit.language:
        visit.remember(LANGUAGE, visit.language)
    for name, value in visit.remembered.items():
        _set_cookie(visit.request, response, name, value)


def _set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    response.set_cookie(
        name,
        value,
        max_age=YEAR,
        path="/studio",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def _with_headers(app: ASGIApp) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await app(scope, receive, send_with_headers)

    return wrapped
