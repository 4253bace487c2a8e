"""The files that pages are made of beside their HTML, each under an address that changes
with its content: browsers keep them for a year and never ask again.
"""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from miaobi.core.errors import NotFound
from miaobi.core.language import say

LONG = "public, max-age=31536000, immutable"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOLDER = files("miaobi.studio") / "static"


@cache
def content(name: str) -> bytes:
    """Return a file. Raise NotFound."""
    names = {item.name for item in FOLDER.iterdir()}
    if name not in names:
        raise NotFound(
            say(f"The studio has no file {name!r}.", f"工作台没有文件 {name!r}。")
        )
    return (FOLDER / name).read_bytes()


@cache
def address(name: str) -> str:
    """Return where a browser finds a file: /studio/static/HASH/NAME."""
    version = hashlib.sha256(content(name)).hexdigest()[:12]
    return f"/studio/static/{version}/{name}"


async def serve(request: Request) -> Response:
    """Answer with a file; an address from before an update gets what there is now."""
    name = request.path_params["name"]
    ending = name[name.rfind(".") :]
    kind = TYPES.get(ending) or mimetypes.guess_type(name)[0]
    is_current = request.url.path == address(name)
    caching = LONG if is_current else "no-cache"
    return Response(content(name), media_type=kind, headers={"cache-control": caching})
