"""Files that callers upload and jobs make: bytes in one folder, names of our making, a
record for each.

    server/files/file-019a...          the bytes, never run and never unpickled
    server/files/.file-019a....part    arriving; locked while it is written

The folder is under $MIAOBI_HOME, or under $MIAOBI_STORAGE, which may be a URL: then files
arrive here and are copied there.

A file is there when both bytes and record are. Bytes come first (written beside,
flushed, renamed), then the record; when a file goes, the record goes first. So whatever
kills the server leaves at most bytes without a record, which `sweep` removes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from sqlalchemy import delete, select

from miaobi.core import machine, storage
from miaobi.core.errors import NotFound
from miaobi.core.files import FULL
from miaobi.core.language import say
from miaobi.core.storage import Location, Url
from miaobi.serve.database import Records
from miaobi.serve.errors import ApiError
from miaobi.serve.records import File, new_id, now
from miaobi.serve.settings import Settings

log = logging.getLogger("miaobi.serve")

ID = re.compile(r"file-[0-9a-f]{28}")
PART = re.compile(r"\.(file-[0-9a-f]{28})\.part")
PAGE = 10_000
PART_PURPOSE = "upload-part"
"""The purpose of a part of a file (parts.py). Nobody else sees those."""
ABANDONED_SECONDS = 86_400
"""After so long, bytes at a URL without a record belong to nobody."""
Check = Callable[[Path], None]
"""Raises ApiError for bytes that cannot be what they are said to be."""


class Files:
    def __init__(
        self, records: Records, folder: Path, limit: int, where: Location | None = None
    ) -> None:
        """Args:
        records: the database.
        folder: where files arrive.
        limit: bytes of one file.
        where: where their bytes are kept, a URL; by default that folder.
        """
        self.records = records
        self.folder = folder
        self.limit = limit
        self.where = where or folder
        self.has_folder = storage.exists(self.where)
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of(cls, records: Records, settings: Settings) -> Files:
        """Return the files of a server."""
        where = settings.files
        folder = where if isinstance(where, Path) else settings.folder / "files"
        return cls(records, folder, settings.limits.upload_bytes, where)

    def path(self, id: str) -> Path:
        """Return a file with the bytes on this machine. Raise ApiError 404 for anything
        but a plain file of ours.
        """
        if not ID.fullmatch(id):
            raise missing(id)
        try:
            path = storage.local(self.where / id)
        except NotFound:
            raise missing(id) from None
        if path.is_symlink() or not path.is_file():
            raise missing(id)
        return path

    def find(self, id: str, key_id: str, is_part: bool = False) -> File:
        """The record, for the key that made it. Raises ApiError 404: others' files are
        as if they were not.
        """
        with self.records.reading() as session:
            file = session.get(File, id) if ID.fullmatch(id) else None
        if (
            file is None
            or file.key_id != key_id
            or (file.purpose == PART_PURPOSE) != is_part
            or (file.expires is not None and file.expires <= now())
        ):
            raise missing(id)
        return file

    def listed(
        self,
        key_id: str,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = PAGE,
        newest_first: bool = True,
    ) -> list[File]:
        """One more than `limit` where there are more."""
        query = select(File).where(
            File.key_id == key_id,
            File.purpose != PART_PURPOSE,
            File.expires.is_(None) | (File.expires > now()),
        )
        if purpose is not None:
            query = query.where(File.purpose == purpose)
        if after is not None:
            query = query.where(File.id < after if newest_first else File.id > after)
        with self.records.reading() as session:
            return list(
                session.scalars(
                    query.order_by(File.id.desc() if newest_first else File.id).limit(
                        limit + 1
                    )
                )
            )

    def delete(self, id: str, key_id: str) -> None:
        self.find(id, key_id)
        self.remove(id)

    def remove(self, id: str) -> None:
        """Remove a file, whoever made it."""
        with self.records.session() as session:
            session.execute(delete(File).where(File.id == id))
        storage.delete(self.where / id)

    def upload(self, id: str | None = None) -> Upload:
        """Return a file to write to: `with files.upload() as upload:`. It is deleted at
        the end of the block unless `upload.keep` was called.
        """
        return Upload(self, id or new_id("file"))

    def put(
        self,
        source: Path,
        id: str,
        key_id: str,
        filename: str,
        purpose: str,
        expires: int | None = None,
    ) -> None:
        """A file that a job made, under the id that was set aside for it: once, however
        often it is asked.
        """
        with self.records.reading() as session:
            if session.get(File, id) is not None:
                return
        # Bytes of an attempt that was killed before its record.
        storage.delete(self.where / id)
        with self.upload(id) as upload, source.open("rb") as handle:
            while piece := handle.read(1 << 20):
                upload.write(piece)
            upload.keep(key_id, filename, purpose, expires)

    def sweep(self) -> None:
        """Remove what expired, bytes without a record, drafts whose writer is gone,
        records without bytes.
        """
        with self.records.reading() as session:
            expiries = {file.id: file.expires for file in session.scalars(select(File))}
        present = set(storage.names(self.where))
        for id, expires in expiries.items():
            if expires is not None and expires <= now():
                self.remove(id)
            elif self.has_folder and id not in present:
                log.warning(
                    "the bytes of a file are gone; so is its record now",
                    extra={"file": id},
                )
                self.remove(id)
        for path in self.folder.iterdir():
            if PART.fullmatch(path.name) or (
                ID.fullmatch(path.name) and path.name not in expiries
            ):
                self._remove_orphan(path)
        if isinstance(self.where, Url):
            for id in present - expiries.keys():
                self._remove_abandoned(self.where / id)

    def _remove_abandoned(self, file: Url) -> None:
        """Delete bytes at a URL whose record another server will no longer write."""
        with suppress(FileNotFoundError):  # another server was quicker
            if ID.fullmatch(file.name) and storage.age(file) > ABANDONED_SECONDS:
                storage.delete(file)

    def _remove_orphan(self, path: Path) -> None:
        try:
            handle = machine.open_file(path, os.O_RDONLY)
        except OSError:
            return
        try:
            machine.lock(handle, wait=False)
            with self.records.reading() as session:  # it may have been kept since
                if session.get(File, path.name) is None:
                    path.unlink(missing_ok=True)
        except BlockingIOError:
            return
        finally:
            os.close(handle)


class Upload:
    """A file that is arriving. Until it has a record, the lock on it keeps `sweep` from
    deleting it.
    """

    def __init__(self, files: Files, id: str) -> None:
        self.files = files
        self.id = id
        self.size = 0
        self.is_stored = False
        self.draft = files.folder / f".{id}.part"
        self._sha256 = hashlib.sha256()
        with disk_full():
            self._handle = self._locked()

    def _locked(self) -> int:
        while True:
            handle = machine.open_file(self.draft, os.O_RDWR | os.O_CREAT, 0o600)
            machine.lock(handle)
            try:
                if (
                    os.stat(self.draft).st_ino == os.fstat(handle).st_ino
                ):  # not swept away between the two lines above
                    os.ftruncate(handle, 0)
                    return handle
            except FileNotFoundError:
                pass
            os.close(handle)

    def write(self, data: bytes) -> None:
        """Append to the file. Raise ApiError 413 beyond the limit, 507 on a full disk."""
        self.size += len(data)
        if self.size > self.files.limit:
            raise ApiError(
                413,
                say(
                    f"A file may have {self.files.limit:,} bytes.",
                    f"单个文件最多 {self.files.limit:,} 字节。",
                ),
                code="file_too_large",
                param="file",
            )
        self._sha256.update(data)
        rest = memoryview(data)
        with disk_full():
            while rest:
                rest = rest[os.write(self._handle, rest) :]

    def keep(
        self,
        key_id: str,
        filename: str,
        purpose: str,
        expires: int | None = None,
        check: Check | None = None,
    ) -> File:
        """Flush, look it through, put it in its place, record it."""
        if check is not None:
            check(self.draft)
        target = self.files.where / self.id
        with disk_full():
            os.fsync(self._handle)
            if isinstance(target, Path):
                os.rename(self.draft, target)
                self.is_stored = True
            else:
                storage.put(self.draft, target)
            try:
                machine.flush_folder(self.files.folder)
                file = File(
                    id=self.id,
                    key_id=key_id,
                    filename=plain_name(filename),
                    purpose=purpose,
                    bytes=self.size,
                    sha256=self._sha256.hexdigest(),
                    expires=expires,
                )
                with self.files.records.session() as session:
                    session.add(file)
            except BaseException:
                storage.delete(target)
                raise
        return file

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        if not self.is_stored:
            self.draft.unlink(missing_ok=True)
        os.close(self._handle)
        return False


def to_object(file: File) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": file.expires,
    }


def missing(id: str) -> ApiError:
    return ApiError(
        404,
        say(f"There is no file {id[:64]!r}.", f"没有文件 {id[:64]!r}。"),
        code="file_not_found",
        param="file_id",
    )


def plain_name(name: str) -> str:
    """The last part of a file's name, without anything that could steer a terminal or a
    header. A label only: nothing is opened by it.
    """
    last = re.split(r"[/\\]", name)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:200] or "file"


@contextmanager
def disk_full() -> Iterator[None]:
    """Tell a full disk as such: 507, and no path in the words."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ApiError(
            507,
            say(
                "The server's disk is full; nothing of this file was kept. "
                "Delete files (DELETE /v1/files/ID) or ask the operator.",
                "服务器磁盘已满，此文件未保存。请删除旧文件（DELETE /v1/files/ID）或联系管理员。",
            ),
            code="disk_full",
        ) from None
