"""OpenVINO's folders of language models."""

from __future__ import annotations

from pathlib import Path

from miaobi.core.engine import Weights


def weights_of(folder: Path, name: str) -> Weights:
    return Weights("openvino", str(folder), name)
