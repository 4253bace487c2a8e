"""Evaluate a picture model: open it, find its held-out and training pictures, measure,
and choose what the page shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.data.image.config import SPLITS
from miaobi.data.image.prepared import (
    Config,
    Pictures,
    PictureSpec,
    of_bundle,
    prepare,
)
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results, measure
from miaobi.evaluate.image import memorisation, sheets
from miaobi.evaluate.image.extractors import DEFAULT, open_extractor
from miaobi.evaluate.image.subject import ImageSet, ImageSubject, Paint, labels_of
from miaobi.evaluate.page import Block
from miaobi.evaluate.subject import RECONSTRUCTION
from miaobi.nn.image import Conditions, Paints, from_pixels, to_pixels

if TYPE_CHECKING:
    from miaobi.core.engine import Weights

SAMPLES = 1000
"""Pictures to generate, where --samples sets no number."""
LIMIT = 10_000
"""Held-out and training pictures, where --limit sets no number."""
SECONDS = 180.0
"""For samples whose number was not set."""
SECONDS_FOR_SET_NUMBER = 3600.0
"""For samples whose number was set."""


LEAD = (
    "How close its pictures come to real ones, how varied they "
    "are, how much they copy; every score with its sample size "
    "and interval.",
    "图片的逼真程度、多样性与复制程度；每个数字都附样本量与置信区间。",
)


@dataclass(frozen=True)
class Reference:
    """What the second model is evaluated by: the first one's pictures."""

    name: str
    spec: PictureSpec
    held_out: ImageSet | None
    training: ImageSet | None


def evaluates(models: Sequence[Weights]) -> bool:
    return all(weights.modality == "image" for weights in models)


def evaluate_model(
    name: str,
    weights: Weights,
    options: Options,
    reference: Reference | None,
    progress: Progress,
) -> ModelReport:
    """Open, evaluate and close one model; see Evaluator."""
    from miaobi.engines.families.engine import PicturesEngine
    from miaobi.engines.load import load
    from miaobi.train.tracking import read_log

    began = time.monotonic()
    with load(weights, engine=options.engine) as opened:
        engine = opened.engine
        if not isinstance(engine, PicturesEngine):
            raise Unsupported(
                say(
                    f"{name} runs on the engine {opened.engine_name}; only models of the picture families "
                    "can be evaluated.",
                    f"{name} 由 {opened.engine_name} 引擎运行；目前可评估的是图像模型家族。",
                ),
                say(
                    "Name a model that `miaobi train` made.",
                    "请给出由 `miaobi train` 生成的模型。",
                ),
            )
        subject = _subject(name, weights, engine.net, options, reference)
        scores, missing = measure(subject, progress)
        label = weights.label
        sections = _sections(subject, label)
        is_bundle = weights.format == "bundle"
        results = Results(
            model=label,
            engine=opened.engine_name,
            scores=tuple(scores),
            missing=tuple(missing),
            samples=(),
            documents=len(subject.held_out or ()),
            data=_source(subject, options),
            seconds=round(time.monotonic() - began, 1),
            curve=tuple(read_log(weights.path)) if is_bundle else (),
        )
    return ModelReport(
        results,
        sections,
        _settings(subject, weights, results),
        reference or Reference(label, subject.spec, subject.held_out, subject.training),
        _next_step(subject, label),
    )


def _source(subject: ImageSubject, options: Options) -> str:
    """Return in words where the held-out pictures are from."""
    if options.data is not None:
        return str(options.data)
    if subject.held_out:
        return say("its own", "自身数据")
    return say("none", "无")


def _settings(
    subject: ImageSubject, weights: Weights, results: Results
) -> dict[str, str]:
    return {
        say("Features", "特征"): subject.extractor.name,
        say("Samples", "样本数"): _samples(subject),
        say("Held-out pictures", "留出图片"): f"{results.documents:,} ({results.data})",
        say("Training pictures", "训练图片"): f"{len(subject.training or ()):,}",
        say("Pictures", "图片规格"): _description(subject.spec, weights),
        say("Engine", "引擎"): results.engine,
    }


def _next_step(subject: ImageSubject, label: str) -> tuple[str, str]:
    flags = "--image picture.png" if subject.takes_image else "--n 16 --seed 1"
    return (
        say("Generate pictures with it:", "用它生成图片："),
        f"miaobi generate image --model {label} {flags} --out out/",
    )


def _subject(
    name: str,
    weights: Weights,
    net: Paints,
    options: Options,
    reference: Reference | None,
) -> ImageSubject:
    spec = net.spec
    if reference is not None:
        _check_same_size(reference, name, spec)
    own = of_bundle(weights.manifest)
    recipe = weights.manifest.recipe if weights.manifest else {}
    model_settings = recipe.get("model") or {}
    data_settings = recipe.get("data") or {}
    return ImageSubject(
        name=name,
        spec=spec,
        paint=painter(net),
        extractor=open_extractor(options.extractor or DEFAULT, spec.height, spec.width),
        net=net,
        likelihood=str(model_settings.get("likelihood", "")),
        training=_image_set(own, "train") if own else None,
        held_out=_held_out(own, spec, options, reference),
        compared=reference.training if reference else None,
        binarised=data_settings.get("binarise", "no") != "no",
        flipped="flip" in (data_settings.get("augment") or ()),
        count=options.samples or SAMPLES,
        seed=options.seed,
        limit=options.limit or LIMIT,
        patience=SECONDS_FOR_SET_NUMBER if options.samples else SECONDS,
    )


def _check_same_size(reference: Reference, name: str, spec: PictureSpec) -> None:
    """Raise BadInput where two models generate pictures of different shapes."""
    sizes = _size(reference.spec), _size(spec)
    if sizes[0] != sizes[1]:
        raise BadInput(
            say(
                f"{reference.name} generates {sizes[0]}, {name} generates {sizes[1]}: no measure fits both.",
                f"{reference.name} 的图片为 {sizes[0]}，{name} 的为 {sizes[1]}，无法用同一标准衡量。",
            ),
            say("Compare models of one size.", "请比较同样尺寸的模型。"),
        )


def _held_out(
    own: Pictures | None,
    spec: PictureSpec,
    options: Options,
    reference: Reference | None,
) -> ImageSet | None:
    """Return held-out pictures: the first model's, those of --data, or the model's own.

    They have the classes and sources that the model knows.
    """
    if reference is not None:
        images = reference.held_out
    elif options.data is not None:
        images = _read(options.data, spec)
    elif own is not None:
        images = _image_set(own, "test" if own.count("test") else "validation")
    else:
        images = None
    if images is None:
        return None
    return replace(
        images,
        labels=images.labels if spec.classes else None,
        sources=images.sources if spec.source_channels else None,
    )


def _image_set(pictures: Pictures, split: str) -> ImageSet:
    spec = pictures.spec
    labels = sources = None
    if spec.classes:
        labels = np.asarray(pictures.labels(split))
    if spec.source_channels:
        sources = pictures.sources(split).transpose(0, 2, 3, 1)
    return ImageSet(pictures.pixels(split).transpose(0, 2, 3, 1), labels, sources)


def _read(data: Path, spec: PictureSpec) -> ImageSet:
    """Return all pictures of a folder or file at the model's size and channels.

    Classes are matched by their names; pictures with other classes have no labels.
    """
    if spec.height != spec.width:
        raise Unsupported(
            say(
                f"The model's pictures are {_size(spec)}; --data brings pictures to squares only.",
                f"模型的图片为 {_size(spec)}；--data 只能处理成正方形。",
            ),
            say("Leave --data out.", "请去掉 --data。"),
        )
    pictures = prepare(
        Config(
            path=str(data),
            image_size=spec.height,
            channels=3 if spec.channels == 3 else 1,
            near_duplicates="keep",
            pairs=bool(spec.source_channels),
        ),
        summary=False,
    )
    _check_same_kind(data, pictures.spec, spec)
    parts = [_image_set(pictures, split) for split in SPLITS if pictures.count(split)]
    pixels = np.concatenate([part.pixels for part in parts])
    labels = sources = None
    classes = pictures.spec.classes
    if spec.classes and classes and set(classes) <= set(spec.classes):
        numbers = np.array([spec.classes.index(name) for name in classes])
        own_labels = [part.labels for part in parts if part.labels is not None]
        labels = numbers[np.concatenate(own_labels)]
    if spec.source_channels:
        sources = np.concatenate(
            [part.sources for part in parts if part.sources is not None]
        )
    return ImageSet(pixels, labels, sources)


def _check_same_kind(data: Path, spec: PictureSpec, own: PictureSpec) -> None:
    """Raise BadInput for pairs where the model takes single pictures, and the reverse."""
    if bool(spec.source_channels) == bool(own.source_channels):
        return
    remedy = say(
        "Use pictures such as the model was trained on.",
        "请给出与训练数据同类的图片。",
    )
    if spec.source_channels:
        raise BadInput(
            say(
                f"{data} holds pairs, and the model is not one of pairs.",
                f"{data} 的内容是成对图片，与模型不符。",
            ),
            remedy,
        )
    raise BadInput(
        say(
            f"{data} holds single pictures, and the model makes one picture of another.",
            f"{data} 的内容不是成对图片，与模型不符。",
        ),
        remedy,
    )


def painter(net: Paints) -> Paint:
    """Return the network's `paint` for batches conditioned on classes or pictures."""

    def paint(count: int, conditions: ImageSet | None, seed: int) -> np.ndarray:
        label = source = None
        if conditions is not None and "label" in net.controls:
            label = labels_of(conditions)
        if conditions is not None and "image" in net.controls:
            pixels = conditions.sources
            if pixels is None:
                pixels = conditions.pixels
            source = from_pixels(torch.tensor(pixels))
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            pictures = net.paint(count, Conditions(label, source), generator)
        return to_pixels(pictures).numpy()

    return paint


def _description(spec: PictureSpec, weights: Weights) -> str:
    own = of_bundle(weights.manifest)
    kind = say("grey", "灰度") if spec.channels == 1 else say("colour", "彩色")
    if own and own.meta["config"]["binarise"] != "no":
        # A decoder generates the probability of white.
        kind += say(
            "; the data is black or white and the samples are shades, so they are not compared",
            "；数据只有黑白两值，样本是灰度，故不作比较",
        )
    return f"{spec.width} × {spec.height}, " + kind


def _samples(subject: ImageSubject) -> str:
    if not subject.takes_image:
        return f"{len(subject.samples):,}"
    if not subject.held_out:
        return "0"
    count = len(subject.samples)
    return say(f"made of {count:,} held-out pictures", f"由 {count:,} 张留出图片生成")


def _size(spec: PictureSpec) -> str:
    return f"{spec.width} × {spec.height} × {spec.channels}"


def _sections(
    subject: ImageSubject, label: str
) -> tuple[tuple[str, tuple[Block, ...]], ...]:
    """Return samples, samples beside their nearest training pictures, reconstructions."""
    from miaobi.evaluate.page import images, prose

    sections = list[tuple[str, tuple[Block, ...]]]()
    if not subject.takes_image:
        heading = say(f"Samples of {label}", f"{label} 的样本")
        sections.append((heading, (images([sheets.samples(subject)], label),)))
    if not subject.lacks(memorisation.NEEDS):
        heading = say(
            f"Samples of {label} beside their nearest training pictures",
            f"{label} 的样本与最近的训练图片",
        )
        legend = prose(
            say(
                "Left in each group the sample, then the three "
                "nearest training pictures with their distance in "
                "features.",
                "每组左起为样本，随后是特征空间中最近的三张训练图片及其距离。",
            )
        )
        neighbours = [images([sheet], label) for sheet in sheets.neighbours(subject)]
        sections.append((heading, (legend, *neighbours)))
    if not subject.lacks(frozenset({RECONSTRUCTION})) and subject.held_out:
        if subject.spec.source_channels:
            heading = say(f"Translations by {label}", f"{label} 的转换结果")
        else:
            heading = say(f"Reconstructions by {label}", f"{label} 的重建")
        reconstructions = images([sheets.reconstructions(subject)], label)
        sections.append((heading, (reconstructions,)))
    return tuple(sections)
