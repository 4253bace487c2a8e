"""Judging a model that paints: its subject, made of what is known of the model and its
data, and the sheets the page shows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from miaobi.core import bundle
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
from miaobi.nn.image import Paints, from_pixels, to_pixels

if TYPE_CHECKING:
    from miaobi.core.engine import Weights

SAMPLES, LIMIT = 1000, 10_000
ASKED_FOR = 3600.0
"""Seconds allowed for samples whose number was asked for."""


@dataclass(frozen=True)
class Known:
    """What the first model was judged by, for the one beside it."""

    name: str
    spec: PictureSpec
    held_out: ImageSet | None
    reference: ImageSet | None


def judge(
    name: str,
    weights: Weights,
    options: Options,
    known: Known | None,
    progress: Progress,
) -> ModelReport:
    """Open, measure and close one model. known: what another model was judged by."""
    from miaobi.engines.families.engine import PicturesEngine
    from miaobi.engines.load import load
    from miaobi.train.tracking import read_log

    began = time.monotonic()
    with load(name, engine=options.engine) as opened:
        engine = opened.engine
        if not isinstance(engine, PicturesEngine):
            raise Unsupported(
                say(
                    f"{name} runs on the engine {opened.engine_name}; models of the picture families can be judged.",
                    f"{name} 由 {opened.engine_name} 引擎运行；目前可评估的是图像模型家族。",
                ),
                say(
                    "Name a model that `miaobi train` made.",
                    "请给出由 `miaobi train` 生成的模型。",
                ),
            )
        subject = _subject(name, weights, engine.net, options, known)
        scores, missing = measure(subject, progress)
        label = weights.label
        sections = shown(subject, label)
        curve = tuple(read_log(weights.path)) if weights.format == "bundle" else ()
        place = (
            str(options.data)
            if options.data
            else say("its own", "自身数据")
            if subject.held_out
            else say("none", "无")
        )
        judged = Results(
            label,
            opened.engine_name,
            tuple(scores),
            tuple(missing),
            (),
            len(subject.held_out or ()),
            place,
            round(time.monotonic() - began, 1),
            curve,
        )
    settings = {
        say("Features", "特征"): subject.extractor.name,
        say("Samples", "样本数"): _samples(subject),
        say("Held-out pictures", "留出图片"): f"{judged.documents:,} ({place})",
        say("Training pictures", "训练图片"): f"{len(subject.training or ()):,}",
        say("Pictures", "图片规格"): _described(subject.spec, weights),
        say("Engine", "引擎"): judged.engine,
    }
    asked = "--image picture.png" if subject.takes_image else "--n 16 --seed 1"
    onward = (
        say("Have it paint:", "让它作画："),
        f"miaobi generate image --model {label} {asked} --out out/",
    )
    return ModelReport(
        judged,
        sections,
        settings,
        known or Known(label, subject.spec, subject.held_out, subject.training),
        onward,
    )


def _subject(
    name: str, weights: Weights, net: Paints, options: Options, known: Known | None
) -> ImageSubject:
    spec = net.spec
    if known is not None and (
        known.spec.height,
        known.spec.width,
        known.spec.channels,
    ) != (spec.height, spec.width, spec.channels):
        raise BadInput(
            say(
                f"{known.name} paints {_size(known.spec)}, {name} paints {_size(spec)}: no measure fits both.",
                f"{known.name} 的图片为 {_size(known.spec)}，{name} 的为 {_size(spec)}，无法用同一标准衡量。",
            ),
            say("Set models of one size beside each other.", "请比较同样尺寸的模型。"),
        )
    own = of_bundle(weights.path)
    training = crowd(own, "train") if own else None
    held_out = (
        known.held_out
        if known
        else _given(options.data, spec)
        if options.data
        else crowd(own, "test" if own.count("test") else "validation")
        if own
        else None
    )
    likelihood = str(
        (bundle.read(weights.path).recipe.get("model") or {}).get("likelihood", "")
    )
    return ImageSubject(
        name,
        spec,
        painter(net),
        open_extractor(options.extractor or DEFAULT, spec.height, spec.width),
        net,
        likelihood,
        training,
        _suited(held_out, spec),
        known.reference if known else None,
        count=options.samples or SAMPLES,
        seed=options.seed,
        limit=options.limit or LIMIT,
        **({"patience": ASKED_FOR} if options.samples else {}),
    )


def crowd(pictures: Pictures, split: str) -> ImageSet:
    spec = pictures.spec
    return ImageSet(
        pictures.pixels(split).transpose(0, 2, 3, 1),
        np.asarray(pictures.labels(split)) if spec.classes else None,
        pictures.sources(split).transpose(0, 2, 3, 1) if spec.source_channels else None,
    )


def _given(data: Path, spec: PictureSpec) -> ImageSet:
    """All pictures of a folder or file, as the model's own are: of its size and
    channels, its classes told by their names.
    """
    if spec.height != spec.width:
        raise Unsupported(
            say(
                f"The model's pictures are {_size(spec)}; --data brings pictures to squares only.",
                f"模型的图片为 {_size(spec)}；--data 只能处理成正方形。",
            ),
            say("Leave --data out.", "请去掉 --data。"),
        )
    found = prepare(
        Config(
            path=str(data),
            image_size=spec.height,
            channels=3 if spec.channels == 3 else 1,
            near_duplicates="keep",
        )
    )
    if bool(found.spec.source_channels) != bool(spec.source_channels):
        raise BadInput(
            say(
                f"{data} holds {'pairs' if found.spec.source_channels else 'single pictures'}, and the model "
                f"{'makes one picture of another' if spec.source_channels else 'is not one of pairs'}.",
                f"{data} 的内容{'是' if found.spec.source_channels else '不是'}成对图片，与模型不符。",
            ),
            say(
                "Give pictures as the model was trained on.",
                "请给出与训练数据同类的图片。",
            ),
        )
    parts = [crowd(found, split) for split in SPLITS if found.count(split)]
    labels = None
    if (
        spec.classes
        and set(found.spec.classes)
        and set(found.spec.classes) <= set(spec.classes)
    ):
        numbers = np.array([spec.classes.index(one) for one in found.spec.classes])
        labels = numbers[
            np.concatenate([part.labels for part in parts if part.labels is not None])
        ]
    sources = (
        np.concatenate([part.sources for part in parts if part.sources is not None])
        if spec.source_channels
        else None
    )
    return ImageSet(np.concatenate([part.pixels for part in parts]), labels, sources)


def _suited(held_out: ImageSet | None, spec: PictureSpec) -> ImageSet | None:
    """Another model's held-out pictures, with the classes and sources that this one knows of."""
    if held_out is None:
        return None
    return replace(
        held_out,
        labels=held_out.labels if spec.classes else None,
        sources=held_out.sources if spec.source_channels else None,
    )


def painter(net: Paints) -> Paint:
    """The network's `paint` for batches that follow given classes, or are made of given
    pictures.
    """

    def paint(count: int, after: ImageSet | None, seed: int) -> np.ndarray:
        label = (
            labels_of(after) if after is not None and "label" in net.controls else None
        )
        given = (
            None
            if after is None or "image" not in net.controls
            else after.pixels
            if after.sources is None
            else after.sources
        )
        source = None if given is None else from_pixels(torch.tensor(given))
        with torch.inference_mode():
            return to_pixels(
                net.paint(
                    count,
                    label=label,
                    source=source,
                    generator=torch.Generator().manual_seed(seed),
                )
            ).numpy()

    return paint


def _described(spec: PictureSpec, weights: Weights) -> str:
    own = of_bundle(weights.path)
    kind = say("grey", "灰度") if spec.channels == 1 else say("colour", "彩色")
    if own and own.meta["config"]["binarise"] != "no":
        # A decoder paints the probability of white, so its pictures are told from the
        # data at a glance, whatever they show.
        kind += say(
            "; the data is black or white and the samples are shades, which the distances measure as well",
            "；数据只有黑白两值，样本是灰度，距离也包含这一差异",
        )
    return f"{spec.width} × {spec.height}, {kind}"


def _samples(subject: ImageSubject) -> str:
    if not subject.takes_image:
        return f"{len(subject.samples):,}"
    return (
        say(
            f"made of {len(subject.samples):,} held-out pictures",
            f"由 {len(subject.samples):,} 张留出图片生成",
        )
        if subject.held_out
        else "0"
    )


def _size(spec: PictureSpec) -> str:
    return f"{spec.width} × {spec.height} × {spec.channels}"


def shown(
    subject: ImageSubject, label: str
) -> tuple[tuple[str, tuple[Block, ...]], ...]:
    """Samples, samples beside their nearest training pictures, and reconstructions, as
    sections of the page.
    """
    from miaobi.evaluate.page import images, prose
    from miaobi.evaluate.subject import RECONSTRUCTION

    def block(pixels: np.ndarray, text: str) -> Block:
        return images([(pixels, text)], label)

    made = list[tuple[str, tuple[Block, ...]]]()
    if not subject.takes_image:
        made.append(
            (
                say(f"Samples of {label}", f"{label} 的样本"),
                (block(*sheets.samples(subject)),),
            )
        )
    if not subject.lacks(memorisation.NEEDS):
        neighbours = [block(*item) for item in sheets.neighbours(subject)]
        made.append(
            (
                say(
                    f"Samples of {label} beside their nearest training pictures",
                    f"{label} 的样本与最近的训练图片",
                ),
                (
                    prose(
                        say(
                            "Left in each group the sample, then the three "
                            "nearest training pictures with their distance in "
                            "features.",
                            "每组左起为样本，随后是特征空间中最近的三张训练图片及其距离。",
                        )
                    ),
                    *neighbours,
                ),
            )
        )
    if not subject.lacks(frozenset({RECONSTRUCTION})) and subject.held_out:
        heading = (
            say(f"Translations by {label}", f"{label} 的转换结果")
            if subject.spec.source_channels
            else say(f"Reconstructions by {label}", f"{label} 的重建")
        )
        made.append((heading, (block(*sheets.reconstructions(subject)),)))
    return tuple(made)
