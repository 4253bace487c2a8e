"""Masks: evaluate_batch by hand, the loss by its definition, both kinds of segmenters learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tune.metric_values import evaluate_batch
from tests.tune.picture_sets import COLOURS, base_of, examples_of
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from miaobi.core.errors import BadInput
from miaobi.data.labelled.masks import IGNORED, masks
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import open_base
from miaobi.nn.objective import prepared
from miaobi.tune.tasks import segmentation
from miaobi.tune.tasks.segmentation import Config, run_lengths

SPEC = {
    "labels": ["ground", "blue", "red"],
    "seen": [0, 1, 2],
    "pixels": [0, 0, 0],
    "side": 64,
}


def folder_of(path: Path, count: int = 4) -> Path:
    """A blue and a red rectangle on grey; the outermost row is to be ignored."""
    for name in ("images", "masks"):
        (path / name).mkdir(parents=True)
    for number in range(count):
        draw = np.random.default_rng(number)
        pixels, mask = np.full((64, 48, 3), 128, np.uint8), np.zeros((64, 48), np.uint8)
        for index, label in enumerate(("blue", "red")):
            top, left = (
                int(draw.integers(32 * index, 32 * index + 8)),
                int(draw.integers(0, 20)),
            )
            (
                pixels[top : top + 20, left : left + 24],
                mask[top : top + 20, left : left + 24],
            ) = COLOURS[label], index + 1
        mask[-1] = IGNORED
        Image.fromarray(pixels).save(path / "images" / f"{number}.jpg", quality=95)
        Image.fromarray(mask).save(path / "masks" / f"{number}.png")
    (path / "classes.txt").write_text("ground\nblue\nred\n")
    return path


def batch_of(learner: Any, folder: Path) -> Any:
    return learner.collate(
        [
            learner.encode(example.columns, 0)
            for example in examples_of(segmentation, masks, folder, Config())
        ]
    )


def trained(learner: Any, batch: Any, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(learner.net.parameters(), rate)
    learner.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = learner.loss(prepared(learner, batch))
        (loss.total / loss.count).backward()
        optimizer.step()


def segformer(folder: Path) -> Path:
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=[8, 16],
            depths=[1, 1],
            num_encoder_blocks=2,
            sr_ratios=[2, 1],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
            num_labels=5,
        )
    ).save_pretrained(folder)
    return folder


def test_the_loss_is_that_of_segformer_where_all_pictures_weigh_the_same(
    tmp_path: Path,
) -> None:
    learner = segmentation.learner(
        base_of(segformer(tmp_path / "base")), SPEC, Config(image_size=64)
    )
    learner.eval()
    batch = prepared(learner, batch_of(learner, folder_of(tmp_path / "set")))
    with torch.no_grad():
        ours = learner.loss(batch)
        theirs = learner.net(
            pixel_values=batch["input"], labels=batch["mask"].long()
        ).loss
    torch.testing.assert_close(ours.total / ours.count, theirs, rtol=1e-4, atol=1e-5)


def test_metrics_by_hand(tmp_path: Path) -> None:
    learner = segmentation.learner(
        base_of(segformer(tmp_path / "base")), SPEC, Config(image_size=64)
    )
    mask, guess = np.array([[0, 0, 1, IGNORED]]), np.array([[0, 1, 1, 2]])
    evaluations = learner._evaluate_image(0.0, guess, mask, [8, 2])
    by_name = {
        metric.name: float(metric.combine(evaluations.counts[metric.name]))
        for metric in learner.metrics()
    }
    assert by_name == pytest.approx(
        {"mean_iou": (1 / 2 + 1 / 2) / 2, "pixel_accuracy": 2 / 3}
    )
    assert evaluations.answer == {
        "size": [2, 8],
        "masks": {"ground": [0, 4, 12], "blue": [4, 8, 4], "red": [12, 4]},
    }


def test_runs_go_down_the_columns() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    assert run_lengths(mask) == [2, 1, 1, 2]
    assert run_lengths(~mask) == [0, 2, 1, 1, 2]
    assert sum(run_lengths(mask)) == mask.size


def test_dice_is_nothing_for_the_truth_and_one_for_its_opposite() -> None:
    mask = torch.tensor([[[0, 1], [1, IGNORED]]])
    has_class = mask != IGNORED
    right = F.one_hot(mask.where(has_class, 0), 3).permute(0, 3, 1, 2) * 100.0
    wrong = F.one_hot(torch.full_like(mask, 2), 3).permute(0, 3, 1, 2) * 100.0
    torch.testing.assert_close(
        segmentation._dice(right, mask, has_class), torch.tensor([0.0])
    )
    torch.testing.assert_close(
        segmentation._dice(wrong, mask, has_class), torch.tensor([1.0])
    )


def test_segformer_learns_and_opens_again(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set")
    learner = segmentation.learner(
        base_of(segformer(tmp_path / "base")),
        SPEC,
        Config(image_size=64, class_weights="none"),
    )
    assert learner.fresh == ("classifier", "decode_head")
    batch = batch_of(learner, folder)
    trained(learner, batch, 60, 1e-2)
    assert evaluate_batch(learner, batch)["mean_iou"] > 0.7
    learner.net.save_pretrained(tmp_path / "tuned")
    learner.save(tmp_path / "tuned")
    again = segmentation.learner(base_of(tmp_path / "tuned"), SPEC, Config())
    again.eval()
    said = again.answer({"image": folder / "images" / "0.jpg"})
    assert said == learner.answer({"image": folder / "images" / "0.jpg"})
    assert said["size"] == [64, 48]
    assert set(said["masks"]) == {"ground", "blue", "red"}


def test_the_packaged_base_learns_masks(
    pack: Callable[[str], Path], tmp_path: Path
) -> None:
    pack("efficientnet-lite0")
    torch.manual_seed(0)
    folder = folder_of(tmp_path / "set")
    data = examples_of(segmentation, masks, folder, Config())
    spec = segmentation.survey(data, Config(class_weights="balanced"))
    assert (
        spec["pixels"]
        == np.bincount(
            np.concatenate(
                [
                    np.asarray(Image.open(file)).ravel()
                    for file in sorted((folder / "masks").iterdir())
                ]
            ),
            minlength=256,
        )[:3].tolist()
    )
    learner = segmentation.learner(
        open_base("efficientnet-lite0"),
        spec,
        Config(dice=1.0, class_weights="balanced"),
    )
    batch = batch_of(learner, folder)
    before = evaluate_batch(learner, batch)["mean_iou"]
    trained(learner, batch, 25, 2e-3)
    assert before < 0.4
    assert evaluate_batch(learner, batch)["mean_iou"] > 0.8


def test_black_and_white_masks_are_an_object_on_its_ground(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", 2)
    (folder / "classes.txt").unlink()
    for file in (folder / "masks").iterdir():
        Image.fromarray(
            ((np.asarray(Image.open(file)) == 1) * 255).astype(np.uint8)
        ).save(file)
    data = examples_of(segmentation, masks, folder, Config())
    assert data[0].columns["classes"] == ["background", "object"]
    assert data[0].columns["present"] == [0, 1]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", 3)
    Image.new("RGB", (48, 64)).save(folder / "masks" / "0.png")
    Image.new("L", (40, 64)).save(folder / "masks" / "1.png")
    (folder / "masks" / "2.png").unlink()
    records = [record for _, record in masks(str(folder), "")]
    for record, said in zip(
        records, ("colour picture", "40 × 64", "no mask"), strict=True
    ):
        with pytest.raises(Unusable, match=said):
            segmentation.columns(record, Config())
    with pytest.raises(BadInput, match="masks/"):
        list(masks(str(tmp_path), ""))
    with pytest.raises(BadInput, match="emoji-scenes"):
        list(masks("", "digits"))
    (folder / "classes.txt").write_text("ground\nblue\n")
    few = folder_of(tmp_path / "few", 1)
    (few / "classes.txt").write_text("ground\nblue\n")
    with pytest.raises(Unusable, match="2 classes"):
        examples_of(segmentation, masks, few, Config())


def test_classes_that_have_other_numbers_elsewhere_are_not_mistaken_for_each_other() -> (
    None
):
    from miaobi.tune.learner import Example

    for classes, present, named in (
        (["ground", "red", "blue"], [0, 1], "'red', number 1"),
        (["ground", "blue", "red", "green"], [3], "'green', number 3"),
    ):
        with pytest.raises(Unusable, match=f"class {named}, does not occur"):
            segmentation.check(
                Example({"classes": classes, "present": present}, "a.png"),
                SPEC,
                Config(),
            )
    segmentation.check(
        Example({"classes": ["ground", "blue"], "present": [0, 1]}, "a.png"),
        SPEC,
        Config(),
    )
