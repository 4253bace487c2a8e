"""Endpoints of other servers that this one knows by name and cannot do yet: 501, so
that a program can tell that from a typing error.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from miaobi.core.language import say
from miaobi.serve.errors import ApiError

router = APIRouter(tags=["not yet"])

SOUND = ("/v1/audio/transcriptions", "/v1/audio/translations")
VIDEO = ("/v1/videos", "/v1/videos/{video_id}", "/v1/videos/{video_id}/content")


def _no_media() -> None:
    raise _absent(
        say(
            "This server neither listens nor makes video yet. Text: /v1/chat/completions; "
            "pictures: /v1/images/generations; speech: /v1/audio/speech.",
            "此服务器尚不支持语音识别与视频。文本请用 /v1/chat/completions，图片请用 /v1/images/generations，"
            "语音请用 /v1/audio/speech。",
        )
    )


def _absent(message: str) -> ApiError:
    return ApiError(501, message, code="not_implemented")


def _add(method: str, path: str, answer: Callable[[], None]) -> None:
    """Answer a path; GET says so in the name of its operation."""
    words = path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    router.add_api_route(
        path,
        answer,
        methods=[method],
        status_code=501,
        summary="Not here yet",
        operation_id=f"get_{words}" if method == "GET" else words,
    )


for path in (*SOUND, VIDEO[0]):
    _add("POST", path, _no_media)
for path in VIDEO:
    _add("GET", path, _no_media)
