"""An export by `miaobi export`, in this process: one file, a ZIP where it is a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

from miaobi.core.language import in_each, say
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.verbs.export import Exported, export

LARGE = 1 << 20
"""Bytes of a file that is not compressed: weights do not become smaller."""


def run(task: Task) -> Outcome:
    request = task.job.request
    model, to = request["model"], request["to"]
    task.record_event(
        say(
            f"Writing {model} as {to} and comparing its answers.",
            f"正在把 {model} 写为 {to} 并比对其输出。",
        )
    )
    exported = export(
        model,
        to=to,
        dtype=request["dtype"],
        merge=request["merge"],
        out=task.folder / "out" / _filename(request),
        overwrite=True,
    )
    path = exported.path
    if path.is_dir():
        path = _zipped(path)
    task.files.put(
        path,
        request["file"],
        task.job.key_id,
        path.name,
        "export",
        request["expires_at"],
    )
    size = path.stat().st_size
    return Outcome(
        say(
            f"Done: {path.name}, {size / 1e6:,.1f} MB.",
            f"完成：{path.name}，{size / 1e6:,.1f} MB。",
        ),
        {
            "file": request["file"],
            "filename": path.name,
            "bytes": size,
            "compared": _compared(exported),
        },
    )


def _filename(request: dict[str, object]) -> str:
    name = str(request["model"]).replace("@", "-").replace("/", "-")
    if request["merge"]:
        name += "-merged"
    if request["to"] == "gguf":
        return f"{name}.{request['dtype']}.gguf"
    return name if request["to"] == "transformers" else f"{name}-onnx"


def _compared(exported: Exported) -> list[str]:
    """What was compared with the original, a sentence each."""
    parts = [part for part in (exported.parity, exported.perplexity) if part]
    return [*(in_each(part.__str__) for part in parts), *exported.notes]


def _zipped(folder: Path) -> Path:
    target = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                is_large = file.stat().st_size > LARGE
                kind = zipfile.ZIP_STORED if is_large else zipfile.ZIP_DEFLATED
                archive.write(file, file.relative_to(folder.parent), kind)
    return target
