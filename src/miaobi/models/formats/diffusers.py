"""Diffusers' folders: pipelines that make images."""

from __future__ import annotations

from pathlib import Path

from miaobi.core.engine import Weights
from miaobi.core.requests import ImageRequest


def weights_of(folder: Path, name: str) -> Weights:
    return Weights("diffusers", str(folder), name, modality=ImageRequest.makes)
