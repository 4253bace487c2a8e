"""Hydrogen's drum kits: drumkit.xml names instruments and, below them, the recordings of
each, often several layers of loudness.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from miaobi.core.language import say
from miaobi.data.audio.clips import Clip, Clips, Recordings
from miaobi.data.encoding import Problem, Report
from miaobi.data.image.listing import visible

KIT = "drumkit.xml"


def holds(path: Path) -> bool:
    return path.is_dir() and any(file.name == KIT for file in visible(path))


def read(path: Path, report: Report) -> Iterator[Clip]:
    """Yield every layer of every instrument, labelled with the instrument's name; kit,
    author and licence are in `meta`, for each kit has its own.
    """
    for table in visible(path):
        if table.name == KIT:
            yield from _kit(path, table, report)


def _kit(path: Path, table: Path, report: Report) -> Iterator[Clip]:
    try:
        root = ElementTree.parse(table).getroot()
    except ElementTree.ParseError as error:
        report(
            Problem(
                table,
                error.position[0],
                say(f"it is not whole XML: {error}.", f"不是完整的 XML：{error}。"),
                say("Copy the kit again.", "请重新复制该鼓组。"),
            )
        )
        return
    for element in root.iter():  # kits are written with and without a namespace
        element.tag = element.tag.rpartition("}")[2]
    meta = {
        "kit": root.findtext("name", "").strip() or table.parent.name,
        "author": root.findtext("author", "").strip(),
        "licence": root.findtext("license", "").strip(),
    }
    clips = Clips(Recordings(table.parent), report)
    listed = set[str]()
    for instrument in root.iter("instrument"):
        label = instrument.findtext("name", "").strip()
        for element in instrument.iter("filename"):
            name = (element.text or "").strip()
            if not name or name in listed:
                continue
            listed.add(name)
            file = clips.file_of(name, table, 0)
            if file:
                yield Clip(
                    file.relative_to(path).as_posix(),
                    file,
                    label=label or None,
                    meta=meta,
                    source=table,
                )
