"""The sheets of an evaluation: what figures cannot say, to be looked at. Each is
(pixels uint8 [H, W, 3], what it shows).
"""

from __future__ import annotations

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.image import memorisation as picture_memorisation
from miaobi.evaluate.image.subject import PictureSubject
from miaobi.provenance.sheet import sheet

Shown = tuple[np.ndarray, str]
CELL = 84
"""Pixels a picture is enlarged to at least, about."""
COLUMNS, ROWS = 10, 6
CLOSE = 8


def samples(subject: PictureSubject) -> Shown:
    """Sixty samples drawn at random; a column for each class where the model is told the class."""
    made, draw = subject.samples, np.random.Generator(np.random.PCG64(subject.seed))
    told = made.labels if subject.net and "label" in subject.net.controls else None
    if told is None:
        rows = np.sort(draw.permutation(len(made))[: COLUMNS * ROWS])
        return sheet(
            made.pixels[rows], min(COLUMNS, len(rows)), scale=_scale(subject)
        ), say("Drawn at random, none chosen.", "随机抽取，未经挑选。")
    classes = [
        number
        for number in range(len(subject.spec.classes))
        if (told == number).sum() >= ROWS
    ][:COLUMNS]
    columns = [np.flatnonzero(told == number)[:ROWS] for number in classes]
    if not columns:
        return sheet(
            made.pixels[: COLUMNS * ROWS], COLUMNS, scale=_scale(subject)
        ), say("The first ones.", "前若干个。")
    rows = np.stack(columns, axis=1).ravel()
    return sheet(
        made.pixels[rows],
        columns_labels=[subject.spec.classes[number] for number in classes],
        scale=_scale(subject),
    ), say("The first of each class, none chosen.", "每类的前几个，未经挑选。")


def neighbours(subject: PictureSubject) -> list[Shown]:
    """The samples that lie nearest to a training picture, and as many drawn at random,
    each with its three nearest.
    """
    found = picture_memorisation.in_features(subject)
    nearest = np.argsort(found.distances[:, 0], kind="stable")[:CLOSE]
    chance = np.sort(
        np.random.Generator(np.random.PCG64([subject.seed, 3])).permutation(
            len(subject.samples)
        )[:CLOSE]
    )
    return [
        (
            _beside(subject, found, nearest),
            say(
                "The samples nearest to any training picture.", "距训练图片最近的样本。"
            ),
        ),
        (_beside(subject, found, chance), say("Drawn at random.", "随机抽取。")),
    ]


def _beside(
    subject: PictureSubject, found: picture_memorisation.Neighbours, rows: np.ndarray
) -> np.ndarray:
    """Two groups of sample and neighbours in each row."""
    known, cells, captions = (
        subject.chosen_training.pixels,
        list[np.ndarray](),
        list[str](),
    )
    for row in rows:
        cells += [subject.samples.pixels[row], *known[found.rows[row]]]
        captions += [
            say("sample", "样本"),
            *(f"{distance:.2f}" for distance in found.distances[row]),
        ]
    return sheet(
        cells, 2 * (1 + found.rows.shape[1]), captions=captions, scale=_scale(subject)
    )


def rebuilt(subject: PictureSubject) -> Shown:
    """Held-out pictures above what the model makes of them; for models that translate,
    the source above both.
    """
    originals, made = subject.rebuilt
    originals, made = originals[slice(0, COLUMNS)], made[:COLUMNS]
    rows = {say("true", "原图"): originals.pixels, say("made", "生成"): made}
    if originals.sources is not None:
        rows = {
            say("source", "源图"): originals.sources,
            say("made", "生成"): made,
            say("true", "真实"): originals.pixels,
        }
    cells = [picture for row in rows.values() for picture in row]
    return sheet(cells, len(made), rows_labels=list(rows), scale=_scale(subject)), say(
        "Held-out pictures, drawn at random.", "随机抽取的留出图片。"
    )


def _scale(subject: PictureSubject) -> int | None:
    """Whole times that bring small pictures to about CELL; larger ones stay as they are."""
    return max(1, CELL // max(subject.spec.height, subject.spec.width))
