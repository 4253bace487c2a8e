"""What is fetched of a hub repository whose weights are there in half precision only."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from miaobi.models.resolvers import hub


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository on a hub of one, and where its files are fetched to."""
    source, target = tmp_path / "hub", tmp_path / "cache"
    (source / "unet").mkdir(parents=True)
    index = {
        "_class_name": "P",
        "unet": ["diffusers", "U"],
        "safety_checker": ["a", "b"],
    }
    (source / "model_index.json").write_text(json.dumps(index))
    (source / "unet" / "config.json").write_text("{}")

    def download(
        name: str, allow_patterns: list[str], ignore_patterns: list[str] | None
    ) -> str:
        for file in source.rglob("*"):
            path = str(file.relative_to(source))
            wanted = any(fnmatch(path, pattern) for pattern in allow_patterns)
            unwanted = any(fnmatch(path, pattern) for pattern in ignore_patterns or ())
            if file.is_file() and wanted and not unwanted:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / path)
        return str(target)

    huggingface_hub: Any = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return source


@pytest.mark.parametrize(
    ("files", "fetched"),
    [
        (["model.fp16.safetensors"], ["model.fp16.safetensors"]),
        (["model.fp16.safetensors", "model.safetensors"], ["model.safetensors"]),
        (["model.bf16.safetensors"], ["model.bf16.safetensors"]),
    ],
)
def test_half_precision_is_fetched_where_there_is_no_other(
    files: list[str], fetched: list[str], repository: Path
) -> None:
    for name in files:
        (repository / "unet" / name).touch()
    assert hub.is_pipeline("owner/painter")
    folder = hub._from_hub("owner/painter")
    names = [file.name for file in (folder / "unet").glob("*.safetensors")]
    assert names == fetched
