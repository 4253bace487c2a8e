"""Signing in: a key is asked for once; a random token in a cookie stands for it from
then on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from miaobi.core.language import say
from miaobi.serve.sessions import COOKIE, SECONDS
from miaobi.studio.inside import Inside
from miaobi.studio.visit import Refused, Visit

KEY = re.compile(r"[\x21-\x7e]{1,256}")


class SignIn:
    """The page at /studio/login; the guard has checked where its form comes from."""

    def __init__(self, visit: Callable[[Request, str], Visit]) -> None:
        """`visit` makes the visit of a request to a page."""
        self._visit = visit

    async def form(self, request: Request) -> Response:
        """The form; whoever comes here on purpose is signed out."""
        visit = self._visit(request, "login")
        visit.services.sessions.end(request.cookies.get(COOKIE, ""))
        answer = self._page(visit)
        answer.delete_cookie(COOKIE, path="/studio", samesite="strict")
        return answer

    async def submit(self, request: Request) -> Response:
        """Begin a session with a key that the API takes."""
        visit = self._visit(request, "login")
        form = await request.form(max_fields=2, max_part_size=1024)
        key = str(form.get("key", "")).strip()
        if not KEY.fullmatch(key):
            fault = say("Paste the key as it was given.", "请粘贴完整的密钥。")
            return self._page(visit, fault, 400)
        async with httpx.AsyncClient(
            transport=Inside(visit.app), base_url="http://127.0.0.1"
        ) as api:
            headers = {
                "accept-language": visit.language,
                "authorization": f"Bearer {key}",
            }
            checked = await api.get("/v1/models", headers=headers)
        if checked.is_error:
            refusal = Refused.of(checked.status_code, checked.content)
            return self._page(visit, refusal.message, refusal.status)
        answer = RedirectResponse("/studio/", 303)
        answer.set_cookie(
            COOKIE,
            visit.services.sessions.begin(key),
            max_age=SECONDS,
            path="/studio",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    def _page(self, visit: Visit, fault: str = "", status: int = 200) -> Response:
        return visit.html("login.html", status, fault=fault)
