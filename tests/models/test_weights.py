"""What a hub id leads to: only what is needed is fetched, and a pipeline is told from a
language model.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from miaobi.core.bundle import Manifest, write
from miaobi.core.errors import BadInput, NotFound
from miaobi.engines import families as pictures
from miaobi.engines import native
from miaobi.models import weights

FILES = [
    "model_index.json",
    "README.md",
    "v1-5-pruned.safetensors",
    "v1-5-pruned.ckpt",
    "pipeline.py",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "safety_checker/model.safetensors",
    "tokenizer/merges.txt",
]
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
}


@pytest.fixture
def hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str]], Path]:
    """hub(files): a repository with these files; what is asked for lands in the folder
    that is returned.
    """

    def serve(files: dict[str, str]) -> Path:
        def snapshot(
            name: str, allow_patterns: list[str], ignore_patterns: Any = None
        ) -> str:
            for file, text in files.items():
                wanted = any(
                    fnmatch.fnmatch(file, pattern) for pattern in allow_patterns
                )
                if wanted and not any(
                    fnmatch.fnmatch(file, pattern) for pattern in ignore_patterns or ()
                ):
                    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / file).write_text(text)
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return tmp_path

    return serve


def test_a_pipeline_is_fetched_without_what_it_holds_twice(
    hub: Callable[[dict[str, str]], Path],
) -> None:
    folder = hub(
        {
            name: json.dumps(INDEX) if name == "model_index.json" else "{}"
            for name in FILES
        }
    )
    opened = weights.find("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert (opened.format, opened.modality, opened.name) == (
        "diffusers",
        "image",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    )
    fetched = {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }
    assert fetched == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "tokenizer/merges.txt",
    }


def test_a_language_model_is_fetched_as_before(
    hub: Callable[[dict[str, str]], Path],
) -> None:
    folder = hub(
        {
            name: "{}"
            for name in (
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "chat_template.jinja",
                "pytorch_model.bin",
            )
        }
    )
    assert weights.find("org/words").format == "transformers"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    }


def test_offline_is_honoured() -> None:
    with pytest.raises(NotFound, match="HF_HUB_OFFLINE"):
        weights.find("stable-diffusion-v1-5/stable-diffusion-v1-5")


def test_bundles_say_what_they_make(tmp_path: Path) -> None:
    for modality in ("text", "image"):
        opened = weights.of_path(
            write(tmp_path / modality, Manifest("gan", modality), lambda _: None)
        )
        assert opened.modality == modality
        assert native.reads(opened) == (modality == "text")
        assert pictures.reads(opened) == (modality == "image")


def test_a_voice_of_piper_is_two_files(tmp_path: Path) -> None:
    file = tmp_path / "amy.onnx"
    file.write_bytes(b"onnx")
    with pytest.raises(BadInput, match=r"amy\.onnx\.json is not beside it"):
        weights.find(str(file))
    (tmp_path / "amy.onnx.json").write_text("{}", encoding="utf-8")
    voice = weights.find(str(file))
    assert (voice.format, voice.modality, voice.name) == ("piper", "audio", "amy")
