"""Boxes: evaluate_batch by hand-worked answers, targets by construction, both kinds of detectors learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.tune.metric_values import evaluate_batch
from tests.tune.picture_sets import COLOURS, base_of
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
)

from miaobi.core.errors import BadInput
from miaobi.data.text.shapes import Unusable
from miaobi.evaluate.tuned import evaluate
from miaobi.models.base import open_base
from miaobi.nn.objective import prepared
from miaobi.tune.image import boxes
from miaobi.tune.image.input import check_augmentations
from miaobi.tune.image.nets import LiteConfig, LiteForObjectDetection
from miaobi.tune.tasks import detection
from miaobi.tune.tasks.detection import Config, HeatMapDetector, QueryDetector

SPEC = {"labels": ["blue", "red"], "counts": {"blue": 4, "red": 4}, "side": 64}
PART = {"image": "a.png", "digest": "0", "width": 64, "height": 64}


def square(number: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A blue or red rectangle on grey, and its box."""
    draw = np.random.default_rng(number)
    pixels = np.full((64, 64, 3), 128, np.uint8)
    left, top, width, height = (
        int(draw.integers(*bounds)) for bounds in ((4, 28), (4, 28), (16, 32), (16, 32))
    )
    label = SPEC["labels"][number % 2]
    pixels[top : top + height, left : left + width] = COLOURS[label]
    return pixels, [{"label": label, "box": [left, top, width, height]}]


def batch_of(learner: Any, count: int = 6) -> Any:
    images = [square(number) for number in range(count)]
    return learner.collate(
        [
            learner.encode({**PART, "image": pixels, "objects": objects}, 0)
            for pixels, objects in images
        ]
    )


def trained(learner: Any, batch: Any, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(learner.net.parameters(), rate)
    learner.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = learner.loss(prepared(learner, batch))
        (loss.total / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(learner.net.parameters(), 1.0)
        optimizer.step()


def test_overlaps() -> None:
    overlaps = boxes.iou(
        np.array([[0, 0, 2, 2], [1, 1, 3, 3.0]]),
        np.array([[1, 0, 3, 2], [5, 5, 6, 6.0]]),
    )
    np.testing.assert_allclose(overlaps, [[2 / 6, 0], [2 / 6, 0]])
    first, second = (
        torch.tensor([[0, 0, 1, 1.0], [0, 0, 2, 2]]),
        torch.tensor([[2, 0, 3, 1.0], [0, 0, 2, 2]]),
    )
    torch.testing.assert_close(
        boxes.generalised_iou(first, second), torch.tensor([0 - 1 / 3, 1.0])
    )


def test_average_precision_by_hand() -> None:
    """Two boxes; answers in order: right, wrong, right. Precision 1 up to recall 1/2,
    then 2/3: (51 · 1 + 50 · 2/3) / 101.
    """
    true_boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30.0]])
    answers = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30.0]])
    labels = np.zeros(3, int)
    assert boxes.average_precision(
        answers, labels, true_boxes, np.zeros(2, int)
    ) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # the wrong label finds nothing; a second answer to one box is wrong; an overlap of
    # 0.8 counts at 7 of the 10 thresholds
    assert (
        boxes.average_precision(answers, labels + 1, true_boxes, np.zeros(2, int)) == 0
    )
    assert boxes.matched(
        answers[[0, 0, 2]], labels, true_boxes, np.zeros(2, int), 0.5
    ).tolist() == [True, False, True]
    assert boxes.average_precision(
        np.array([[0, 0, 8, 10.0]]), labels[:1], true_boxes[:1], np.zeros(1, int)
    ) == pytest.approx(0.7)
    assert (
        boxes.average_precision(
            np.zeros((0, 4)), labels[:0], true_boxes, np.zeros(2, int)
        )
        == 0
    )


def own(**settings: Any) -> HeatMapDetector:
    torch.manual_seed(0)
    net = LiteForObjectDetection(LiteConfig(num_labels=2))
    return HeatMapDetector(
        net, base_of(Path("/nowhere"), "part"), SPEC, Config(**settings)
    )


def test_perfect_maps_are_read_back_as_the_boxes() -> None:
    """What the targets say, put where the network's answer would be, is every box
    exactly, and costs nothing but the bumps' skirts.
    """
    learner = own()
    examples = batch_of(learner)
    batch = prepared(learner, examples)
    heat, _, corners = learner.targets(batch, torch.Size((6, 2, 28, 28)))
    assert (heat.flatten(1).max(1).values == 1).all()
    assert ((heat == 1).flatten(1).sum(1) == 1).all()
    middle = (torch.arange(28) + 0.5) * 4
    cells = torch.stack([middle.expand(28, 28), middle[:, None].expand(28, 28)])
    sides = torch.cat([cells - corners[:, :2], corners[:, 2:] - cells], 1)

    class Perfect(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> Any:
            return SimpleNamespace(heat=torch.logit(heat, 1e-6), sides=sides)

    learner.net.forward = Perfect().forward
    assert evaluate_batch(learner, examples) == pytest.approx(
        {"map": 1.0, "f1": 1.0, "iou": 1.0}, abs=1e-4
    )
    with torch.no_grad():
        answers = [item.answer for item in learner.evaluate(batch)]
        perfect = learner.losses(batch)
    assert [[item["label"] for item in answer] for answer in answers] == [
        [objects[0]["label"]] for _, objects in map(square, range(6))
    ]
    assert [answer[0]["box"] for answer in answers] == [
        pytest.approx(objects[0]["box"], abs=0.1)
        for _, objects in map(square, range(6))
    ]
    heat = torch.full_like(heat, 0.05)
    with torch.no_grad():
        assert (learner.losses(batch) > perfect + 2).all()


def test_mirrored_pictures_have_mirrored_boxes() -> None:
    learner = own(augment=["flip"])
    batch = batch_of(learner)
    learner.train()
    torch.manual_seed(1)
    ready = prepared(learner, batch)
    mirrored = torch.tensor(
        [
            bool((row == plain.flip(2)).all())
            for row, plain in zip(
                ready["input"],
                learner.preparation.normalise(batch["pixels"]),
                strict=True,
            )
        ]
    )
    assert 0 < mirrored.sum() < 6
    torch.testing.assert_close(
        ready["boxes"][mirrored][:, [0, 2]], 1 - batch["boxes"][mirrored][:, [2, 0]]
    )
    torch.testing.assert_close(ready["boxes"][~mirrored], batch["boxes"][~mirrored])
    assert learner.mirrors and learner.augment == []


def test_the_packaged_base_learns_boxes_and_opens_again(
    pack: Callable[[str], Path], tmp_path: Path
) -> None:
    pack("efficientnet-lite0")
    torch.manual_seed(0)
    learner = detection.learner(open_base("efficientnet-lite0"), SPEC, Config())
    batch = batch_of(learner)
    before = evaluate_batch(learner, batch)
    trained(learner, batch, 40, 2e-3)
    after = evaluate_batch(learner, batch)
    assert before["map"] < 0.2
    assert after["map"] > 0.6
    assert after["f1"] > 0.9
    learner.net.save_pretrained(tmp_path)
    learner.save(tmp_path)
    again = detection.learner(base_of(tmp_path, "bundle"), SPEC, Config())
    again.eval()
    pixels, objects = square(1)
    said = again.answer({"image": pixels})
    assert said == learner.answer({"image": pixels})
    assert said[0]["label"] == objects[0]["label"]
    assert (
        boxes.iou(
            *(
                np.array([[left, top, left + width, top + height]])
                for left, top, width, height in (said[0]["box"], objects[0]["box"])
            )
        )
        > 0.6
    )


def yolos() -> Any:
    return YolosForObjectDetection(
        YolosConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=[64, 64],
            patch_size=8,
            num_detection_tokens=5,
            num_labels=2,
        )
    )


def detr() -> Any:
    eyes = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage2"],
    )
    return DetrForObjectDetection(
        DetrConfig(
            backbone_config=eyes,
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_queries=5,
            num_labels=2,
        )
    )


@pytest.mark.parametrize("make", [yolos, detr])
def test_transformers_detectors_learn_and_open_again(
    tmp_path: Path, make: Callable[[], Any]
) -> None:
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "base")
    learner = detection.learner(
        base_of(tmp_path / "base"), SPEC, Config(image_size=64, threshold=0.0)
    )
    assert isinstance(learner, QueryDetector)
    batch = batch_of(learner)
    learner.eval()
    with torch.no_grad():
        before = learner.evaluate(prepared(learner, batch))
    trained(learner, batch, 30, 2e-3)
    learner.eval()
    with torch.no_grad():
        after = learner.evaluate(prepared(learner, batch))
    assert sum(item.loss for item in after) < 0.8 * sum(item.loss for item in before)
    learner.net.save_pretrained(tmp_path / "tuned")
    learner.save(tmp_path / "tuned")
    again = detection.learner(
        base_of(tmp_path / "tuned"), SPEC, Config(image_size=64, threshold=0.0)
    )
    again.eval()
    pixels, _ = square(0)
    said = again.answer({"image": pixels})
    assert said == learner.answer({"image": pixels})
    assert 0 < len(said) <= 100
    assert {item["label"] for item in said} <= {"blue", "red"}


def test_columns_and_errors() -> None:
    cut = detection.columns(
        {**PART, "objects": [{"label": "red", "box": [-4, 60, 10, 10]}]}, Config()
    )
    assert cut["objects"] == [{"label": "red", "box": [0, 60, 6, 4]}]
    lists = {"category": ["red", "blue"], "bbox": [[0, 0, 4, 4], [1, 1, 2, 2]]}
    assert [
        item["label"]
        for item in detection.columns({**PART, "objects": lists}, Config())["objects"]
    ] == ["red", "blue"]
    assert detection.columns(
        {**PART, "objects": [{"label": "red", "shares": [0.5, 0.5, 0.5, 0.25]}]},
        Config(),
    )["objects"][0]["box"] == [16, 24, 32, 16]
    for objects, said in (
        ([{"label": "red", "box": [70, 0, 4, 4]}], "outside"),
        ([{"box": [0, 0, 1, 1]}], "an object is"),
        (None, "no objects"),
    ):
        with pytest.raises(Unusable, match=said):
            detection.columns({**PART, "objects": objects}, Config())
    with pytest.raises(BadInput, match="leave the boxes where they are"):
        check_augmentations(["rotate"], detection.AUGMENTATIONS)


def test_evaluation_prepares_every_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = own()
    sizes = list[int]()
    prepare = type(learner).prepare

    def counted(self: Any, batch: Any) -> Any:
        assert "input" not in batch
        sizes.append(len(batch["pixels"]))
        return prepare(self, batch)

    monkeypatch.setattr(type(learner), "prepare", counted)
    pictures = [square(number) for number in range(5)]
    features = [
        learner.encode({**PART, "image": pixels, "objects": objects}, 0)
        for pixels, objects in pictures
    ]
    assert len(evaluate(learner, features, batch_size=2)) == 5
    assert sizes == [2, 2, 1]
    sizes.clear()
    learner.answer({"image": pictures[0][0]})
    assert sizes == [1]
