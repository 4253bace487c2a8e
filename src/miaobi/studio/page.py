"""What a page of the studio is.

A page is a folder with a module `page.py` and its templates beside it, named in the
registry (studio/pages/__init__.py). The module offers

    TITLE = ("Jobs", "任务")     English and Chinese
    GROUP = "foot"               where it stands in the navigation, one of navigation.GROUPS
    ORDER = 10                   its place there
    ROUTES = [get("", show), post("/{job}/cancel", cancel)]

Its address is /studio/LANGUAGE/NAME, and what follows is the page's own. A handler is a
function `async def show(visit: Visit) -> Response`; `visit` holds whatever it needs
(studio/visit.py). Templates have the page's name before theirs: "jobs/page.html".

Everything that a page does goes through the server's own HTTP API in its visitor's name:
it can do nothing that a program with the same key could not, and every limit holds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response

from miaobi.studio.visit import Visit

Handler = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True)
class PageRoute:
    """A handler, and the requests that it answers."""

    method: str
    path: str
    """Below the page's address, as Starlette writes paths: "/{job}/cancel"."""
    handler: Handler


def get(path: str, handler: Handler) -> PageRoute:
    return PageRoute("GET", path, handler)


def post(path: str, handler: Handler) -> PageRoute:
    """A route of what changes something: its form carries the visitor's token."""
    return PageRoute("POST", path, handler)


class Page(Protocol):
    TITLE: tuple[str, str]
    GROUP: str
    ORDER: int
    ROUTES: Sequence[PageRoute]
