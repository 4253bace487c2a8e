"""What a client sends, and whether it is still there.

A body is counted as it comes, whatever Content-Length says, and has to come in time.
JSON is read whole before any parser sees it, so that it can be refused for its depth;
multipart flows on to the routes that take it. Every other type is refused: a form on
another site's page can send those (CSRF), and no route reads them.

Once the body is read, this layer listens for the client to leave. Then it cancels the
route, be it streaming, still computing or still waiting for its slot.
"""

from __future__ import annotations

import asyncio
import re
import time
import zlib

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaobi.core.language import say
from miaobi.serve.errors import ApiError
from miaobi.serve.logs import log
from miaobi.serve.settings import Settings

STREAMED = re.compile(r"/v1/files|/v1/uploads/[^/]+/parts")
"""An upload whose last byte came is stored, also where its sender does not wait."""
UPLOADS = re.compile(
    r"/v1/files|/v1/uploads/[^/]+/parts|/v1/images/(?:edits|variations)"
    r"|/v1/audio/(?:transcriptions|translations)|/studio/.*",
    re.DOTALL,
)
"""Where multipart forms belong."""
FORMS = re.compile(r"/studio/.*", re.DOTALL)
"""Where pages send forms: each carries the visitor's token (studio/visit.py)."""
FORM = 1 << 20
"""Bytes of a form beside its file."""
WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Compressions of JSON, by their names in Content-Encoding, as zlib numbers them."""
TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)


class Left(Exception):
    """The client went away before its body was whole."""


class Bodies:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(scope):
            await self.app(scope, receive, send)
            return
        try:
            kind = self._kind(scope)
            encoding = _encoding(scope, kind)
            largest = self._largest(scope, kind)
            incoming = _Incoming(receive, largest, self.settings)
            incoming.check(int(_header(scope, b"content-length") or 0))
            if kind != "application/json" and STREAMED.fullmatch(scope["path"]):
                await self.app(scope, incoming.receive, send)
                return
            source: Receive = incoming.receive
            if kind == "application/json":
                body = decompressed(await incoming.whole(), encoding, largest)
                check_depth(body, self.settings.limits.json_depth)
                if self.settings.log_prompts:
                    log.info(
                        "body",
                        extra={"body": body[:100_000].decode("utf-8", "replace")},
                    )
                source = _once(body)
        except Left:
            return
        except (ApiError, HTTPException) as error:
            refusal = (
                error
                if isinstance(error, ApiError)
                else ApiError(error.status_code, error.detail, headers=error.headers)
            )
            await refusal.response()(scope, receive, send)
            return
        await while_there(self.app, scope, source, receive, send)

    def _largest(self, scope: Scope, kind: str) -> int:
        """Files to keep are streamed to the disk and so may be large, with a little of
        the form around them; others are held in memory.
        """
        stored = kind == "multipart/form-data" and (
            STREAMED.fullmatch(scope["path"]) is not None
            or scope["path"].startswith("/studio/")
        )
        return (
            self.settings.limits.upload_bytes + FORM
            if stored
            else self.settings.limits.body_bytes
        )

    def _kind(self, scope: Scope) -> str:
        """The type of the body, if it is one that this path takes. Raises ApiError 415."""
        kind = _header(scope, b"content-type").split(";")[0].strip().lower()
        multipart = kind == "multipart/form-data" and UPLOADS.fullmatch(scope["path"])
        form = kind == "application/x-www-form-urlencoded" and FORMS.fullmatch(
            scope["path"]
        )
        if kind == "application/json" or multipart or form:
            return kind
        raise ApiError(
            415,
            say(
                f"The body is of type {kind[:80] or 'unknown'!r}; send application/json.",
                f"请求体类型为 {kind[:80] or '未知'!r}；请使用 application/json。",
            ),
            code="unsupported_media_type",
            headers={"Connection": "close"},
        )


def has_body(scope: Scope) -> bool:
    names = {
        name: value
        for name, value in scope["headers"]
        if name in (b"content-length", b"transfer-encoding", b"content-type")
    }
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return False
    return (
        b"transfer-encoding" in names
        or names.get(b"content-length", b"0") != b"0"
        or b"content-type" in names
    )


def _header(scope: Scope, name: bytes) -> str:
    return next(
        (value.decode("latin-1") for key, value in scope["headers"] if key == name), ""
    )


class _Incoming:
    """A body on its way in. Raises HTTPException (which passes through the framework's
    form parser) 413 or 408.
    """

    def __init__(self, receive: Receive, largest: int, settings: Settings) -> None:
        self._receive = receive
        self._largest = largest
        self._limits = settings.limits
        self._waited = 0.0
        self._came = 0

    def check(self, size: int) -> None:
        if size > self._largest:
            raise _too_large(self._largest)

    async def receive(self) -> Message:
        allowed = self._limits.body_seconds + self._came / self._limits.body_rate
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, allowed - self._waited)):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408,
                say(
                    f"The body came too slowly: {self._came} bytes in {allowed:.0f} s.",
                    f"请求体传输过慢：{allowed:.0f} 秒内只收到 {self._came} 字节。",
                ),
                headers={"Connection": "close"},
            ) from None
        self._waited += time.monotonic() - began
        self._came += len(message.get("body", b""))
        self.check(self._came)
        return message

    async def whole(self) -> bytes:
        parts = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Left
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(parts)


def _too_large(largest: int) -> HTTPException:
    return HTTPException(
        413,
        say(
            f"The body has more than {largest} bytes, the most that is read here.",
            f"请求体超过上限 {largest} 字节。",
        ),
        headers={"Connection": "close"},
    )


def _encoding(scope: Scope, kind: str) -> str:
    """The compression of the body, empty for none. Raises ApiError 415 for one that is
    not read; only JSON is read compressed.
    """
    encoding = _header(scope, b"content-encoding").strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding in WINDOW_BITS and kind == "application/json":
        return encoding
    raise ApiError(
        415,
        say(
            f"The body is compressed as {encoding[:80]!r}; send JSON as it is, or as "
            "gzip or deflate.",
            f"请求体的压缩方式为 {encoding[:80]!r}；请直接发送 JSON，或使用 gzip 或 deflate。",
        ),
        code="unsupported_media_type",
        headers={"Accept-Encoding": "gzip, deflate", "Connection": "close"},
    )


def decompressed(body: bytes, encoding: str, largest: int) -> bytes:
    """Return a body as it was before it was compressed.

    Raises HTTPException 413 for more than `largest` bytes, before these are in memory;
    ApiError 400 for bytes that are not what they are said to be.
    """
    if not encoding:
        return body
    stream = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        whole = stream.decompress(body, largest + 1)
    except zlib.error:
        whole, stream = b"", zlib.decompressobj()
    if len(whole) > largest:
        raise _too_large(largest)
    if not stream.eof:
        raise ApiError(
            400,
            say(
                f"The body is not {encoding}, as Content-Encoding says.",
                f"请求体不是 Content-Encoding 所说的 {encoding}。",
            ),
            code="bad_encoding",
        )
    return whole


def check_depth(body: bytes, deepest: int) -> None:
    """Raise ApiError 400 for JSON nested deeper than that, before a parser follows it down."""
    if body.count(b"[") + body.count(b"{") <= deepest:
        return
    depth = 0
    for token in TOKENS.finditer(body):
        first = token[0][:1]
        depth += (first in b"[{") - (first in b"]}")
        if depth > deepest:
            raise ApiError(
                400,
                say(
                    f"The JSON is nested more than {deepest} deep.",
                    f"JSON 嵌套超过 {deepest} 层。",
                ),
                code="json_too_deep",
            )


def _once(body: bytes) -> Receive:
    async def source() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return source


async def while_there(
    app: ASGIApp, scope: Scope, source: Receive, receive: Receive, send: Send
) -> None:
    """Run `app` on the body from `source`; when the client leaves between the body's
    end and the answer's, cancel it.
    """
    gone = asyncio.Event()
    work = asyncio.current_task()
    listener = None
    whole = False
    done = False

    async def reading() -> Message:
        nonlocal listener, whole
        if whole:
            await gone.wait()
            return {"type": "http.disconnect"}
        message = await source()
        whole = not message.get("more_body", False)
        if whole:
            listener = asyncio.create_task(listen())
        return message

    async def sending(message: Message) -> None:
        nonlocal done
        done = done or (
            message["type"] == "http.response.body"
            and not message.get("more_body", False)
        )
        await send(message)

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        if not done and work is not None:
            work.cancel()

    try:
        await app(scope, reading, sending)
    except asyncio.CancelledError:
        if not gone.is_set() or (work is not None and work.uncancel() > 0):
            raise
    finally:
        if listener is not None:
            listener.cancel()
