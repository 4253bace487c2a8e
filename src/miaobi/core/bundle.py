"""A bundle: a model folder in its ecosystem's own layout, plus `miaobi.json`, which
says where it came from.

Transformers, llama.cpp's converter, vLLM and OpenVINO read the folder as they read any
other; miaobi.json is ours.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from miaobi.core import storage
from miaobi.core.errors import Damaged, NotFound
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.core.storage import Location
from miaobi.core.version import __version__

FORMAT = 1
MANIFEST = "miaobi.json"


@dataclass(frozen=True, eq=False)
class Manifest:
    """What miaobi.json says. Two readings of a file are two manifests."""

    family: str
    modality: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration of the run that trained it."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fingerprint, source and folder of the prepared data."""
    resumed: Sequence[Mapping[str, Any]] = ()
    """Settings of the recipe that changed while it was trained, since it was resumed
    with others: {"step": from which on, "changed": {key: [before, after]}}.
    """
    metrics: Mapping[str, float] = field(default_factory=dict)
    controls: Sequence[str] | None = None
    """Fields of a request that the model supports, of those that depend on the model;
    None where that is not known.
    """
    parents: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every file that decides what the model gets: tokenizer, chat template,
    preprocessing.
    """
    code_version: str = __version__
    created: str = ""
    format: int = FORMAT


HASHED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
)


def write(folder: Path, manifest: Manifest, save: Callable[[Path], None]) -> Path:
    """Write a bundle, whole or not at all.

    Args:
        folder: must not exist.
        manifest: its hashes and its time of creation are filled in.
        save: writes the model's files into an empty folder.
    """
    with write_beside(folder) as draft:
        draft.mkdir()
        save(draft)
        hashes = {
            name: hashlib.sha256((draft / name).read_bytes()).hexdigest()
            for name in HASHED
            if (draft / name).exists()
        }
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = {**asdict(manifest), "hashes": hashes, "created": now}
        (draft / MANIFEST).write_text(
            json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8"
        )
    return folder


def read(folder: Location) -> Manifest:
    """Return the manifest of a bundle, after checking its files; of those at a URL
    the sizes are checked when they are fetched.

    Raises NotFound, or Damaged for a newer format, altered or cut-off files.
    """
    path = folder / MANIFEST
    try:
        content = storage.read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            say(
                f"{folder} is not a miaobi bundle: it has no {MANIFEST}.",
                f"{folder} 不是 miaobi 模型包：缺少 {MANIFEST}。",
            ),
            say(
                "Name a folder that `miaobi train` wrote, or a model in `miaobi models list`.",
                "请给出 `miaobi train` 生成的文件夹，或 `miaobi models list` 中的模型。",
            ),
        ) from None
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise Damaged(
            say(
                f"{path} is not valid JSON: {error}.",
                f"{path} 不是有效的 JSON：{error}。",
            ),
            say("Restore the file or train again.", "请恢复该文件或重新训练。"),
        ) from None
    if raw.get("format", 0) > FORMAT:
        writer = raw.get("code_version", "?")
        raise Damaged(
            say(
                f"{folder} was written by a newer miaobi ({writer}, format "
                f"{raw['format']}); this one reads up to {FORMAT}.",
                f"{folder} 由更新版本的 miaobi（{writer}，格式 {raw['format']}）写成；"
                f"当前版本只支持到 {FORMAT}。",
            ),
            "pip install --upgrade miaobi",
        )
    values = {
        item.name: raw[item.name] for item in fields(Manifest) if item.name in raw
    }
    values["parents"] = tuple(raw.get("parents", ()))
    manifest = Manifest(**values)
    if isinstance(folder, Path):
        _check_files(folder, manifest)
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> None:
    for name, expected in manifest.hashes.items():
        check_hash(folder / name, expected)
    for weights in folder.glob("*.safetensors"):
        check_safetensors(weights)


def check_hash(path: Path, expected: str) -> None:
    """Raise Damaged when a file's SHA-256 is not `expected`."""
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise Damaged(
            say(
                f"{path} is not the file this bundle was made with.",
                f"{path} 与模型包生成时的文件不一致。",
            ),
            say(
                "Restore it: another tokenizer or template would silently change every answer.",
                "请恢复该文件：换了分词器或模板，模型的回答会悄悄改变。",
            ),
        )


def check_safetensors(path: Path) -> None:
    """Raise Damaged when a safetensors file is shorter than its header promises
    (format: huggingface/safetensors).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            raise _cut_short(path, size, 8 + length)
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data_size = max((item["data_offsets"][1] for item in header.values()), default=0)
    expected = 8 + length + data_size
    if size < expected:
        raise _cut_short(path, size, expected)


def _cut_short(path: Path, size: int, expected: int) -> Damaged:
    return Damaged(
        say(
            f"{path} is cut short: {size:,} bytes where its header promises at least {expected:,}.",
            f"{path} 不完整：只有 {size:,} 字节，文件头标明至少 {expected:,} 字节。",
        ),
        say("Copy or download it again.", "请重新复制或下载。"),
    )
