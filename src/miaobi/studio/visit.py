"""One request of a visitor: who asks, in which language, and what a page answers with.

Knows nothing of single pages. What changes something carries the visitor's token, a
digest of a cookie that no other site can read (double submit, OWASP's cheat sheet on
cross-site request forgery); the guard has looked at Origin before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

import httpx
from fastapi import FastAPI
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)

from miaobi.core.language import LANGUAGES, language, preferred, say
from miaobi.serve.callers import Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Services
from miaobi.serve.sessions import COOKIE
from miaobi.studio.inside import Inside

LANGUAGE, THEME, MODEL = "miaobi_language", "miaobi_theme", "miaobi_model"
VISITOR = "miaobi_visitor"
"""Cookies of the studio, beside the session's."""
TOKEN = "token"
"""The field of forms, and X-Token of requests that scripts send."""
YEAR = 365 * 86_400
FIELDS = 1000
"""Fields of a form, at most."""


class Refused(Exception):
    """What the API would not do, in its words."""

    def __init__(
        self, status: int, message: str, code: str | None, param: str | None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        """The field that is to blame, where it is a single one."""

    @classmethod
    def of(cls, status: int, content: bytes) -> Refused:
        """Return what an answer of the API refuses."""
        try:
            error = json.loads(content)["error"]
            return cls(
                status, str(error["message"]), error.get("code"), error.get("param")
            )
        except (ValueError, KeyError, TypeError):
            return cls(status, content.decode("utf-8", "replace")[:500], None, None)


@dataclass
class Visit:
    app: FastAPI
    request: Request
    language: str
    """"en" or "zh": the page's, which need not be the server's."""
    page: str
    """The name of the page that is asked."""
    render: Callable[..., str]
    """Fills a template: `render(name, visit=self, ...)` (studio/templates)."""
    remembered: dict[str, str] = field(default_factory=dict)
    """Cookies that the answer sets, for a year."""

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    @property
    def caller(self) -> Caller:
        caller: Caller = self.request.state.caller
        return caller

    @property
    def is_partial(self) -> bool:
        """Whether a part of the page is asked for, to be swapped into it."""
        headers = self.request.headers
        return "hx-request" in headers and "hx-history-restore-request" not in headers

    @property
    def theme(self) -> str:
        """ "light", "dark", or "" for the system's."""
        chosen = self.request.cookies.get(THEME, "")
        return chosen if chosen in ("light", "dark") else ""

    @property
    def path(self) -> Mapping[str, str]:
        """What the address holds, by the names in the route."""
        return self.request.path_params

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    def address(self, path: str = "", **query: str | None) -> str:
        """Return an address in the visitor's language: `path` is a page's name and what
        follows, by default the page's own.
        """
        given = {name: value for name, value in query.items() if value is not None}
        question = f"?{urlencode(given)}" if given else ""
        return f"/studio/{self.language}/{path or self.page}{question}"

    def in_language(self, language: str) -> str:
        """Return the address of this page in another language."""
        url = self.request.url
        path = url.path.replace(f"/{self.language}/", f"/{language}/", 1)
        return f"{path}?{url.query}" if url.query else path

    @property
    def is_signed_in(self) -> bool:
        return COOKIE in self.request.cookies

    # Forms.

    @cached_property
    def visitor(self) -> str:
        """What this browser is known by: its session, or a random cookie where no key
        is needed.
        """
        cookies = self.request.cookies
        known = cookies.get(COOKIE) or cookies.get(VISITOR)
        if not known:
            known = self.remembered[VISITOR] = secrets.token_urlsafe(32)
        return known

    @property
    def token(self) -> str:
        """What the forms of this browser carry."""
        return hashlib.sha256(f"form {self.visitor}".encode()).hexdigest()

    async def form(self) -> FormData:
        """Return the fields that were sent.

        Raises ApiError 403 for a form without this browser's token.
        """
        limits = self.services.settings.limits
        form = await self.request.form(
            max_fields=FIELDS, max_part_size=limits.body_bytes
        )
        given = self.request.headers.get("x-token") or str(form.get(TOKEN, ""))
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise ApiError(
                403,
                say(
                    "This page is from before you signed in. Load it again.",
                    "该页面在您登录之前打开。请重新加载。",
                ),
                code="bad_token",
            )
        return form

    # The server's own API, in the visitor's name.

    def client(self) -> httpx.AsyncClient:
        key = self.services.sessions.key(self.request.cookies.get(COOKIE, ""))
        own = self.request.headers.get("authorization", "")
        headers = {
            "accept-language": self.language,
            "authorization": f"Bearer {key}" if key else own,
        }
        return httpx.AsyncClient(
            transport=Inside(self.app),
            base_url="http://127.0.0.1",
            timeout=None,
            headers={name: value for name, value in headers.items() if value},
        )

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON of an answer. Raise Refused."""
        return json.loads(await self.content(method, path, **options))

    async def content(self, method: str, path: str, **options: Any) -> bytes:
        """Return an answer as it is. Raise Refused."""
        async with self.client() as api:
            answer = await api.request(method, path, **options)
        if answer.is_error:
            raise Refused.of(answer.status_code, answer.content)
        return answer.content

    async def download(self, path: str) -> Response:
        """Answer with a file of the API, piece by piece. Raise Refused."""
        api = self.client()
        answer = await api.send(api.build_request("GET", path), stream=True)
        if answer.is_error:
            content = await answer.aread()
            await api.aclose()
            raise Refused.of(answer.status_code, content)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()
                await api.aclose()

        names = ("content-type", "content-length", "content-disposition")
        headers = {name: answer.headers[name] for name in names}
        # Weights do not become smaller by compression.
        return StreamingResponse(
            pieces(), headers={**headers, "content-encoding": "identity"}
        )

    @asynccontextmanager
    async def events(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The server-sent events of a streamed answer, each one's JSON. Leaving the block
        early stops the work. Raise Refused.
        """
        async with (
            self.client() as api,
            api.stream("POST", path, json={**body, "stream": True}) as answer,
        ):
            if answer.is_error:
                raise Refused.of(answer.status_code, await answer.aread())
            yield _events_of(answer)

    # Answers.

    def html(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Answer with a template: its name with the page's, "jobs/page.html"."""
        return HTMLResponse(self.text(template, **values), status)

    def text(self, template: str, **values: Any) -> str:
        """Return a template with its values, as HTML."""
        return self.render(template, visit=self, **values)

    def go(self, path: str, **query: str | None) -> Response:
        """Send the browser to another page: to `path`, as in `address`."""
        address = self.address(path, **query)
        if self.is_partial:
            return Response(None, 204, {"hx-redirect": address})
        return RedirectResponse(address, 303)

    def toast(self, message: str, content: str = "") -> HTMLResponse:
        """Answer with HTML, and a sentence that says what was done."""
        toast = self.text("toast.html", message=message, is_error=False)
        return HTMLResponse(content + toast)

    def refusal(self, status: int, message: str) -> Response:
        """Answer that something could not be done: as a toast in a page that is open,
        else as a page.
        """
        if not self.is_partial:
            return self.html("problem.html", status, message=message)
        toast = self.text("toast.html", message=message, is_error=True)
        return HTMLResponse(toast, status, {"hx-reswap": "none"})

    def remember(self, name: str, value: str) -> None:
        """Keep something about this visitor in a cookie, for a year."""
        self.remembered[name] = value


async def _events_of(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event: dict[str, Any] = json.loads(line[6:])
        if event.get("error"):
            raise Refused.of(500, line[6:].encode())
        yield event


def language_of(request: Request) -> str:
    """Return the visitor's: asked for, kept, the browser's first of ours, or the
    server's.
    """
    for given in (request.query_params.get("language"), request.cookies.get(LANGUAGE)):
        if given in LANGUAGES:
            return str(given)
    return preferred(request.headers.get("accept-language", "")) or language()
