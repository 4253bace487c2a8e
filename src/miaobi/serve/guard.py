"""The layer that every request passes before any route sees it, mounted applications
included: it decides who may send requests at all.

It decides on the path of the request line, never on Host or any other header (a crafted
Host skipped authentication elsewhere). A request that it refuses was not routed, not
parsed and not queued.

- Headers: their number and size.
- Host: one, well formed. On a server of this machine alone, one of its own names, so
  that a page whose name was rebound to 127.0.0.1 reaches nothing.
- Pages of other sites: a request that could change something and comes from elsewhere
  (Origin, Sec-Fetch-Site) is refused. Answers carry CORS headers for the origins of
  --allow-origin alone, without credentials: such a page sends a key, never a cookie.
- Keys: on every path but those in OPEN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaobi.core.language import preferred, say, speaking
from miaobi.serve.callers import Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.sessions import COOKIE

if TYPE_CHECKING:
    from miaobi.serve.services import Services

OPEN = re.compile(
    r"/health|/ready"
    r"|/studio/login|/studio/static/[0-9a-f]+/[a-z0-9_.-]+"
    r"|/v1/images/files/[A-Za-z0-9_-]{22,86}\.(?:png|jpeg|webp)"
)
"""Answered without a key: whether the server lives, the page that asks for a key and
what it is styled with, and pictures under a name that nobody can guess and that expires
(as OpenAI's own signed URLs).
"""
STUDIO = re.compile(r"/studio(?:/.*)?", re.DOTALL)
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST = re.compile(
    r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?\.?)(?::[0-9]{1,5})?"
)
INSIDE = "miaobi.caller"
PREFLIGHT = {
    "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "access-control-allow-headers": "*, authorization",
    "access-control-max-age": "600",
}
"""What a page may send (Fetch standard, 3.2): * does not cover Authorization."""
EXPOSED = "x-request-id, retry-after"


def inside(app: ASGIApp, caller: Caller) -> ASGIApp:
    """`app` for calls from within this process, in the name of `caller` (the lines of a
    batch). No request from outside has this mark.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, INSIDE: caller}, receive, send)

    return call


class Guard:
    def __init__(self, app: ASGIApp, services: Services) -> None:
        self.app = app
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif INSIDE in scope:
            scope["state"]["caller"] = scope[INSIDE]
            await self.app(scope, receive, send)
        else:
            with speaking(preferred(_accept_language(scope))):
                await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with its caller."""
        try:
            headers = self._headers(scope)
            self._host(headers)
            if self._shares(scope, headers):
                send = _readable_by(headers["origin"], send)
                if _is_preflight(scope, headers):
                    await Response(None, 204, PREFLIGHT)(scope, receive, send)
                    return
            else:
                self._origin(scope, headers)
            scope["state"]["caller"] = await self._caller(scope, headers)
        except ApiError as error:
            answer = self._login(scope) if error.status == 401 else None
            await (answer or error.response())(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _headers(self, scope: Scope) -> dict[str, str]:
        """By name. Host, Authorization, Origin and Content-Length may come once only."""
        limits = self.services.settings.limits
        raw = scope["headers"]
        size = (
            sum(len(name) + len(value) + 4 for name, value in raw)
            + len(scope.get("raw_path") or b"")
            + len(scope.get("query_string") or b"")
        )
        if len(raw) > limits.header_count or size > limits.header_bytes:
            raise ApiError(
                431,
                say(
                    f"{len(raw)} headers of {size} bytes; at most "
                    f"{limits.header_count} of {limits.header_bytes} bytes "
                    "together are read.",
                    f"请求头共 {len(raw)} 个、{size} 字节；最多 {limits.header_count} 个、{limits.header_bytes} 字节。",
                ),
                code="headers_too_large",
                headers={"Connection": "close"},
            )
        values: dict[str, str] = {}
        for name, value in raw:
            key = name.decode("latin-1").lower()
            if key in values and key in (
                "host",
                "authorization",
                "x-api-key",
                "origin",
                "content-length",
                "content-type",
            ):
                raise ApiError(
                    400,
                    say(f"The header {key} came twice.", f"请求头 {key} 出现了两次。"),
                    code="bad_header",
                )
            values[key] = (
                f"{values[key]}; {value.decode('latin-1')}"
                if key in values
                else value.decode("latin-1")
            )
        return values

    def _host(self, headers: Mapping[str, str]) -> None:
        settings = self.services.settings
        host = headers.get("host", "")
        match = HOST.fullmatch(host)
        name = match[1].lower().rstrip(".") if match else ""
        if not match or (
            settings.local and name not in LOOPBACK and name not in settings.hosts
        ):
            quoted = host[:80].encode("ascii", "replace").decode()
            raise ApiError(
                421 if match else 400,
                say(
                    f"Host {quoted!r} is not a name of this server. Ask it as "
                    "localhost or 127.0.0.1; a name of its own is allowed "
                    "with --allow-host NAME.",
                    f"Host {quoted!r} 不是本服务器的名称。请使用 localhost 或 "
                    "127.0.0.1；如需其他名称，请用 --allow-host 名称 启动。",
                ),
                code="bad_host",
            )

    def _shares(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """Whether the request comes from a page that the operator allowed; never to the
        studio, whose cookie browsers would send along.
        """
        allowed = self.services.settings.origins
        origin = headers.get("origin", "").lower()
        return origin in allowed and not STUDIO.fullmatch(scope["path"])

    def _origin(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refuse what a page of another site sends in a visitor's name. Programs send
        neither header.
        """
        if scope["method"] in SAFE:
            return
        origin = headers.get("origin")
        foreign = (
            origin is not None
            and origin.partition("://")[2].lower() != headers["host"].lower()
        )
        if foreign or headers.get("sec-fetch-site", "none") not in (
            "same-origin",
            "none",
        ):
            raise ApiError(
                403,
                say(
                    "A page of another site may not send requests here; one of your "
                    "own may, with --allow-origin ORIGIN.",
                    "不接受来自其他网站页面的请求；如是您自己的页面，请用 --allow-origin 来源 启动。",
                ),
                code="cross_site",
            )

    async def _caller(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        """By the key in Authorization, or in X-Api-Key, where Anthropic's clients write
        it; in the studio, where a browser asks, also by the session that its cookie
        names.
        """
        if OPEN.fullmatch(scope["path"]):
            return Caller()
        authorization = headers.get("authorization")
        if authorization is None and STUDIO.fullmatch(scope["path"]):
            return await self.services.keys.caller(
                self.services.sessions.key(_cookie(headers)) or ""
            )
        if authorization is None and "x-api-key" in headers:
            authorization = f"Bearer {headers['x-api-key']}"
        kind, _, secret = (authorization or "").partition(" ")
        return await self.services.keys.caller(
            secret.strip() if kind.lower() == "bearer" else ""
        )

    def _login(self, scope: Scope) -> RedirectResponse | None:
        """Send a visitor without a session to the studio's login page."""
        accept = b" ".join(
            value for name, value in scope["headers"] if name == b"accept"
        )
        if (
            scope["method"] == "GET"
            and STUDIO.fullmatch(scope["path"])
            and b"text/html" in accept
        ):
            return RedirectResponse("/studio/login", 303)
        return None


def _is_preflight(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks what a page may send."""
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _readable_by(origin: str, send: Send) -> Send:
    """`send` for answers that a page of this origin may read."""

    async def send_readable(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = EXPOSED
            headers.add_vary_header("origin")
        await send(message)

    return send_readable


def _accept_language(scope: Scope) -> str:
    values = [value for name, value in scope["headers"] if name == b"accept-language"]
    return b",".join(values).decode("latin-1")


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        values = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return values.value if values else ""
