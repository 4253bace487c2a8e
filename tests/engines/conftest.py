"""Tiny Diffusers checkpoints, each written once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engines import pipelines


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """checkpoint(name): a folder of tests/engines/pipelines.py. Not to be altered."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> Path:
        path = root / name
        return path if path.exists() else pipelines.write(name, path)

    return folder
