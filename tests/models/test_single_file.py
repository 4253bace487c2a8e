"""Files that people bring and that are no model by themselves: each named, with a next step."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from miaobi.core.errors import Damaged, MiaobiError, Unsupported
from miaobi.models.pipelines.folder import file_of
from miaobi.models.weights import of_path

KEYS = {
    "checkpoint": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.decoder.conv_in.weight",
    ],
    "flux": ["double_blocks.0.img_attn.qkv.weight"],
    "lora": ["lora_unet_down_blocks_0.lora_down.weight"],
    "diffusers-lora": ["unet.down_blocks.0.attn.to_q.lora_A.weight"],
    "adapter": ["base_model.model.model.layers.0.q_proj.lora_A.weight"],
    "controlnet": ["control_model.input_blocks.0.0.weight"],
    "embedding": ["emb_params"],
    "weights": ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"],
}
STEPS = {
    "checkpoint": "from_single_file.*save_pretrained",
    "flux": "from_single_file.*FluxPipeline",
    "lora": "--lora",
    "diffusers-lora": "--lora",
    "adapter": "merge_and_unload",
    "controlnet": "--controlnet",
    "embedding": "--embeddings",
    "weights": "whole folder",
}


def write(path: Path, keys: list[str]) -> Path:
    save_file({key: torch.zeros(2) for key in keys}, path)
    return path


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("as_folder", [False, True])
def test_it_is_recognised_by_its_header(
    kind: str, as_folder: bool, tmp_path: Path
) -> None:
    """Whatever it is called; alone in a folder too."""
    file = write(tmp_path / "anything.safetensors", KEYS[kind])
    with pytest.raises(Unsupported) as caught:
        of_path(tmp_path if as_folder else file)
    assert "anything.safetensors" in str(caught.value)
    assert caught.value.remedy
    assert re.search(STEPS[kind], caught.value.remedy)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "model"])
@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_is_recognised_and_not_opened(
    name: str, new: bool, tmp_path: Path
) -> None:
    torch.save(
        {"a": torch.zeros(2)}, tmp_path / name, _use_new_zipfile_serialization=new
    )
    with pytest.raises(Unsupported, match="pickle") as caught:
        of_path(tmp_path / name)
    assert "from_single_file" in str(caught.value.remedy)


def test_what_nobody_knows_is_no_gguf(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "text")
    (tmp_path / "letter.docx").write_bytes(buffer.getvalue())
    with pytest.raises(MiaobiError, match="does not begin with GGUF"):
        of_path(tmp_path / "letter.docx")


def test_a_file_cut_short_is_said_to_be(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", KEYS["checkpoint"])
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(Damaged, match="cut short"):
        of_path(file)


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("lora", "checkpoint"),
        ("lora", "embedding"),
        ("embeddings", "lora"),
        ("embeddings", "controlnet"),
    ],
)
def test_an_option_refuses_a_file_of_another_kind(
    option: str, kind: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.safetensors", KEYS[kind])
    with pytest.raises(Unsupported, match=f"{option}: .*a.safetensors"):
        file_of(file, option)
