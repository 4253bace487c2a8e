"""Whose request it is, for routes: `caller: CurrentCaller`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from miaobi.core.language import say
from miaobi.serve.errors import ApiError


@dataclass(frozen=True)
class Caller:
    """The owner of a key. Without keys there is one caller, "local"."""

    key_id: str = "local"
    name: str = "local"
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    operator: bool = True
    """May change what everybody gets: promote a version, roll one back."""


async def caller_of(request: Request) -> Caller:
    """The caller of a request, as the guard recorded it in the request's state."""
    caller: Caller = getattr(request.state, "caller", Caller())
    return caller


CurrentCaller = Annotated[Caller, Depends(caller_of)]
"""For routes: `caller: CurrentCaller`."""


async def operator_of(caller: CurrentCaller) -> Caller:
    """The caller, where the key is an operator's. Raises ApiError 403 for others."""
    if not caller.operator:
        raise ApiError(
            403,
            say(
                "This changes what everybody gets; it needs an operator's key "
                "(`miaobi keys create NAME --operator` on the server).",
                "此操作影响所有人，需要管理员密钥（在服务器上用 `miaobi keys create 名称 --operator` 创建）。",
            ),
            code="operators_only",
        )
    return caller


CurrentOperator = Annotated[Caller, Depends(operator_of)]
"""For routes that operators alone may call."""
