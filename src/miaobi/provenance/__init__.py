"""Everything that was generated leaves labelled: the writers, by what they write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from miaobi.core.artifacts import Artifact
from miaobi.core.registry import Registry


class Writer(Protocol):
    """A module that makes files of one class of artifacts."""

    ARTIFACT: type[Artifact]
    ENDINGS: Mapping[str, str]
    """The endings of its files, in lower case, and their media types; the first is the
    usual one.
    """
    NUMBERED: bool
    """Whether artifacts for a folder become numbered files in it."""

    def encode(self, artifacts: Sequence[Any], ending: str) -> bytes:
        """Return the labelled file of one artifact, or of several, for one of ENDINGS.

        Raises Unsupported for what the format cannot hold.
        """
        ...

    def record(self, artifact: Any) -> dict[str, Any]:
        """Return an artifact's facts as JSON, with whatever else its files say."""
        ...


writers: Registry[Writer] = Registry(
    "writers",
    {
        "Text": "miaobi.provenance.text",
        "Image": "miaobi.provenance.image",
        "Audio": "miaobi.provenance.audio",
        "Video": "miaobi.provenance.video",
        "Embedding": "miaobi.provenance.embedding",
    },
)
"""By the name of the artifact's class."""
