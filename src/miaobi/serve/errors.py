"""Errors in OpenAI's shape, each with the request's id: {"error": {"message", "type",
"param", "code"}}.

A message says what was wrong and what to do. It never holds a path, an object's repr or
an address: what is unexpected is logged under the request's id and answered as
"internal error".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from miaobi.core.errors import (
    BadInput,
    Conflict,
    Damaged,
    DoesNotFit,
    EngineDied,
    MiaobiError,
    MissingPart,
    NotFound,
    Unsupported,
)
from miaobi.core.language import in_each, say
from miaobi.serve.validation import meant

log = logging.getLogger("miaobi.serve")

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    422: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    501: "not_implemented_error",
    503: "overloaded_error",
}
STATUS: dict[type[MiaobiError], int] = {
    NotFound: 404,
    Unsupported: 400,
    BadInput: 400,
    Conflict: 409,
    DoesNotFit: 503,
    Damaged: 500,
    EngineDied: 500,
    MissingPart: 501,
}


UNREADABLE = "There was an error parsing the body"
"""What FastAPI says of a body that is not UTF-8, or holds a number without end."""
CLIENT_NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "json_schema": "response_format",
    "prompt_ids": "prompt",
}
"""What clients call our fields, where they call them otherwise."""
PARTS = {"width": "size", "height": "size"}
"""Our fields that are parts of a client's."""
LOCAL_DETAIL = re.compile(
    r"(?<![\w:/.~#])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\"<>:;,，；：。"
    r"]+)+[/\\]([^\s/\\'\"<>:;,，；：。]+)|<[^<>]* at "
    r"0x[0-9a-fA-F]+>|\b0x[0-9a-fA-F]{6,}\b"
)
"""A path of this machine (its last part is kept), an object's repr, an address in
memory. What follows # is a JSON pointer.
"""


def without_paths(text: str) -> str:
    """Return an error's text, which was written for users of this machine, as others
    may read it.
    """
    return LOCAL_DETAIL.sub(lambda match: match[1] or "…", text)


class ApiError(Exception):
    """An answer other than success. `retry_after`: seconds, for those worth trying again."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        again = (
            {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        )
        return JSONResponse(self.body, self.status, {**self.headers, **again})


def from_exception(error: BaseException, request_id: str) -> ApiError:
    """Return the answer to any exception. An unexpected one is logged with its trace;
    its answer names the log only.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MiaobiError):
        status = next(
            (number for kind, number in STATUS.items() if isinstance(error, kind)), 500
        )
        # By then others may have closed a model, freed the disk or released the lock.
        again = 30 if isinstance(error, DoesNotFit) else None
        message = without_paths(error.sentence)
        param = error.field
        if param in CLIENT_NAMES:
            message = re.sub(rf"\b{param}\b", CLIENT_NAMES[param], message)
            param = CLIENT_NAMES[param]
        if param in PARTS:
            param = PARTS[param]
        return ApiError(
            status,
            message,
            code=error.code,
            param=param,
            retry_after=again,
        )
    log.error("unexpected error", exc_info=error, extra={"request_id": request_id})
    return ApiError(
        500,
        say(
            f"Something went wrong here; see the log under request {request_id}.",
            f"服务器内部出错；详情见日志中的请求 {request_id}。",
        ),
        code="internal_error",
    )


def _from_validation(error: RequestValidationError) -> ApiError:
    """Name the field that cannot be used, and why."""
    first: Mapping[str, Any] = error.errors()[0]
    if first["type"] == "json_invalid":
        return _no_json(f"{first['ctx']['error']} ({first['loc'][-1]})")
    if tuple(first["loc"]) == ("body",) and first["type"] == "missing":
        return _no_json(say("it is empty", "内容为空"))
    misfit = meant(error.errors(), error.body)
    where = ".".join(misfit.keys)
    return ApiError(
        400,
        f"{where}: " + misfit.message if where else misfit.message,
        code=misfit.code,
        param=where or None,
    )


def _no_json(reason: str) -> ApiError:
    return ApiError(
        400,
        in_each(
            lambda: say(
                f"The body is not JSON: {reason}. Send an object in UTF-8.",
                f"请求体不是 JSON：{reason}。请发送 UTF-8 编码的对象。",
            )
        ),
        code="json_invalid",
    )


def _methods(request: Request) -> list[str]:
    """The methods that the request's path is answered for."""
    methods = list[str]()
    for method in ("DELETE", "GET", "PATCH", "POST", "PUT"):
        scope = {**request.scope, "method": method}
        matches = [route.matches(scope)[0] for route in request.app.routes]
        if Match.FULL in matches:
            methods += ["GET", "HEAD"] if method == "GET" else [method]
    return methods


def _wrong_method(request: Request) -> ApiError:
    allowed = ", ".join(_methods(request))
    path = request.url.path[:200]
    return ApiError(
        405,
        say(
            f"{path} takes {allowed}, not {request.method}.",
            f"{path} 支持 {allowed}，不支持 {request.method}。",
        ),
        code="method_not_allowed",
        headers={"Allow": allowed},
    )


def _detail(request: Request, error: HTTPException) -> str:
    """The framework's own word for a path that leads nowhere says neither which nor
    what else there is.
    """
    if (error.status_code, error.detail) == (404, "Not Found"):
        resource = f"{request.method} {request.url.path[:200]}"
        return say(
            f"There is no {resource}; /docs lists what there is.",
            f"没有 {resource}；/docs 列出了可用的接口。",
        )
    return str(error.detail)


def answer_of(request: Request, error: Exception) -> ApiError:
    """Return the answer to any error of a request, the framework's own included."""
    if isinstance(error, RequestValidationError):
        return _from_validation(error)
    if isinstance(error, HTTPException) and error.detail == UNREADABLE:
        return _no_json(str(error.__cause__ or error.detail))
    if isinstance(error, HTTPException) and error.status_code == 405:
        return _wrong_method(request)
    if isinstance(error, HTTPException):
        return ApiError(
            error.status_code, _detail(request, error), headers=error.headers
        )
    return from_exception(error, getattr(request.state, "request_id", "-"))


def install(app: FastAPI) -> None:
    """Answer every error of `app` in this shape."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return answer_of(request, error).response()

    for kind in (
        ApiError,
        MiaobiError,
        RequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, answer)
