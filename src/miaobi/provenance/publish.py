"""Everything that was generated is written by `publish`, labelled, and encoded by `encode`.

The writer of an artifact's class decides what its files are and what several become.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from miaobi.core import storage
from miaobi.core.artifacts import Artifact
from miaobi.core.errors import Unsupported
from miaobi.core.files import locked, write_text
from miaobi.core.language import say
from miaobi.provenance import Writer, writers


def publish(artifact: Artifact | Sequence[Artifact], path: Path) -> Path:
    """Write one artifact, or several answers to the same request, to `path`.

    The ending decides the format. Several pictures become one sheet (.png, .jpg,
    .webp), an animation (.gif), or numbered files beside index.jsonl where `path` is a
    folder or has no ending. A file of that name is replaced; in a folder nothing is
    replaced, the numbers go on. Each file is written whole or not at all.

    Raises Unsupported for an ending or a kind of artifact that has no writer.
    """
    artifacts = [artifact] if isinstance(artifact, Artifact) else list(artifact)
    if is_folder(path, type(artifacts[0])):
        publish_each(artifacts, path)
    else:
        storage.write(path, encode(artifacts, path.suffix))
    return path


def encode(artifacts: Sequence[Artifact], ending: str) -> bytes:
    """Return the labelled file of one artifact, or of several. Raises Unsupported."""
    writer = _writer_of(artifacts)
    ending = ending.lower()
    if ending not in writer.ENDINGS:
        raise _unknown_ending(writer, ending)
    return writer.encode(artifacts, ending)


def check_ending(path: Path, kind: type[Artifact]) -> None:
    """Raise Unsupported for a path to which no artifact of this class can be written."""
    writer = writers.get(kind.__name__)
    if not is_folder(path, kind) and path.suffix.lower() not in writer.ENDINGS:
        raise _unknown_ending(writer, path.suffix)


def is_folder(path: Path, kind: type[Artifact]) -> bool:
    """Return whether artifacts for this path become numbered files of a folder: one that
    is there, or a name without an ending.
    """
    if kind.__name__ not in writers or not writers.get(kind.__name__).NUMBERED:
        return False
    return path.is_dir() or not path.suffix


def publish_each(artifacts: Sequence[Artifact], folder: Path) -> list[Path]:
    """Write 000.png, 001.png, ... and a line of index.jsonl for each; beside several
    pictures a sheet of them, sheet-000-015.png.

    Numbers go on after those that are in the folder.
    """
    writer = _writer_of(artifacts)
    ending = next(iter(writer.ENDINGS))
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # no number is used twice
        first = _next_number(folder)
        paths = list[Path]()
        index = folder / "index.jsonl"
        rows = index.read_text(encoding="utf-8").splitlines() if index.exists() else []
        for number, artifact in enumerate(artifacts, first):
            path = folder / f"{number:03d}{ending}"
            storage.write(path, writer.encode([artifact], ending))
            row = {"file": path.name, **writer.record(artifact)}
            rows.append(json.dumps(row, ensure_ascii=False))
            paths.append(path)
        write_text(index, "\n".join(rows) + "\n")
        # Only what can be seen at a glance has sheets.
        encode_sheet = getattr(writer, "encode_sheet", None)
        if encode_sheet and len(artifacts) > 1:
            numbers = [path.stem for path in paths]
            name = f"sheet-{numbers[0]}-{numbers[-1]}{ending}"
            storage.write(folder / name, encode_sheet(artifacts, numbers, ending))
    return paths


def _next_number(folder: Path) -> int:
    """One more than the highest number that names a file of the folder."""
    stems = [file.stem for file in folder.iterdir()]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]
    return max(numbers, default=-1) + 1


def _writer_of(artifacts: Sequence[Artifact]) -> Writer:
    """Return the writer of these artifacts. Raises Unsupported for several kinds."""
    kinds = sorted({type(artifact).__name__ for artifact in artifacts})
    if len(kinds) > 1 or kinds[0] not in writers:
        raise Unsupported(
            say(
                f"There is no writer for {' and '.join(kinds)} here.",
                f"此处无法写出 {'、'.join(kinds)}。",
            ),
            say(
                f"Publish each kind by itself: {', '.join(writers.names())}.",
                f"请按种类分别写出：{'、'.join(writers.names())}。",
            ),
        )
    return writers.get(kinds[0])


def _unknown_ending(writer: Writer, ending: str) -> Unsupported:
    kind = writer.ARTIFACT.__name__
    return Unsupported(
        say(
            f"{kind} cannot be written as {ending or 'a file without an ending'}.",
            f"{kind} 不能写成 {ending or '没有扩展名的文件'}。",
        ),
        say(
            f"Choose one of {', '.join(writer.ENDINGS)}.",
            f"请选用 {'、'.join(writer.ENDINGS)}。",
        ),
    )
