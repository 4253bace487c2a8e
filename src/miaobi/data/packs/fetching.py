"""Downloading packs with the ordinary package clients, checked and unpacked.

Nothing of a package is ever run: wheels only, no install scripts, and of the archive
only the files that the catalogue names are written, as plain files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path

from miaobi.core.errors import Damaged, MiaobiError, MissingPart
from miaobi.core.files import explain_refusal, locked, write_beside
from miaobi.core.language import say
from miaobi.data.archives import unpack_package
from miaobi.data.packs.entries import Joined, Pack, Package, catalogue
from miaobi.data.packs.storage import (
    content_of,
    folder_of,
    is_installed,
    write_stamp,
)
from miaobi.data.progress import Bar, bar

POLL = 0.1
"""Seconds between two looks at a running client."""
ARCHIVES = (".whl", ".tgz", ".deb")


class Unreachable(MiaobiError):
    """A package client could not download a package."""

    code, exit_code = "unreachable", 69


def fetch(pack: Pack, progress: Bar | None = None) -> None:
    """Download, check and unpack a pack into its folder; where another process is doing
    so, wait for it and take what it brought.

    `progress` is called with megabytes; what it raises stops the download, of which
    nothing stays. Without it, there is a bar on stderr.

    Raises MissingPart without the package client; Unreachable when the client downloads
    nothing; Damaged when the content is not what the catalogue names.
    """
    target = folder_of(pack)
    with explain_refusal(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent, on_wait=lambda: _print_waiting(pack)):
        if not is_installed(pack):
            with nullcontext(progress) if progress else bar() as callback:
                _fetch(pack, target, callback)


def _print_waiting(pack: Pack) -> None:
    text = say(
        f"Another process is fetching {pack.name}; waiting for it.",
        f"另一个进程正在获取 {pack.name}，请稍候。",
    )
    print(text, file=sys.stderr)


def _fetch(pack: Pack, target: Path, progress: Bar) -> None:
    print(
        say(
            f"Fetching {pack.name} ({pack.megabytes:.1f} MB) with "
            f"{pack.client}. Licence: {pack.licence}. From: {pack.credit}",
            f"正在用 {pack.client} 获取 {pack.name}（{pack.megabytes:.1f} "
            f"MB）。许可：{pack.licence}。来源：{pack.credit}",
        ),
        file=sys.stderr,
    )
    packages: tuple[Pack | Package, ...] = (pack, *pack.more)
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as downloads,
        write_beside(target) as draft,
    ):
        for package in packages:
            download = Path(downloads) / package.package.replace("/", "-")
            download.mkdir()
            archive = _download(pack, package, download, progress)
            _check_archive(package, archive)
            folder = draft if package is pack else draft / package.package
            folder.mkdir(parents=True)
            unpack_package(archive, package.keep, folder)
        for joined in pack.joined:
            _join(draft, joined)
        _check(pack, content_of(draft), pack.content)
        write_stamp(pack, draft)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one


def _join(folder: Path, joined: Joined) -> None:
    """Write a file of its parts, and remove these."""
    with (folder / joined.file).open("xb") as whole:
        for part in joined.parts:
            with (folder / part).open("rb") as content:
                shutil.copyfileobj(content, whole)
            (folder / part).unlink()


def _check_archive(package: Pack | Package, archive: Path) -> None:
    if package.archive:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _check(package, digest, package.archive)


def _check(package: Pack | Package, digest: str, expected: str) -> None:
    if digest != expected:
        raise Damaged(
            say(
                f"{package.client} brought other content for {package.package} {package.version} than the catalogue "
                f"names (SHA-256 {digest[:16]}…, expected {expected[:16]}…).",
                f"{package.client} 取得的 {package.package} {package.version} "
                f"与目录记录不符（SHA-256 {digest[:16]}…，应为 {expected[:16]}…）。",
            ),
            say(
                "Nothing was kept. Check the package mirror in use, or update miaobi.",
                "未保留任何内容。请检查所用的软件源，或更新 miaobi。",
            ),
        )


def _command(package: Pack | Package, folder: Path) -> list[str]:
    """The command that downloads a package's archive into `folder`."""
    if package.client == "pip":
        platform = ["--platform", package.platform] if package.platform else []
        return [
            sys.executable,
            *("-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *platform,
            *("--disable-pip-version-check", "--progress-bar=off"),
            *("--dest", str(folder)),
            f"{package.package}=={package.version}",
        ]
    if package.client == "npm":
        return [
            *("npm", "pack", "--ignore-scripts", "--silent"),
            *("--pack-destination", str(folder)),
            f"{package.package}@{package.version}",
        ]
    return ["apt-get", "download", package.package]


def _download(pack: Pack, package: Pack | Package, folder: Path, progress: Bar) -> Path:
    """Return the archive of `package`, a part of `pack`, downloaded into `folder`."""
    command = _command(package, folder)
    _check_client(pack, package, command[0])
    code, output = _run(command, folder, pack, progress)
    archives = [file for file in folder.iterdir() if file.suffix in ARCHIVES]
    if code or len(archives) != 1:
        program, last = " ".join(command[:3]), " | ".join(output[-3:])
        raise Unreachable(
            say(
                f"{program} … could not bring {package.package} "
                f"{package.version}: {last or 'no message'}",
                f"{program} … 无法取得 {package.package} {package.version}：{last or '无输出'}",
            ),
            say(
                "Check the network, or the mirror that the client is set to; with apt, run `apt-get update` first.",
                "请检查网络或该工具所用的镜像；使用 apt 时请先运行 apt-get update。",
            ),
        )
    return archives[0]


def _run(
    command: list[str], folder: Path, pack: Pack, progress: Bar
) -> tuple[int, list[str]]:
    """Run a client to its end. Return its exit code and its output without warnings."""
    with (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        client = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        try:
            while client.poll() is None:
                # Beside it lie the packages that were downloaded before.
                megabytes = _size_of(folder.parent) / 1e6
                progress(pack.name, min(megabytes, pack.megabytes), pack.megabytes)
                time.sleep(POLL)
        finally:
            client.kill()
            client.wait()
        log.seek(0)
        lines = log.read().splitlines()
    output = [line for line in lines if line.strip()]
    output = [line for line in output if not line.startswith("WARNING")]
    return client.returncode, output


def _size_of(folder: Path) -> int:
    """Bytes of the files in a folder that a client is filling, and clearing: what
    vanishes while it is looked at counts as nothing.
    """
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(parent, name)).st_size
    return size


def _check_client(pack: Pack, package: Pack | Package, program: str) -> None:
    """Raise MissingPart where the package client is not installed."""
    without_pip = package.client == "pip" and find_spec("pip") is None
    if shutil.which(program) is not None and not without_pip:
        return
    others = [
        other.name
        for other in catalogue().values()
        if other.client == "pip" and _serves_as(other, pack)
    ]
    if others:
        choice = say(
            f", or take a pack that pip alone brings: {', '.join(others)}.",
            f"，或使用只需 pip 的资源包：{'、'.join(others)}。",
        )
    else:
        choice = say(".", "。")
    raise MissingPart(
        say(
            f"{pack.name} comes by {package.client}, which is not installed.",
            f"{pack.name} 需要 {package.client}，但尚未安装。",
        ),
        say(
            f"Install {package.client} (python -m ensurepip for pip)",
            f"请安装 {package.client}（pip 可用 python -m ensurepip）",
        )
        + choice,
    )


def _serves_as(other: Pack, pack: Pack) -> bool:
    """Whether one pack can stand in for another: kind, modality and format agree."""
    return (other.kind, other.modality, other.format) == (
        pack.kind,
        pack.modality,
        pack.format,
    )
