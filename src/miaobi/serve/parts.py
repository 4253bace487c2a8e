"""Files that arrive in parts: announced, sent in any order, put together in one.

A part is a file of the purpose `files.PART_PURPOSE`, named after its upload, which only this
module sees; it expires with the upload. So parts lie where files lie, and what is left
of an upload that was never completed goes as any expired file does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import delete, func, select, update

from miaobi.core.language import say
from miaobi.serve.errors import ApiError
from miaobi.serve.files import PART_PURPOSE, Check, Files, Upload
from miaobi.serve.records import File, UploadInParts, new_id, now

SECONDS = 3600
"""An upload has to be completed within an hour, as at OpenAI."""
KEPT_SECONDS = 86_400
"""How long after that it is still said what became of it."""
PIECE = 1 << 20


class Uploads:
    """All calls block and belong to a key: others' uploads are as if they were not."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.records = files.records

    def start(
        self,
        key_id: str,
        filename: str,
        purpose: str,
        bytes: int,
        file_seconds: int | None,
    ) -> UploadInParts:
        """Record that a file of so many bytes will come. Raise ApiError 413 for more
        than a file may have.
        """
        if bytes > self.files.limit:
            raise ApiError(
                413,
                say(
                    f"bytes is {bytes:,}; a file may have {self.files.limit:,}.",
                    f"bytes 为 {bytes:,}；单个文件最多 {self.files.limit:,} 字节。",
                ),
                code="file_too_large",
                param="bytes",
            )
        with self.records.session() as session:
            upload = UploadInParts(
                id=new_id("upload", "_"),
                key_id=key_id,
                filename=filename,
                purpose=purpose,
                bytes=bytes,
                file_seconds=file_seconds,
                expires=now() + SECONDS,
            )
            session.add(upload)
        return upload

    def find(self, key_id: str, id: str) -> UploadInParts:
        """Return an upload. Raise ApiError 404."""
        with self.records.reading() as session:
            upload = session.get(UploadInParts, id)
        if upload is None or upload.key_id != key_id:
            raise ApiError(
                404,
                say(f"There is no upload {id[:64]!r}.", f"没有上传 {id[:64]!r}。"),
                code="upload_not_found",
                param="upload_id",
            )
        if upload.status == "pending" and upload.expires <= now():
            upload.status = "expired"
        return upload

    def pending(self, key_id: str, id: str) -> UploadInParts:
        """Return an upload that still takes parts. Raise ApiError 404, or 400 for one
        that has ended.
        """
        upload = self.find(key_id, id)
        if upload.status != "pending":
            raise ended(upload)
        return upload

    def add_part(self, upload: UploadInParts, arrived: Upload) -> str:
        """Keep a part that has arrived; return its id. Raise ApiError 400 where the
        parts come to more than was announced.
        """
        with self.records.reading() as session:
            total = select(func.coalesce(func.sum(File.bytes), 0)).where(
                File.purpose == PART_PURPOSE, File.filename == upload.id
            )
            size = int(session.scalar(total) or 0) + arrived.size
        if size > upload.bytes:
            raise ApiError(
                400,
                say(
                    f"With this part there are {size:,} bytes; {upload.bytes:,} were announced.",
                    f"加上这一部分共 {size:,} 字节，超过申明的 {upload.bytes:,} 字节。",
                ),
                param="data",
            )
        part = arrived.keep(upload.key_id, upload.id, PART_PURPOSE, upload.expires)
        return part_id(part.id)

    def complete(
        self,
        key_id: str,
        id: str,
        part_ids: Sequence[str],
        md5: str | None = None,
        check: Check | None = None,
    ) -> File:
        """Put the parts together in this order, as a file. Raise ApiError for parts that
        are missing, given twice or of another length or sum than was announced.
        """
        upload = self.pending(key_id, id)
        parts = [self._part(upload, part) for part in part_ids]
        size = sum(part.bytes for part in parts)
        if size != upload.bytes or len(set(part_ids)) != len(part_ids):
            raise ApiError(
                400,
                say(
                    f"The {len(part_ids)} parts have {size:,} bytes; {upload.bytes:,} "
                    "were announced. Name each part once.",
                    f"{len(part_ids)} 个部分共 {size:,} 字节，申明为 {upload.bytes:,} 字节。每个部分只列一次。",
                ),
                param="part_ids",
            )
        digest = hashlib.md5(usedforsecurity=False)
        with self.files.upload() as whole:
            for part in parts:
                with self.files.path(part.id).open("rb") as handle:
                    while piece := handle.read(PIECE):
                        digest.update(piece)
                        whole.write(piece)
            if md5 is not None and md5.lower() != digest.hexdigest():
                raise ApiError(
                    400,
                    say(
                        f"The file's MD5 is {digest.hexdigest()}, not {md5[:64]!r}.",
                        f"文件的 MD5 为 {digest.hexdigest()}，而不是 {md5[:64]!r}。",
                    ),
                    param="md5",
                )
            seconds = upload.file_seconds
            file = whole.keep(
                key_id,
                upload.filename,
                upload.purpose,
                None if seconds is None else now() + seconds,
                check,
            )
        if not self._end(upload, "completed", file.id):
            # Another request ended it while this one was reading.
            self.files.remove(file.id)
            raise ended(self.find(key_id, id))
        return file

    def cancel(self, key_id: str, id: str) -> UploadInParts:
        """Take no more parts, and remove those that came. Raise ApiError 400 for an
        upload that has ended.
        """
        upload = self.pending(key_id, id)
        if not self._end(upload, "cancelled", None):
            raise ended(self.find(key_id, id))
        return self.find(key_id, id)

    def sweep(self) -> None:
        """Forget what ended long ago."""
        with self.records.session() as session:
            session.execute(
                delete(UploadInParts).where(
                    UploadInParts.expires < now() - KEPT_SECONDS
                )
            )

    def _part(self, upload: UploadInParts, id: str) -> File:
        """The file of a part. Raise ApiError 400 for that of another upload."""
        file_id = id.replace("part_", "file-", 1)
        try:
            file = self.files.find(file_id, upload.key_id, is_part=True)
        except ApiError:
            file = None
        if file is None or file.filename != upload.id:
            raise ApiError(
                400,
                say(
                    f"{id[:64]!r} is no part of this upload.",
                    f"{id[:64]!r} 不是此上传的部分。",
                ),
                param="part_ids",
            )
        return file

    def _end(self, upload: UploadInParts, status: str, file_id: str | None) -> bool:
        """End an upload that is pending, and remove its parts; return whether it was."""
        with self.records.session() as session:
            ended_here = session.execute(
                update(UploadInParts)
                .where(UploadInParts.id == upload.id, UploadInParts.status == "pending")
                .values(status=status, file_id=file_id)
                .returning(UploadInParts.id)
            ).first()
            parts = session.scalars(
                select(File.id).where(
                    File.purpose == PART_PURPOSE, File.filename == upload.id
                )
            ).all()
        if ended_here is None:
            return False
        for part in parts:
            self.files.remove(part)
        return True


def part_id(file_id: str) -> str:
    return file_id.replace("file-", "part_", 1)


def ended(upload: UploadInParts) -> ApiError:
    return ApiError(
        400,
        say(
            f"This upload is {upload.status}; start another.",
            f"此上传的状态为 {upload.status}；请重新开始。",
        ),
        code="upload_ended",
        param="upload_id",
    )
