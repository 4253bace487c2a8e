"""Errors of a dialect that is answered by way of /v1/chat/completions: what is wrong is
said in the words of the request that the client sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from miaobi.core.errors import MiaobiError
from miaobi.serve.errors import ApiError, from_exception


def renamed(error: ApiError, names: Mapping[str, str]) -> ApiError:
    """Return the error with the fields of a chat under the names that a dialect has for
    them, in its param and in its message.
    """

    def name(match: re.Match[str]) -> str:
        return names[match[0]]

    longest_first = sorted(names, key=len, reverse=True)
    words = re.compile(rf"(?<![\w.])(?:{'|'.join(longest_first)})(?!\w)")
    return ApiError(
        error.status,
        words.sub(name, error.message),
        code=error.code,
        param=words.sub(name, error.param) if error.param else error.param,
        retry_after=error.retry_after,
        headers=error.headers,
    )


@contextmanager
def named(names: Mapping[str, str]) -> Iterator[None]:
    """Rename the fields in errors that leave the block."""
    try:
        yield
    except (ApiError, MiaobiError) as error:
        raise renamed(from_exception(error, "-"), names) from None
