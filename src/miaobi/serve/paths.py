"""What a path and a method may look like beside the way that routes spell them.

/v1/models/ is answered as /v1/models, and /studio as /studio/ (a redirect would name
http behind a proxy that speaks https, and lose a body), and HEAD as GET without its body
(RFC 9110, 9.3.2).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Paths:
    def __init__(self, app: ASGIApp, mounted: tuple[str, ...] = ()) -> None:
        """`mounted`: paths under which applications of their own lie, as "/studio"."""
        self.app = app
        self._mounted = mounted
        self._below = tuple(f"{path}/" for path in mounted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        routed = {**scope, "path": self._as_routed(scope["path"])}
        try:
            if scope["method"] == "HEAD":
                routed["method"] = "GET"
                await _without_body(self.app, routed, receive, send)
            else:
                await self.app(routed, receive, send)
        finally:
            # Logs, metrics and traces tell by it what was asked.
            scope["route"] = routed.get("route")

    def _as_routed(self, path: str) -> str:
        """Return a path as routes spell it. Those below a mounted application are its
        own; the application itself is at its path with a slash.
        """
        if path in self._mounted:
            return f"{path}/"
        if path.startswith(self._below):
            return path
        return path.rstrip("/") or "/"


async def _without_body(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer with the headers alone; an endless stream learns that its reader left."""
    begun = False

    async def receive_until_begun() -> Message:
        return {"type": "http.disconnect"} if begun else await receive()

    async def send_headers(message: Message) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            begun = True
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    await app(scope, receive_until_begun, send_headers)
