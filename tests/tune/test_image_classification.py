"""Pictures and one label each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tune.metric_values import metric_values
from tests.tune.picture_sets import base_of, class_folders, examples_of, picture
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.convnext import ConvNextImageProcessorPil
from transformers.models.vit import ViTImageProcessorPil

from miaobi.core.errors import BadInput, NotFound, Unsupported
from miaobi.data.labelled.images import pictures
from miaobi.data.text.shapes import Unusable
from miaobi.models import efficientnet
from miaobi.models.base import open_base
from miaobi.nn.objective import prepared
from miaobi.tune import examples
from miaobi.tune.image.input import augment_pixels, preparation
from miaobi.tune.image.learner import balanced_weights
from miaobi.tune.tasks import image_classification
from miaobi.tune.tasks.image_classification import Classifier, Config

SPEC = {
    "labels": ["blue", "green", "red"],
    "counts": {"blue": 8, "green": 8, "red": 8},
    "side": 32,
}


def vit(folder: Path, labels: int = 2) -> Path:
    torch.manual_seed(0)
    ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=32,
            patch_size=8,
            num_labels=labels,
        )
    ).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def trained(
    learner: Classifier, batch: Any, steps: int = 30, rate: float = 3e-3
) -> None:
    optimizer = torch.optim.AdamW(
        [weight for weight in learner.net.parameters() if weight.requires_grad], rate
    )
    learner.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = learner.loss(prepared(learner, batch))
        (loss.total / loss.count).backward()
        optimizer.step()
    learner.eval()


def batch_of(learner: Classifier, path: Path) -> Any:
    data = examples_of(image_classification, pictures, path, Config())
    return learner.collate([learner.encode(example.columns, 0) for example in data])


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 24, "width": 40}),
        CLIPImageProcessorPil(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
        ),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
    ],
    ids=["stretch", "crop", "share"],
)
def test_pictures_are_prepared_as_transformers_does(
    tmp_path: Path, processor: Any
) -> None:
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    image = picture("red", 0, 70, 50)
    ready = preparation(base_of(tmp_path), 0, 70, stretch=False)
    ours = ready.normalise(
        torch.from_numpy(ready.pixels(np.asarray(image)).copy())[None]
    )
    theirs = torch.as_tensor(
        np.asarray(processor(image, return_tensors="np").pixel_values)
    )
    assert ours.shape == theirs.shape
    # theirs may round once more, by a level of 255
    assert (ours - theirs).abs().max() < 1.5 / 255 / min(ready.std)
    ready.save(tmp_path, tmp_path)
    assert preparation(base_of(tmp_path), 0, 70, stretch=False) == ready


def test_a_transformers_model_learns_and_opens_again(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set")
    learner = image_classification.learner(
        base_of(vit(tmp_path / "vit")), SPEC, Config()
    )
    assert learner.fresh == ("classifier",)
    assert len(learner.net.get_submodule(learner.blocks)) == 2
    batch = batch_of(learner, folder)
    trained(learner, batch)
    evaluations = learner.evaluate(prepared(learner, batch))
    values = metric_values(learner, evaluations)
    assert values == {"accuracy": 1.0, "macro_f1": 1.0}
    learner.net.save_pretrained(tmp_path / "tuned")
    learner.save(tmp_path / "tuned")
    again = image_classification.learner(base_of(tmp_path / "tuned"), SPEC, Config())
    again.eval()
    assert (
        again.answer({"image": folder / "red" / "3.png"}) == evaluations[16 + 3].answer
    )
    assert evaluations[16 + 3].answer["label"] == "red"


def test_the_packaged_base_keeps_its_eyes_and_opens_again(
    pack: Callable[[str], Path], tmp_path: Path
) -> None:
    pack("efficientnet-lite0")
    folder = class_folders(tmp_path / "set", each=2)
    learner = image_classification.learner(
        open_base("efficientnet-lite0"), SPEC, Config()
    )
    batch = batch_of(learner, folder)
    assert batch["pixels"].shape == (6, 3, 112, 112)
    with torch.no_grad():
        seen = learner.net.trunk(prepared(learner, batch)["input"])
    np.testing.assert_allclose(
        seen,
        efficientnet.features(
            batch["pixels"].permute(0, 2, 3, 1).numpy()[..., :3], 112
        ),
        rtol=1e-3,
        atol=1e-4,
    )
    learner.net.requires_grad_(False)
    learner.net.classifier.requires_grad_(True)
    frozen = batch_of(learner, folder)
    torch.testing.assert_close(frozen["features"], seen, rtol=1e-3, atol=1e-3)
    trained(learner, frozen, rate=3e-2)
    with torch.no_grad():
        torch.testing.assert_close(
            learner.logits(prepared(learner, frozen)),
            learner.net(pixel_values=prepared(learner, frozen)["input"]).logits,
            rtol=1e-3,
            atol=1e-3,
        )
    answers = [item.answer for item in learner.evaluate(prepared(learner, frozen))]
    assert [answer["label"] for answer in answers] == ["blue"] * 2 + ["green"] * 2 + [
        "red"
    ] * 2
    learner.net.save_pretrained(tmp_path / "tuned")
    learner.save(tmp_path / "tuned")
    again = image_classification.learner(
        base_of(tmp_path / "tuned", "bundle"), SPEC, Config()
    )
    again.eval()
    assert again.preparation == learner.preparation
    assert again.answer({"image": folder / "red" / "1.png"}) == answers[5]


def test_summaries_are_only_stored_while_the_base_is_frozen(
    pack: Callable[[str], Path], tmp_path: Path
) -> None:
    pack("efficientnet-lite0")
    folder = class_folders(tmp_path / "set", each=1)
    learner = image_classification.learner(
        open_base("efficientnet-lite0"), SPEC, Config()
    )
    learner.net.trunk.requires_grad_(False)
    batch = batch_of(learner, folder)
    assert "features" in batch
    learner.net.trunk.requires_grad_(True)  # thawed
    learner.loss(prepared(learner, batch)).total.backward()
    assert learner.net.trunk._conv_stem.weight.grad.abs().sum() > 0
    assert "features" not in batch_of(learner, folder)


def test_rare_labels_weigh_more(tmp_path: Path) -> None:
    weights = balanced_weights([6, 2])
    torch.testing.assert_close(weights, torch.tensor([8 / 12, 8 / 4]))
    spec = {
        "labels": ["blue", "green", "red"],
        "counts": {"blue": 1, "green": 1, "red": 4},
        "side": 32,
    }
    base, folder = (
        base_of(vit(tmp_path / "vit")),
        class_folders(tmp_path / "set", each=1),
    )
    plain, weighted = (
        image_classification.learner(base, spec, Config(class_weights=kind))
        for kind in ("none", "balanced")
    )
    weighted.net.load_state_dict(plain.net.state_dict())
    plain.eval()
    weighted.eval()
    batch = prepared(plain, batch_of(plain, folder))
    with torch.no_grad():
        each = torch.nn.functional.cross_entropy(
            plain.logits(batch), batch["label"], reduction="none"
        )
        torch.testing.assert_close(
            weighted.loss(batch).total, (each * torch.tensor([2.0, 2.0, 0.5])).sum()
        )
        torch.testing.assert_close(plain.loss(batch).total, each.sum())


def test_macro_f1_is_that_of_its_definition(tmp_path: Path) -> None:
    learner = image_classification.learner(
        base_of(vit(tmp_path / "vit")), SPEC, Config()
    )
    guesses, labels = (
        [0, 0, 1, 1, 1, 0],
        [0, 1, 1, 1, 0, 0],
    )  # the third class occurs nowhere
    evaluations = [
        learner._evaluate_image(0.0, 1.0, guess, label)
        for guess, label in zip(guesses, labels, strict=True)
    ]
    counts = np.sum([item.counts["macro_f1"] for item in evaluations], 0)
    assert learner.metrics()[1].combine(counts) == pytest.approx(
        (2 * 2 / (2 * 2 + 1 + 1) + 2 * 2 / (2 * 2 + 1 + 1)) / 2
    )
    assert learner.metrics()[1].combine(np.stack([counts, counts])).shape == (2,)


def test_training_pictures_are_changed_and_evaluated_ones_are_not(
    tmp_path: Path,
) -> None:
    learner = image_classification.learner(
        base_of(vit(tmp_path / "vit")), SPEC, Config(augment=["flip", "cutout"])
    )
    batch = batch_of(learner, class_folders(tmp_path / "set", each=1))
    learner.eval()
    plain = prepared(learner, batch)["input"]
    torch.testing.assert_close(plain, learner.preparation.normalise(batch["pixels"]))
    learner.train()
    torch.manual_seed(1)
    changed = prepared(learner, batch)["input"]
    torch.manual_seed(1)
    torch.testing.assert_close(prepared(learner, batch)["input"], changed)
    assert (changed != plain).any((1, 2, 3)).all()


def test_masks_move_with_their_pictures() -> None:
    pixels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    mask = torch.zeros(4, 16, 16, dtype=torch.uint8)
    pixels[:, :, 3:9, 2:7], mask[:, 3:9, 2:7] = 255, 5
    torch.manual_seed(2)
    moved, masks = augment_pixels(["flip", "shift"], pixels, mask)
    assert masks is not None
    assert ((moved[:, 0] > 127) == (masks == 5)).all()
    assert not (masks == mask).all()


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(Unsupported, match=r"llama[\s\S]*efficientnet-lite0"):
        image_classification.learner(base_of(tmp_path / "other"), SPEC, Config())
    with pytest.raises(BadInput, match="takes 32"):
        image_classification.learner(
            base_of(vit(tmp_path / "vit")), SPEC, Config(image_size=64)
        )
    data = examples_of(
        image_classification, pictures, class_folders(tmp_path / "set", 2), Config()
    )
    with pytest.raises(BadInput, match="'red'"):
        image_classification.survey(
            [example for example in data if example.columns["label"] == "red"],
            Config(),
        )
    with pytest.raises(NotFound, match="flip"):
        image_classification.survey(data, Config(augment=["flipp"]))
    with pytest.raises(Unusable, match="does not occur"):
        image_classification.check(data[0], {"labels": ["violet"]}, Config())


def test_the_same_picture_twice_stays_on_one_side(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", 6)
    for number in range(5):
        (folder / "red" / f"copy{number}.png").write_bytes(
            (folder / "red" / "0.png").read_bytes()
        )
    prepared = examples.prepare(
        examples.Config(path=str(folder), validation=0.2, test=0.2),
        image_classification,
        Config(),
        progress=False,
    )
    sides = {
        split: {
            example.columns["digest"]
            for example in examples.read_split(prepared, split, image_classification)
        }
        for split in examples.SPLITS
    }
    assert sum(map(len, sides.values())) == 18  # the copies are gone
    assert not sides["train"] & sides["test"]


def test_copies_are_dropped_and_only_other_labels_contradict(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "set", 6)
    whole = (folder / "red" / "0.png").read_bytes()
    (folder / "red" / "copy.png").write_bytes(whole)
    (folder / "blue" / "copy.png").write_bytes(whole)
    prepared = examples.prepare(
        examples.Config(path=str(folder)),
        image_classification,
        Config(),
        progress=False,
    )
    manifest = examples.manifest(prepared)
    assert (manifest["read"], manifest["duplicates"], manifest["contradictions"]) == (
        20,
        1,
        1,
    )


def test_only_so_many_encoded_pictures_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = examples.prepare(
        examples.Config(
            path=str(class_folders(tmp_path / "set", 4)), validation=0.0, test=0.0
        ),
        image_classification,
        Config(),
        progress=False,
    )
    learner = image_classification.learner(
        base_of(vit(tmp_path / "vit")), SPEC, Config()
    )
    monkeypatch.setattr(examples.dataset, "CACHE_BYTES", 5 * (3 * 32 * 32 + 8))
    data = examples.Examples(prepared, image_classification, learner, 0)
    whole = next(data.batches("train", 12))
    assert len(data.cache) == 5
    assert (next(data.batches("train", 12))["pixels"] == whole["pixels"]).all()


def test_a_picture_saved_again_stays_on_its_side_of_the_split(tmp_path: Path) -> None:
    """Every picture lies there twice, once as PNG and once as JPEG: no pair is parted."""
    folder, noise = tmp_path / "set", np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            image = Image.fromarray(
                np.kron(noise.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(
                    np.uint8
                )
            )
            image.save(folder / label / f"{number}.png")
            image.save(folder / label / f"{number}.jpg", quality=85)
    prepared = examples.prepare(
        examples.Config(path=str(folder), validation=0.25, test=0.25),
        image_classification,
        image_classification.Config(),
        progress=False,
        root=tmp_path / "prepared",
    )
    sides = [
        {
            str(Path(example.columns["image"]).with_suffix(""))
            for example in examples.read_split(prepared, split, image_classification)
        }
        for split in examples.SPLITS
    ]
    assert (
        all(sides)
        and not sides[0] & sides[1]
        and not sides[0] & sides[2]
        and not sides[1] & sides[2]
    )
