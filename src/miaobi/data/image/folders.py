"""The `folder` source: pictures as files in any depth.

Captions come from metadata.jsonl or metadata.csv beside them (file_name and further
columns: the layout of Hugging Face's imagefolder), or from a text of each picture's own
name. Folders are classes, and those called train, validation or test at the top are
splits (image/layout.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from miaobi.core.language import say
from miaobi.data.encoding import Problem, Report
from miaobi.data.image import metadata
from miaobi.data.image.layout import Classes, Position, classes_of, positions_of
from miaobi.data.image.listing import listing
from miaobi.data.image.metadata import Descriptions
from miaobi.data.image.record import Picture

REPEATS = re.compile(r"\d+_(.+)")
"""kohya's folders: how often each picture is shown in an epoch, and what it shows."""


def read(folder: Path, report: Report) -> Iterator[Picture]:
    """Yield the pictures of a folder, with captions and classes.

    Each caption without a file and each file without one is reported.
    """
    content = listing(folder)
    for link in content.broken:
        report(_broken(link))
    files = metadata.pictures_by_key(content)
    texts = metadata.descriptions(content, files)
    rows = metadata.rows_by_key(texts.tables, folder, files, report)
    positions = positions_of(files)
    classes = classes_of(positions.values())
    for key, file in sorted(files.items()):
        row = rows.get(key)
        meta = dict(row.meta) if row else {}
        side_text = texts.side_texts.get(key)
        if side_text is not None and not meta:
            caption = metadata.side_text(side_text, report)
            meta = {"text": caption} if caption else {}
        elif texts and row is None:
            report(metadata.without_description(file))
        label = row.label if row else None
        if label is None and not _labels_are_written(rows):
            label = class_of(classes, positions[key], texts)
        yield Picture(
            key, file, file, split=positions[key].split, label=label, meta=meta
        )


def class_of(classes: Classes, position: Position, texts: Descriptions) -> str | None:
    """Return the class that a picture's folder names; beside texts of kohya's kind
    without the number of repeats.
    """
    name = classes.of(position)
    if name and texts.side_texts:
        repeated = REPEATS.fullmatch(name)
        return repeated[1] if repeated else name
    return name


def _labels_are_written(rows: Mapping[str, metadata.Row]) -> bool:
    """Whether a column of the metadata holds classes: folders are none then."""
    return any(row.label is not None for row in rows.values())


def _broken(link: Path) -> Problem:
    return Problem(
        link,
        0,
        say(
            "it is a link that leads nowhere, or a folder that may not be opened.",
            "这是失效的链接，或无权打开的文件夹。",
        ),
        say("Mend or remove it.", "请修复或删除。"),
    )


def remarks(files: Mapping[str, Path], texts: Descriptions) -> list[str]:
    """Return what a user should know of how a folder is read, beyond its problems.

    Args:
        files: its pictures by their keys
        texts: what describes them
    """
    positions = positions_of(files)
    classes = classes_of(positions.values())
    lines = list[str]()
    for table in texts.tables:
        if table.name not in metadata.METADATA:
            lines.append(
                say(
                    f"{table.name} names pictures and is read as metadata.",
                    f"{table.name} 中列有图片，按元数据读取。",
                )
            )
    if texts.side_texts:
        count = len(texts.side_texts)
        lines.append(
            say(
                f"captions from texts beside the pictures: {count:,}",
                f"取自同名文本的图片说明：{count:,}",
            )
        )
    folders = {classes.of(position) or "" for position in positions.values()}
    folders |= {file.parent.name for file in files.values()}
    if texts.side_texts and any(map(REPEATS.fullmatch, folders)):
        lines.append(
            say(
                "Numbers before folders' names (10_dog) are kohya's repeats: every picture counts once here.",
                "文件夹名前的数字（10_dog）是 kohya 的重复次数：此处每张图片只计一次。",
            )
        )
    if classes.below:
        lines.append(
            say(
                f"pictures that lie deeper and count to the class above them: {classes.below:,}",
                f"位于更深的文件夹、归入其上层类别的图片：{classes.below:,}",
            )
        )
    if {position.folders[:1] for position in positions.values()} == {("A",), ("B",)}:
        lines.append(
            say(
                "A and B are read as two classes: their pictures do not pair by name.",
                "A 与 B 按两个类别读取：其中的图片名称不成对。",
            )
        )
    return lines
