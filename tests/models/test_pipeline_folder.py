"""Folders that are not whole, are pickled, or bring code: refused before anything in
them is opened, each with what to do.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import miaobi
from miaobi.core.errors import Damaged, MiaobiError, NotFound, Unsupported
from miaobi.models.pipelines import folder as diffusers_folder

Change = Callable[[Path], object]


def index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickled(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        file.rename(
            file.with_name(
                "diffusion_pytorch_model.bin"
                if "unet" in str(file)
                else "pytorch_model.bin"
            )
        )


def cut(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])


def sharded(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "second.safetensors"}})
    )


def add_auto_map(folder: Path) -> None:
    path = folder / "text_encoder" / "config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
        )
    )


CASES: list[tuple[str, Change, type[MiaobiError], str]] = [
    (
        "two parts missing",
        lambda f: [shutil.rmtree(f / "vae"), (f / "unet" / "config.json").unlink()],
        NotFound,
        "unet/config.json, vae",
    ),
    (
        "weights missing",
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        NotFound,
        r"unet/\*\.safetensors",
    ),
    ("a shard missing", sharded, NotFound, "unet/second.safetensors"),
    (
        "no tokenizer",
        lambda f: [file.unlink() for file in (f / "tokenizer").iterdir()],
        NotFound,
        "tokenizer",
    ),
    ("pickled", pickled, Unsupported, "pickled.*\\.bin.*\n.*safetensors"),
    ("cut short", cut, Damaged, "vae/diffusion_pytorch_model.safetensors is cut short"),
    (
        "empty weights",
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b""),
        Damaged,
        "cut short",
    ),
    (
        "a pipeline of its own",
        lambda f: (f / "pipeline.py").write_text("print('run')"),
        Unsupported,
        "pipeline.py",
    ),
    (
        "a network of its own",
        lambda f: (f / "unet" / "net.py").write_text("print('run')"),
        Unsupported,
        "unet/net.py",
    ),
    (
        "a class in a module",
        lambda f: index(f, _class_name=["pipeline", "MyPipeline"]),
        Unsupported,
        "Python code of its own",
    ),
    (
        "a class nobody knows",
        lambda f: index(f, _class_name="StableDifusionPipeline"),
        Unsupported,
        "StableDiffusionPipeline",
    ),
    (
        "a part from elsewhere",
        lambda f: index(f, unet=["my_unet", "Net"]),
        Unsupported,
        "my_unet.Net",
    ),
    ("auto_map", add_auto_map, Unsupported, "auto_map"),
    (
        "broken index",
        lambda f: (f / "model_index.json").write_text("{"),
        Damaged,
        "model_index.json",
    ),
    (
        "broken part",
        lambda f: (f / "vae" / "config.json").write_text("{"),
        Damaged,
        "vae/config.json",
    ),
]


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_what_is_refused(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Change,
    error: type[MiaobiError],
    reason: str,
) -> None:
    folder = shutil.copytree(checkpoint("sd15"), tmp_path / "model")
    change(folder)
    with pytest.raises(error, match=reason) as caught:
        miaobi.load(folder, safety_checker=False)
    assert caught.value.remedy
    assert "run" not in capsys.readouterr().out


def test_whole_folders_pass(checkpoint: Callable[[str], Path]) -> None:
    for name in ("sd15", "sdxl", "sd3", "flux", "cogvideox"):
        assert diffusers_folder.check(checkpoint(name), name).endswith("Pipeline")


def test_a_folders_own_safety_checker_is_neither_needed_nor_opened(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Stable Diffusion's index names one; its 1.2 GB are not even fetched, since
    pictures are checked here.
    """
    folder = shutil.copytree(checkpoint("sd15"), tmp_path / "model")
    index(
        folder,
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        requires_safety_checker=True,
    )
    with miaobi.load(folder, safety_checker=False) as model:
        assert model.engine.pipelines.own.safety_checker is None
        assert model.generate("a fox", num_inference_steps=1)[0].pixels.shape == (
            32,
            32,
            3,
        )


def halve(folder: Path) -> None:
    """Rename the weights as those that are published in half precision only."""
    for file in folder.rglob("*.safetensors"):
        tensors = {key: value.half() for key, value in load_file(file).items()}
        file.unlink()
        save_file(tensors, file.with_suffix(".fp16.safetensors"), {"format": "pt"})


@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_a_folder_in_half_precision_only(
    name: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """It paints what the whole folder does, up to the rounding of its weights."""
    folder = shutil.copytree(checkpoint(name), tmp_path / "model")
    halve(folder)
    pictures = list[Any]()
    for path in (folder, checkpoint(name)):
        with miaobi.load(path, safety_checker=False) as model:
            pictures += model.generate("a fox", num_inference_steps=2, seed=0)
    ours, whole = (picture.pixels.astype(int) for picture in pictures)
    assert abs(ours - whole).max() <= 8


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sd15", {"feature_extractor": ["transformers", "CLIPImageProcessor"]}),
        (
            "sd3",
            {
                "text_encoder_3": ["transformers", "T5EncoderModel"],
                "tokenizer_3": ["transformers", "T5TokenizerFast"],
            },
        ),
    ],
)
def test_a_folder_without_parts_that_painting_does_not_use(
    name: str,
    parts: dict[str, list[str]],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(checkpoint(name), tmp_path / "model")
    index(folder, **parts)
    for part in parts:
        shutil.rmtree(folder / part, ignore_errors=True)
    with miaobi.load(folder, safety_checker=False) as model:
        picture = model.generate("a fox", num_inference_steps=1)[0]
    assert picture.pixels.shape[2] == 3
