"""Tuned models that look at pictures, translate, or paint: asked through `load` as
people ask them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tests.tune import bases
from tests.tune.picture_sets import captioned, class_folders, examples_of
from tests.tune.tuned import tuned_task
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit import ViTImageProcessorPil

import miaobi
from miaobi.core.artifacts import Image
from miaobi.core.errors import BadInput, Unsupported
from miaobi.data.labelled.images import picture_check, pictures
from miaobi.models.base import open_base
from miaobi.models.weights import find
from miaobi.tune.learner import Example
from miaobi.tune.tasks import diffusion, image_classification


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "colours", 3)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_picture_gets_its_label(tmp_path: Path, seen: Path, method: str) -> None:
    torch.manual_seed(0)
    base = tmp_path / "vit"
    ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=32,
            patch_size=8,
        )
    ).save_pretrained(base)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(base)
    examples = examples_of(
        image_classification, pictures, seen, image_classification.Config()
    )
    folder, learner = tuned_task(
        tmp_path / "tuned",
        open_base(str(base)),
        "image-classification",
        examples,
        method=method,
    )
    if method == "full":
        shutil.rmtree(base)
    picture = seen / "red" / "1.png"
    with picture_check() as check:
        want = learner.answer(check(picture))
    with miaobi.load(folder) as model:
        answer = model.generate(image=picture)[0]
        assert model.engine_name == "tuned"
        assert answer.facts.parameters["image"].startswith("sha256:")
        assert answer.text == (
            want if isinstance(want, str) else json.dumps(want, ensure_ascii=False)
        )
        assert (
            model.generate(image=np.asarray(Pillow.open(picture)))[0].text
            == answer.text
        ), "pixels as a file"
        with pytest.raises(BadInput, match="asked about a picture"):
            model.generate("red")
        with pytest.raises(BadInput, match="no picture"):
            model.generate(image=tmp_path / "nowhere.png")


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_text_becomes_another(tmp_path: Path, kind: str) -> None:
    """An encoder-decoder, and a causal base that is asked through the task's own prompt."""
    base = bases.base(tmp_path / kind, kind)
    pairs = [{"source": "cat", "target": "猫"}, {"source": "tea", "target": "茶"}]
    head = {"max_new_tokens": 6} | (
        {"prompt": "Translate: {source}\n"} if kind == "llama" else {}
    )
    folder, learner = tuned_task(
        tmp_path / "tuned",
        base,
        "seq2seq",
        [Example(pair, "", {"source": pair["source"]}) for pair in pairs],
        "text",
        head,
        method="lora",
    )
    with miaobi.load(folder) as model:
        assert model.engine_name == "tuned"
        assert model.generate("a large dog")[0].text == learner.answer(
            {"source": "a large dog"}
        )


def test_a_pipeline_paints_with_its_lora(tmp_path: Path, checkpoint: object) -> None:
    base = tmp_path / "sd"
    shutil.copytree(checkpoint("sd15"), base)  # type: ignore[operator]
    data = captioned(tmp_path / "data", 2)
    examples = examples_of(diffusion, pictures, data, diffusion.Config(image_size=32))
    folder, _ = tuned_task(
        tmp_path / "painter",
        open_base(str(base)),
        "diffusion",
        examples,
        "image",
        {"image_size": 32},
        method="lora",
    )
    controls = {"num_inference_steps": 2, "seed": 1, "width": 32, "height": 32}
    assert find(str(folder)).modality == "image"
    with (
        miaobi.load(folder, safety_checker=False) as model,
        miaobi.load(base, safety_checker=False) as plain,
        miaobi.load(
            base, lora=folder / "pytorch_lora_weights.safetensors", safety_checker=False
        ) as added,
    ):
        assert model.engine_name == "diffusers"
        painted, without, beside = (
            one.generate("a red field", **controls)[0] for one in (model, plain, added)
        )
    assert isinstance(painted, Image)
    assert np.array_equal(painted.pixels, beside.pixels)
    assert not np.array_equal(painted.pixels, without.pixels)
    with pytest.raises(Unsupported, match="pictures engine does not run painter"):
        miaobi.load(folder, engine="pictures")
