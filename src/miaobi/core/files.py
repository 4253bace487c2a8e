"""Writing so that nothing half-written is ever seen: beside the target, flushed, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from miaobi.core import machine
from miaobi.core.errors import BadInput, DoesNotFit
from miaobi.core.language import say

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's errors for a full disk, or a full quota."""


def home() -> Path:
    """Return the folder of models, packs and prepared data: $MIAOBI_HOME, or
    ~/.cache/miaobi.

    Raises BadInput for a URL: the database, prepared data and copies have to be here.
    """
    folder = os.environ.get("MIAOBI_HOME") or "~/.cache/miaobi"
    if "://" in folder:
        raise BadInput(
            say(
                f"MIAOBI_HOME is {folder}, but what lies there (the database, prepared data, copies of models) "
                "has to be on this machine.",
                f"MIAOBI_HOME 为 {folder}，但其内容（数据库、准备好的数据、模型副本）必须保存在本机。",
            ),
            say(
                "Give a folder. Models and uploads may be elsewhere: set MIAOBI_STORAGE to a URL.",
                "请给出文件夹。模型与上传文件可以存于别处：将 MIAOBI_STORAGE 设为 URL。",
            ),
        )
    return Path(folder).expanduser()


@contextmanager
def write_beside(target: Path) -> Iterator[Path]:
    """Yield a draft path (file or folder, not yet there) that becomes `target` when the
    block ends without error.

    On any error, Ctrl-C included, the draft is removed and `target` is as it was.
    Raises DoesNotFit on a full disk, BadInput where one may not write.
    """
    with explain_refusal(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        with explain_refusal(target):
            yield draft
            _flush(draft)
            os.replace(draft, target)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


@contextmanager
def explain_refusal(target: Path) -> Iterator[None]:
    """Turn the system's error about a full disk, while writing `target`, into
    DoesNotFit; about missing rights, or a file where a folder should be, into BadInput.
    """
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise BadInput(
            say(
                f"{target} cannot be written: {error.strerror}.",
                f"无法写入 {target}：{error.strerror}。",
            ),
            say("Choose a folder you may write to.", "请选择有写入权限的位置。"),
        ) from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(target.parent).free
        raise DoesNotFit(
            say(
                f"The disk is full: {target} could not be written ({free / 1e6:,.0f} MB free).",
                f"磁盘已满：无法写入 {target}（剩余 {free / 1e6:,.0f} MB）。",
            ),
            say(
                "Free some space, or point MIAOBI_HOME at another disk.",
                "请清理空间，或把 MIAOBI_HOME 指向别的磁盘。",
            ),
        ) from None


def _flush(path: Path) -> None:
    """Force files to the disk: they are whole after a power cut that follows the rename."""
    files = path.rglob("*") if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            machine.flush(file)


@contextmanager
def locked(path: Path, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Within: no other process is inside `locked` of the same path.

    Args:
        path: a folder, or a file, which is made where it is missing
        on_wait: called once when another process is inside, before waiting for it
    """
    handle = machine.open_to_lock(path)
    try:
        if on_wait is not None:
            try:
                machine.lock(handle, wait=False)
            except BlockingIOError:
                on_wait()
        machine.lock(handle)
        yield
    finally:
        os.close(handle)


def write_text(target: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with write_beside(target) as draft:
        draft.write_text(text, encoding="utf-8")
