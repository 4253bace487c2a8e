"""Exports that are folders: Transformers' layout, or an adapter in PEFT's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from miaobi.core.errors import Unsupported
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.verbs.export.exported import Exported

if TYPE_CHECKING:
    from miaobi.core.engine import Weights
    from miaobi.models.tuned import Tuned


def to_folder(weights: Weights, adapter: Tuned | None, target: Path) -> Exported:
    """Copy a Transformers folder, or an adapter as it is. Raises Unsupported."""
    from miaobi.models.convert import check_vocabulary

    label = weights.label
    architecture = architecture_of(weights.path)
    if not architecture and not adapter:
        raise Unsupported(
            say(
                f"{label} is of a family ({weights.family}) that Transformers does not have.",
                f"{label} 属于 Transformers 不支持的模型类别（{weights.family}）。",
            ),
            say(
                f"Use it here, try --to onnx, or copy the folder as it is: {weights.path}",
                f"请在此使用，或试用 --to onnx，或直接复制该文件夹：{weights.path}",
            ),
        )
    if not adapter:
        check_vocabulary(weights.path)
    with write_beside(target) as draft:
        shutil.copytree(weights.path, draft)
        if target.exists():
            shutil.rmtree(target)
    return Exported(
        model=label,
        path=target,
        format="peft" if adapter else "transformers",
        dtype="",
        bytes=size_of(target),
        architecture=architecture,
    )


def to_merged_folder(tuned: Tuned, target: Path) -> Exported:
    """Write a Transformers folder of a base with its adapter merged in."""
    with merged(tuned, target) as folder:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(folder, target)
    return Exported(
        model=tuned.label,
        path=target,
        format="transformers",
        dtype="",
        bytes=size_of(target),
        architecture=architecture_of(target),
    )


@contextmanager
def merged(tuned: Tuned, target: Path) -> Iterator[Path]:
    """Within: a temporary folder of the merged weights, beside the target."""
    from miaobi.models.merging import merge
    from miaobi.tune.saved import learner_of

    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".merging-") as folder:
        adapted = None if tuned.writes else learner_of(tuned).net
        yield merge(tuned, Path(folder) / tuned.weights.name, adapted)


def architecture_of(folder: Path) -> str:
    """Return the class that config.json names; empty where there is none."""
    from miaobi.models.weights import read_json

    path = folder / "config.json"
    if not path.exists():
        return ""
    architectures = read_json(path).get("architectures") or [""]
    return str(architectures[0])


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
