"""/v1/files: uploaded in pieces to the disk, listed, read, removed; each belongs to the
key that made it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.serve import lines
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.files import PAGE, to_object
from miaobi.serve.pages import page
from miaobi.serve.records import now
from miaobi.serve.services import Serving
from miaobi.serve.uploads import multipart_form, receive

router = APIRouter(prefix="/v1/files", tags=["files"])

Purpose = Literal["fine-tune", "batch", "assistants", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
LINED = ("fine-tune", "batch")
SECONDS = (3600, 30 * 86_400)
BATCH_SECONDS = 30 * 86_400
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
FORM = multipart_form(
    ["file", "purpose"],
    {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": SECONDS[0],
            "maximum": SECONDS[1],
        },
    },
)


@router.post("", openapi_extra=FORM)
async def create(
    request: Request, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Upload a file."""
    with await anyio.to_thread.run_sync(services.files.upload) as upload:
        arrived = await receive(request, upload, FIELDS)
        purpose = arrived.fields.get("purpose", "")
        if purpose not in PURPOSES:
            raise ApiError(
                400,
                say(f"purpose is {purpose[:64]!r}. ", f"purpose 为 {purpose[:64]!r}。")
                + nearest(purpose[:64], PURPOSES),
                param="purpose",
            )
        expires = _expires(arrived.fields, purpose)
        file = await anyio.to_thread.run_sync(
            lambda: upload.keep(
                caller.key_id,
                arrived.filename or "file",
                purpose,
                expires,
                lines.check if purpose in LINED else None,
            )
        )
    return to_object(file)


def _expires(fields: dict[str, str], purpose: str) -> int | None:
    """Files of batches expire after thirty days by default, as OpenAI's do."""
    anchor = fields.get("expires_after[anchor]")
    seconds = fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return now() + BATCH_SECONDS if purpose == "batch" else None
    if anchor != "created_at":
        raise ApiError(
            400,
            say(
                f"expires_after[anchor] is {anchor!r:.64}; it can be created_at only.",
                f"expires_after[anchor] 为 {anchor!r:.64}；只能是 created_at。",
            ),
            param="expires_after",
        )
    if seconds is None or not (
        seconds.isascii()
        and seconds.isdigit()
        and len(seconds) < 10
        and SECONDS[0] <= int(seconds) <= SECONDS[1]
    ):
        raise ApiError(
            400,
            say(
                f"expires_after[seconds] is {seconds!r:.64}; it lies between {SECONDS[0]} and {SECONDS[1]}.",
                f"expires_after[seconds] 为 {seconds!r:.64}；应在 {SECONDS[0]} 与 {SECONDS[1]} 之间。",
            ),
            param="expires_after",
        )
    return now() + int(seconds)


@router.get("")
def list_files(
    services: Serving,
    caller: CurrentCaller,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """The caller's files, newest first."""
    return page(
        [
            to_object(file)
            for file in services.files.listed(
                caller.key_id, purpose, after, limit, order == "desc"
            )
        ],
        limit,
    )


@router.get("/{file_id}")
def retrieve(file_id: str, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """One file's record."""
    return to_object(services.files.find(file_id, caller.key_id))


@router.get("/{file_id}/content", response_class=FileResponse)
def content(file_id: str, services: Serving, caller: CurrentCaller) -> FileResponse:
    """A file's bytes."""
    file = services.files.find(file_id, caller.key_id)
    return FileResponse(
        services.files.path(file_id),
        media_type="application/octet-stream",
        filename=file.filename,
        headers={"Content-Security-Policy": "sandbox"},
    )


@router.delete("/{file_id}")
def delete(file_id: str, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """Remove a file."""
    services.files.delete(file_id, caller.key_id)
    return {"id": file_id, "object": "file", "deleted": True}
