"""/v1/uploads: a large file in parts, which may come in any order and at the same time;
completed, it is a file as any other.
"""

from __future__ import annotations

from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import Field

from miaobi.serve import lines
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.files import plain_name, to_object
from miaobi.serve.records import File, UploadInParts, now
from miaobi.serve.routes.files import BATCH_SECONDS, LINED, SECONDS, Purpose
from miaobi.serve.services import Serving
from miaobi.serve.text.fields import Closed
from miaobi.serve.uploads import multipart_form, receive

router = APIRouter(prefix="/v1/uploads", tags=["files"])

FORM = multipart_form(["data"], {"data": {"type": "string", "format": "binary"}})


class ExpiresAfter(Closed):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=SECONDS[0], le=SECONDS[1])


class UploadFields(Closed):
    """A file that will come."""

    filename: str = Field(min_length=1, max_length=1000)
    purpose: Purpose
    bytes: int = Field(ge=1, le=2**53)
    mime_type: str = Field(min_length=1, max_length=255)
    """A label of the client's own. It is not used."""
    expires_after: ExpiresAfter | None = None
    """Of the completed file."""


class CompleteFields(Closed):
    part_ids: list[str] = Field(min_length=1, max_length=10_000)
    """In the order of the file."""
    md5: str | None = Field(None, max_length=64)


def _object(upload: UploadInParts, file: File | None = None) -> dict[str, Any]:
    """OpenAI's upload object."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "expires_at": upload.expires,
        "file": None if file is None else to_object(file),
    }


@router.post("")
def create(
    fields: UploadFields, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Announce a file that will come in parts, within an hour."""
    seconds = BATCH_SECONDS if fields.purpose == "batch" else None
    if fields.expires_after is not None:
        seconds = fields.expires_after.seconds
    upload = services.uploads.start(
        caller.key_id,
        plain_name(fields.filename),
        fields.purpose,
        fields.bytes,
        seconds,
    )
    return _object(upload)


@router.post("/{upload_id}/parts", openapi_extra=FORM)
async def add_part(
    upload_id: str, request: Request, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Send a part of it."""
    uploads = services.uploads
    upload = await anyio.to_thread.run_sync(uploads.pending, caller.key_id, upload_id)
    with await anyio.to_thread.run_sync(services.files.upload) as arrived:
        await receive(request, arrived, (), "data")
        id = await anyio.to_thread.run_sync(uploads.add_part, upload, arrived)
    return {
        "id": id,
        "object": "upload.part",
        "created_at": now(),
        "upload_id": upload_id,
    }


@router.post("/{upload_id}/complete")
def complete(
    upload_id: str, fields: CompleteFields, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Put the parts together."""
    upload = services.uploads.find(caller.key_id, upload_id)
    file = services.uploads.complete(
        caller.key_id,
        upload_id,
        fields.part_ids,
        fields.md5,
        lines.check if upload.purpose in LINED else None,
    )
    return _object(services.uploads.find(caller.key_id, upload_id), file)


@router.post("/{upload_id}/cancel")
def cancel(upload_id: str, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """Take no more parts, and remove those that came."""
    return _object(services.uploads.cancel(caller.key_id, upload_id))
