"""Data for training: packs, files and folders in; tokens, pictures and clips out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.data.dataset import DatasetModule

datasets: Registry[DatasetModule] = Registry(
    "datasets",
    {
        "recordings": "miaobi.data.audio.recordings",
        "pictures": "miaobi.data.image.prepared",
        "pairs": "miaobi.data.text.pairs",
        "tokens": "miaobi.data.text.tokens",
        "masked": "miaobi.data.text.masked",
        "sentences": "miaobi.data.text.sentences",
    },
)
"""The order counts: the first that holds a path inspects it, and `tokens` takes every
file that may be plain text.
"""

readers: Registry[Callable[..., Iterator[Any]]] = Registry(
    "readers",
    {
        "text/files": "miaobi.data.text.files:read",
        "text/pack": "miaobi.data.text.loaders:read",
        "text/python": "miaobi.data.text.python_sources:read",
        "image/folder": "miaobi.data.image.folders:read",
        "image/pairs": "miaobi.data.image.pairs:read",
        "image/side-by-side": "miaobi.data.image.pairs:side_by_side",
        "image/tables": "miaobi.data.image.tables:read",
        "image/idx": "miaobi.data.image.idx:read",
        "audio/folder": "miaobi.data.audio.layouts.folder:read",
        "audio/ljspeech": "miaobi.data.audio.layouts.ljspeech:read",
        "audio/kaldi": "miaobi.data.audio.layouts.kaldi:read",
        "audio/vctk": "miaobi.data.audio.layouts.vctk:read",
        "audio/festvox": "miaobi.data.audio.layouts.festvox:read",
        "audio/asterisk": "miaobi.data.audio.layouts.asterisk:read",
        "audio/hydrogen": "miaobi.data.audio.layouts.hydrogen:read",
        "audio/manifest": "miaobi.data.audio.layouts.manifest:read",
        "labelled/gettext": "miaobi.data.labelled.gettext:read",
        "labelled/texts": "miaobi.data.labelled.texts:texts",
        "labelled/tagged": "miaobi.data.labelled.tagged:read",
        "labelled/squad": "miaobi.data.labelled.squad:read",
        "labelled/images": "miaobi.data.labelled.images:pictures",
        "labelled/boxes": "miaobi.data.labelled.boxes:boxes",
        "labelled/masks": "miaobi.data.labelled.masks:masks",
    },
)
"""What opens raw data. The part before the slash says what a reader is called with and
what it yields; a recipe names the part after it (data.source: idx).

text/       (path or name of a pack) -> Document
image/      (path, report of a Problem) -> Picture
audio/      (path, report of a Problem) -> Clip
labelled/   (path, pack), one of them empty -> (location, record)
"""
