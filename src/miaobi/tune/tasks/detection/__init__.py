"""Object detection: boxes with labels in an image.

efficientnet-lite0 gets a head of ours (heat_maps.py); Transformers' own detectors
(DETR, YOLOS, RT-DETR, D-FINE ...) keep theirs (query.py). Images are stretched to the
model's size, so that a box is a share of the sides; answers are in pixels of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.labelled.images import picture_columns, picture_of
from miaobi.data.text.shapes import unseen
from miaobi.models.base import Base
from miaobi.tune.heads import DetectionHead as Config
from miaobi.tune.image.input import check_augmentations
from miaobi.tune.image.learner import label_counts, net_for, side_of
from miaobi.tune.image.nets import LiteForObjectDetection
from miaobi.tune.learner import Example
from miaobi.tune.tasks.detection.detector import Detector
from miaobi.tune.tasks.detection.heat_maps import HeatMapDetector
from miaobi.tune.tasks.detection.query import QueryDetector
from miaobi.tune.tasks.detection.records import EXAMPLE, objects_of

__all__ = ["Config", "Detector", "HeatMapDetector", "QueryDetector"]

NAME = "object-detection"
SUMMARY = "boxes with labels in each picture", "在每张图片中框出带标签的物体"
MODALITY = "image"
READER = "labelled/boxes"
MAKES = "labels"
ASK = "--image photo.png"
AUGMENTATIONS = ("flip", "colour", "noise", "cutout")
"""Those that leave boxes where they are, or move them in a known way."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    picture = picture_of(record, EXAMPLE)
    objects = objects_of(record, picture["width"], picture["height"])
    return {**picture, "objects": objects}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return picture_columns(columns)


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    labels = [
        item["label"] for example in examples for item in example.columns["objects"]
    ]
    if not labels:
        raise BadInput(
            say("No picture has a box.", "没有任何图片带有标注框。"),
            say(f"Expected {EXAMPLE}", f"应为 {EXAMPLE}"),
        )
    counts = label_counts(labels)
    check_augmentations(config.augment, AUGMENTATIONS)
    return {"labels": list(counts), "counts": counts, "side": side_of(examples)}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    for item in example.columns["objects"]:
        if item["label"] not in spec["labels"]:
            raise unseen(item["label"], spec["labels"])


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Detector:
    from transformers import AutoModelForObjectDetection

    net = net_for(
        base,
        AutoModelForObjectDetection,
        LiteForObjectDetection,
        spec["labels"],
        0.0,
    )
    if isinstance(net, LiteForObjectDetection):
        return HeatMapDetector(net, base, spec, config)
    return QueryDetector(net, base, spec, config)
