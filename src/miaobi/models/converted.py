"""Conversions of a model's files for one engine: made on first use, stored under
$MIAOBI_HOME/converted.
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

BYTES_PER_PARAMETER = 3.4
"""Of disk while OpenVINO's copy is made: a copy in q8_0, GenAI's graph, and the result
(3.25 measured).
"""
LAYOUTS = ("LlamaForCausalLM", "Qwen3ForCausalLM")


def fits(weights: Weights) -> bool:
    """Return whether the bundle's model has a GGUF layout."""
    config: Mapping[str, Any] = {}
    path = weights.path / "config.json"
    if weights.family == FAMILY:
        config = _writing_config(open_tuned(weights))
    elif path.exists():  # which only families in Transformers' layout write
        config = read_json(path)
    return any(kind in LAYOUTS for kind in config.get("architectures") or ())


def _writing_config(tuned: Tuned) -> Mapping[str, Any]:
    """Return config.json of a tuned causal language model.

    Empty for other models, and where the adapter cannot be merged.
    """
    if not tuned.writes or tuned.adapter.get("peft_type") in UNMERGEABLE:
        return {}
    return tuned.config


def pending(weights: Weights) -> bool:
    """Return whether an adapter has yet to be merged and converted.

    That takes long, and a copy of the base.
    """
    if weights.family != FAMILY or not open_tuned(weights).adapter:
        return False
    return not _gguf_path(weights, "f16").exists()


def gguf_of(weights: Weights, dtype: Literal["f16", "q8_0"] = "f16") -> Path:
    """Return the GGUF of a bundle, with its adapter merged in where it has one."""
    from miaobi.models.convert import to_gguf

    target = _gguf_path(weights, dtype)
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


def _gguf_path(weights: Weights, dtype: str) -> Path:
    """Return where the GGUF is stored.

    The name depends on the bytes that are converted, so an altered bundle is converted
    anew.
    """
    digest = hashlib.sha256(dtype.encode())
    if weights.family == FAMILY:
        tuned = open_tuned(weights)
        if tuned.adapter:
            digest.update(tuned.base.identity.encode())
    for file in sorted(weights.path.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja"):
            digest.update(file.name.encode())
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    name = weights.name.replace("/", "_")
    return home() / "converted" / digest.hexdigest()[:24] / f"{name}.gguf"


def as_openvino(path: Path) -> Path:
    """Return the folder that OpenVINO runs a GGUF file from.

    The file is identified by size and time, since hashing gigabytes takes long. Raises
    RuntimeError with OpenVINO's own words where it cannot read the file, DoesNotFit where
    the disk is too full.
    """
    facts = path.stat()
    identity = f"rows {path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
    target = home() / "converted" / digest / f"{path.stem}.openvino"
    with explain_refusal(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):  # one process converts, the others wait
        if not target.exists():
            _check_disk(path, target.parent)
            print(
                say(
                    f"Preparing {path.name} for OpenVINO, once ...",
                    f"正在为 OpenVINO 准备 {path.name}（仅此一次）...",
                ),
                file=sys.stderr,
            )
            with write_beside(target) as draft:
                _convert_rows(path, draft)
    return target


def _check_disk(path: Path, folder: Path) -> None:
    """Raise DoesNotFit before anything is written.

    For a full disk, numpy and OpenVINO have error messages that do not say so.
    """
    needed = BYTES_PER_PARAMETER * gguf.read(path).parameters
    free = shutil.disk_usage(folder).free
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


def _convert_rows(path: Path, folder: Path) -> None:
    """Run openvino_rows in a process of its own. Raises RuntimeError with its message."""
    program = [sys.executable, "-P", "-m", "miaobi.models.openvino_rows"]
    process = subprocess.run([*program, path, folder], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(
            process.stderr.strip()
            or f"the process that reads it ended ({process.returncode})"
        )
