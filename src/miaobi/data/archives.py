"""Pictures that came in one file: a ZIP archive unpacked into a folder, with nothing
taken from it on trust.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from miaobi.core.errors import BadInput
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.data.image.folders import METADATA, is_hidden, is_picture, visible

PIECE = 1 << 20


def unpack_pictures(
    archive: Path, target: Path, most_bytes: int, most_files: int = 1_000_000
) -> Path:
    """Write the archive's pictures and their metadata to the folder `target`, whole or
    not at all; everything else in it is left out.

    Args:
        archive: a ZIP file
        target: a folder; where it is there already, nothing is unpacked
        most_bytes: of everything unpacked, counted as it is written, whatever the archive says of itself
        most_files: entries of the archive

    Returns:
        The folder that holds the pictures: `target`, or the one folder in it when
            everything lies in one.

    Raises:
        BadInput: for what is no whole ZIP, holds no pictures, is encrypted, leads out
            of the folder or is larger than allowed
    """
    if not target.exists():
        with write_beside(target) as draft:
            draft.mkdir()
            try:
                with zipfile.ZipFile(archive) as opened:
                    _write(archive, opened, draft, most_bytes, most_files)
            except (
                zipfile.BadZipFile,
                zlib.error,
                EOFError,
                NotImplementedError,
                UnicodeDecodeError,
            ) as error:
                raise _bad(
                    archive,
                    say(
                        f"it is not a sound ZIP file ({error}).",
                        f"不是完好的 ZIP 文件（{error}）。",
                    ),
                ) from None
            if not any(map(is_picture, visible(draft))):
                raise _bad(archive, say("it holds no pictures.", "其中没有图片。"))
    inside = list(target.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else target


def _write(
    archive: Path,
    opened: zipfile.ZipFile,
    folder: Path,
    most_bytes: int,
    most_files: int,
) -> None:
    entries = opened.infolist()
    if len(entries) > most_files:
        raise _bad(
            archive,
            say(
                f"it has {len(entries):,} entries, more than {most_files:,}.",
                f"含 {len(entries):,} 个条目，超过 {most_files:,}。",
            ),
        )
    left = most_bytes
    for entry in entries:
        place = PurePosixPath(entry.filename)
        if (
            place.is_absolute()
            or ".." in place.parts
            or "\\" in entry.filename
            or ":" in entry.filename
        ):
            raise _bad(
                archive,
                say(
                    f"the name {entry.filename[:100]!r} leads out of it.",
                    f"名称 {entry.filename[:100]!r} 指向压缩包之外。",
                ),
            )
        wanted = is_picture(place) or place.name in METADATA
        link = stat.S_ISLNK(entry.external_attr >> 16)
        if entry.is_dir() or link or not wanted or is_hidden(place):
            continue
        if entry.flag_bits & 1:
            raise _bad(archive, say("it is encrypted.", "已加密。"))
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, path.open("xb") as file:
            while piece := source.read(PIECE):
                left -= len(piece)
                if left < 0:
                    raise _bad(
                        archive,
                        say(
                            f"it unpacks to more than {most_bytes:,} bytes.",
                            f"解压后超过 {most_bytes:,} 字节。",
                        ),
                    )
                file.write(piece)


def _bad(archive: Path, what: str) -> BadInput:
    return BadInput(
        say(
            f"{archive.name} cannot be used: {what}", f"无法使用 {archive.name}：{what}"
        ),
        say(
            "Pack a folder of PNG, JPEG or WebP files anew, with folders for "
            "classes or metadata.csv where you have them.",
            "请重新打包 PNG、JPEG 或 WebP 图片文件夹；如有类别文件夹或 metadata.csv 请一并放入。",
        ),
    )
