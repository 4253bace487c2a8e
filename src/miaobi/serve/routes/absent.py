"""Endpoints of other servers that this one knows by name and cannot do yet: 501, so
that a program can tell that from a typing error.
"""

from __future__ import annotations

from fastapi import APIRouter

from miaobi.core.language import say
from miaobi.serve.errors import ApiError

router = APIRouter(tags=["not yet"])

SOUND = ("/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations")


def _absent() -> None:
    raise ApiError(
        501,
        say(
            "This server has no models for sound or video yet. Text: "
            "/v1/chat/completions; pictures: /v1/images/generations.",
            "此服务器尚无音频或视频模型。文本请用 /v1/chat/completions，图片请用 /v1/images/generations。",
        ),
        code="not_implemented",
    )


for path in (*SOUND, "/v1/videos"):
    router.post(
        path,
        status_code=501,
        summary="Not here yet",
        operation_id=path.strip("/").replace("/", "_"),
    )(_absent)
for path in ("/v1/videos", "/v1/videos/{video_id}", "/v1/videos/{video_id}/content"):
    router.get(
        path,
        status_code=501,
        summary="Not here yet",
        operation_id="get_"
        + path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
    )(_absent)


RERANK = ("/v1/rerank", "/v2/rerank", "/rerank")
"""Jina's and vLLM's paths, and Cohere's."""


def _no_rerank() -> None:
    raise ApiError(
        501,
        say(
            "This server has no model that ranks texts for a query yet. Near ones are "
            "found with /v1/embeddings.",
            "此服务器尚无重排序模型。可用 /v1/embeddings 查找相近的文本。",
        ),
        code="not_implemented",
    )


for path in RERANK:
    router.post(
        path,
        status_code=501,
        summary="Not here yet",
        operation_id=path.strip("/").replace("/", "_"),
    )(_no_rerank)
