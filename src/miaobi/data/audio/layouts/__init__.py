"""How recordings lie in folders: a module for each usual layout.

Each says whether it `holds` a path, and has `read(path, report)`, which yields a Clip for
each recording and reports what it cannot use.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from miaobi.data.audio.clips import Clip
from miaobi.data.audio.layouts import (
    asterisk,
    festvox,
    folder,
    hydrogen,
    kaldi,
    ljspeech,
    manifest,
    vctk,
)
from miaobi.data.encoding import Report


class Layout(Protocol):
    """A module that reads one layout."""

    def holds(self, path: Path) -> bool: ...

    def read(self, path: Path, report: Report) -> Iterator[Clip]: ...


LAYOUTS: dict[str, Layout] = {
    "kaldi": kaldi,
    "festvox": festvox,
    "vctk": vctk,
    "asterisk": asterisk,
    "hydrogen": hydrogen,
    "ljspeech": ljspeech,
    "manifest": manifest,
    "folder": folder,
}
"""By the name of their reader ("audio/kaldi"), from special to general."""


def kind_of(path: Path) -> str | None:
    """Return the first layout that holds a path; None where no sound is there."""
    for name, layout in LAYOUTS.items():
        if layout.holds(path):
            return name
    return None
