"""Files that an engine reads better than the ones at hand: made on first use, kept
under $MIAOBI_HOME/converted.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from miaobi.core import gguf
from miaobi.core.engine import Weights
from miaobi.core.errors import DoesNotFit
from miaobi.core.files import explain_refusal, home, locked, write_beside
from miaobi.core.language import say
from miaobi.models.tuned import FAMILY, UNMERGEABLE, Tuned, open_tuned
from miaobi.models.weights import read_json

ROOM = 3.4
"""Bytes of disk for each parameter while OpenVINO's copy is made: a copy in q8_0, the
graph as GenAI leaves it, and the result (3.25 measured).
"""
LAYOUTS = ("LlamaForCausalLM", "Qwen3ForCausalLM")


def fits(weights: Weights) -> bool:
    """Whether the bundle's model has a GGUF layout."""
    if weights.modality != "text":
        return False
    config = (
        read_json(weights.path / "config.json")
        if weights.family != FAMILY
        else _written(open_tuned(weights))
    )
    return any(kind in LAYOUTS for kind in config.get("architectures") or ())


def _written(tuned: Tuned) -> Mapping[str, Any]:
    """config.json of a tuned causal language model; empty for one that has no place for
    its adapter in its weights.
    """
    return (
        tuned.config
        if tuned.writes and tuned.adapter.get("peft_type") not in UNMERGEABLE
        else {}
    )


def pending(weights: Weights) -> bool:
    """Whether a tuned model's adapter would have to be merged and converted first,
    which takes long and a copy of the base.
    """
    return (
        weights.family == FAMILY
        and bool(open_tuned(weights).adapter)
        and not _place(weights, "f16").exists()
    )


def gguf_of(weights: Weights, dtype: Literal["f16", "q8_0"] = "f16") -> Path:
    """The GGUF of a bundle, with its adapter merged in where it has one."""
    from miaobi.models.convert import to_gguf

    target = _place(weights, dtype)
    if target.exists():
        return target
    tuned = open_tuned(weights) if weights.family == FAMILY else None
    if tuned is None or not tuned.adapter:
        return to_gguf(weights.path, target, dtype)
    from miaobi.models.merging import merge

    print(
        say(
            f"Merging {weights.label} into {tuned.base.name} for this engine, once ...",
            f"正在为该引擎把 {weights.label} 并入 {tuned.base.name}（仅此一次）...",
        ),
        file=sys.stderr,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:
        return to_gguf(merge(tuned, Path(folder) / weights.name), target, dtype)


def _place(weights: Weights, dtype: str) -> Path:
    """The name follows the bytes it is made from, so an altered bundle is converted anew."""
    digest = hashlib.sha256(dtype.encode())
    if weights.family == FAMILY and (tuned := open_tuned(weights)).adapter:
        digest.update(tuned.base.identity.encode())
    for file in sorted(weights.path.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja"):
            digest.update(file.name.encode())
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return (
        home()
        / "converted"
        / digest.hexdigest()[:24]
        / f"{weights.name.replace('/', '_')}.gguf"
    )


def _check_room(path: Path, place: Path) -> None:
    """Beforehand: whoever writes, numpy or OpenVINO, has words of its own for a full
    disk, or none that say so.
    """
    needed, free = ROOM * gguf.read(path).parameters, shutil.disk_usage(place).free
    if free < needed:
        raise DoesNotFit(
            say(
                f"OpenVINO's copy of {path.name} takes {needed / 1e6:,.0f} MB "
                f"of disk while it is made; {free / 1e6:,.0f} MB are free.",
                f"为 OpenVINO 准备 {path.name} 需要 {needed / 1e6:,.0f} MB 磁盘空间，剩余 {free / 1e6:,.0f} MB。",
            ),
            say(
                "Free some space, point MIAOBI_HOME at another disk, or use --engine llamacpp.",
                "请清理空间，把 MIAOBI_HOME 指向别的磁盘，或使用 --engine llamacpp。",
            ),
        )


def as_openvino(path: Path) -> Path:
    """The folder that OpenVINO runs a GGUF file from; told from other files of the name
    by size and time, since hashing gigabytes takes long.

    Raises RuntimeError with OpenVINO's own words where it cannot read the file,
    DoesNotFit where the disk has no room.
    """
    facts = path.stat()
    digest = hashlib.sha256(
        f"rows {path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()
    ).hexdigest()[:24]
    target = home() / "converted" / digest / f"{path.stem}.openvino"
    with explain_refusal(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):  # whoever else wants it waits, and finds it
        if not target.exists():
            _check_room(path, target.parent)
            print(
                say(
                    f"Preparing {path.name} for OpenVINO, once ...",
                    f"正在为 OpenVINO 准备 {path.name}（仅此一次）...",
                ),
                file=sys.stderr,
            )
            with write_beside(target) as draft:
                done = subprocess.run(
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "miaobi.models.openvino_rows",
                        path,
                        draft,
                    ],
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    raise RuntimeError(
                        done.stderr.strip()
                        or f"the process that reads it ended ({done.returncode})"
                    )
    return target
