"""The image sheets of an evaluation: what numbers cannot say, to look at."""

from __future__ import annotations

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.image.memorisation import Neighbours, neighbours_in_features
from miaobi.evaluate.image.subject import ImageSubject
from miaobi.evaluate.score import random_generator
from miaobi.provenance.sheet import sheet

Sheet = tuple[np.ndarray, str]
"""Pixels uint8 [H, W, 3], and what they show."""
CELL = 84
"""Small images are enlarged to about so many pixels."""
COLUMNS = 10
ROWS = 6
NEIGHBOUR_ROWS = 8
"""Samples on each sheet of neighbours."""


def samples(subject: ImageSubject) -> Sheet:
    """Return sixty samples, none of them selected.

    There is a column for each class where the model is conditioned on the class.
    """
    images = subject.samples
    labels = images.labels if _takes_label(subject) else None
    scale = _scale(subject)
    if labels is None:
        order = random_generator(subject.seed).permutation(len(images))
        rows = np.sort(order[: COLUMNS * ROWS])
        pixels = sheet(images.pixels[rows], min(COLUMNS, len(rows)), scale=scale)
        return pixels, say("Drawn at random, none chosen.", "随机抽取，未经挑选。")
    frequent = [
        number
        for number in range(len(subject.spec.classes))
        if (labels == number).sum() >= ROWS
    ]
    classes = frequent[:COLUMNS]
    if not classes:
        pixels = sheet(images.pixels[: COLUMNS * ROWS], COLUMNS, scale=scale)
        return pixels, say("The first ones.", "前若干个。")
    columns = [np.flatnonzero(labels == number)[:ROWS] for number in classes]
    pixels = sheet(
        images.pixels[np.stack(columns, axis=1).ravel()],
        columns_labels=[subject.spec.classes[number] for number in classes],
        scale=scale,
    )
    caption = say("The first of each class, none chosen.", "每类的前几个，未经挑选。")
    return pixels, caption


def _takes_label(subject: ImageSubject) -> bool:
    return subject.net is not None and "label" in subject.net.controls


def neighbours(subject: ImageSubject) -> list[Sheet]:
    """Return samples with their three nearest training images, on two sheets.

    The first has the samples that lie nearest to a training image, the second as many
    drawn at random.
    """
    all_neighbours = neighbours_in_features(subject)
    closest = np.argsort(all_neighbours.nearest, kind="stable")[:NEIGHBOUR_ROWS]
    order = random_generator([subject.seed, 3]).permutation(len(subject.samples))
    drawn = np.sort(order[:NEIGHBOUR_ROWS])
    return [
        (
            _neighbour_sheet(subject, all_neighbours, closest),
            say(
                "The samples nearest to any training picture.", "距训练图片最近的样本。"
            ),
        ),
        (
            _neighbour_sheet(subject, all_neighbours, drawn),
            say("Drawn at random.", "随机抽取。"),
        ),
    ]


def _neighbour_sheet(
    subject: ImageSubject, neighbours: Neighbours, rows: np.ndarray
) -> np.ndarray:
    """Return a sheet with two groups of a sample and its neighbours in each row."""
    training = subject.training_subset.pixels
    cells = list[np.ndarray]()
    captions = list[str]()
    for row in rows:
        cells.append(subject.samples.pixels[row])
        cells.extend(training[neighbours.rows[row]])
        captions.append(say("sample", "样本"))
        captions.extend(f"{distance:.2f}" for distance in neighbours.distances[row])
    group = 1 + neighbours.rows.shape[1]
    return sheet(cells, 2 * group, captions=captions, scale=_scale(subject))


def reconstructions(subject: ImageSubject) -> Sheet:
    """Return held-out images above what the model makes of them.

    Models that translate have the source above both.
    """
    originals, reconstructed = subject.reconstructions
    originals = originals[:COLUMNS]
    reconstructed = reconstructed[:COLUMNS]
    if originals.sources is None:
        rows = {
            say("true", "原图"): originals.pixels,
            say("made", "生成"): reconstructed,
        }
    else:
        rows = {
            say("source", "源图"): originals.sources,
            say("made", "生成"): reconstructed,
            say("true", "真实"): originals.pixels,
        }
    cells = [image for row in rows.values() for image in row]
    pixels = sheet(
        cells, len(reconstructed), rows_labels=list(rows), scale=_scale(subject)
    )
    return pixels, say("Held-out pictures, drawn at random.", "随机抽取的留出图片。")


def _scale(subject: ImageSubject) -> int:
    """Return by what whole number small images are enlarged to about CELL pixels."""
    return max(1, CELL // max(subject.spec.height, subject.spec.width))
