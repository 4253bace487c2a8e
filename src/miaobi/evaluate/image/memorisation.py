"""Whether the samples are new, or images of the training set again.

For each sample the nearest training image, in features and in pixels. Held-out images
have nearest training images too: the share of samples that lie nearer than 5 % (1 %) of
held-out images do should be about 5 % (1 %). Held-out images never take part in
training, so whatever makes the share larger is memory (Meehan et al. 2020,
arXiv:2004.05675, compare likewise).

Training images count mirrored left to right too: in pixels always, in features where
the model was trained on mirrored ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.language import in_each, say
from miaobi.evaluate.image.subject import ImageSet, ImageSubject, mirrored
from miaobi.evaluate.score import (
    RESAMPLES,
    Estimate,
    Score,
    bootstrap,
    mean_interval,
    random_generator,
    share_interval,
)
from miaobi.evaluate.subject import HELD_OUT, SAMPLES, TRAINING

MODALITY = "image"
NEEDS = frozenset({SAMPLES, TRAINING, HELD_OUT})
NEAREST = 3
SPARE = 2
"""Candidates beyond those wanted, since single precision may swap near ones."""
SIDE = 64
"""Larger images are compared pixel by pixel at this size."""
SHRINK_BATCH = 256
SEARCH_BATCH = 4096
EXACT_BATCH = 64
MAX_HELD_OUT = 2000
"""Held-out images to take the percentiles of."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest training images of N images; the nearest first."""

    rows: np.ndarray
    """int64 [N, K]."""
    distances: np.ndarray
    """float [N, K]."""

    @property
    def nearest(self) -> np.ndarray:
        """The distances to the nearest, [N]."""
        nearest: np.ndarray = self.distances[:, 0]
        return nearest

    def with_others(self, others: Neighbours) -> Neighbours:
        """Return the nearest of both, as many as here."""
        rows = np.concatenate([self.rows, others.rows], axis=1)
        distances = np.concatenate([self.distances, others.distances], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, : self.rows.shape[1]]
        return Neighbours(
            np.take_along_axis(rows, order, axis=1),
            np.take_along_axis(distances, order, axis=1),
        )


def measure(subject: ImageSubject) -> list[Score]:
    in_features = neighbours_in_features(subject)
    held_out_in_features = _nearest_in_features(
        subject, subject.held_out_features[:MAX_HELD_OUT]
    )
    features_detail = say(
        f"in {subject.extractor.name} features, among {len(subject.training_features):,} training pictures"
        + (", mirrored ones too" if subject.flipped else ""),
        f"在 {subject.extractor.name} 特征中，对照 {len(subject.training_features):,} 张训练图片"
        + ("及其镜像" if subject.flipped else ""),
    )
    assert subject.training is not None
    training = flat(subject.training.pixels)
    in_pixels = neighbours_in_pixels(subject.samples, training)
    held_out_in_pixels = neighbours_in_pixels(
        subject.held_out_subset[:MAX_HELD_OUT], training
    )
    pixels_detail = say(
        f"root mean square of 0 to 255, among {len(subject.training or ()):,} training pictures, mirrored ones too",
        f"0–255 的均方根，对照 {len(subject.training or ()):,} 张训练图片及其镜像",
    )
    features = Space("features", say("feature space", "特征空间"), features_detail)
    pixels = Space("pixels", say("pixels", "像素"), pixels_detail)
    seed = subject.seed
    return [
        *_scores(features, in_features.nearest, held_out_in_features.nearest, seed),
        *_scores(pixels, in_pixels.nearest, held_out_in_pixels.nearest, seed),
        _exact_copies(subject),
    ]


@dataclass(frozen=True)
class Space:
    """Where distances are measured."""

    name: str
    """Part of the scores' names."""
    label: str
    detail: str


def neighbours_in_features(subject: ImageSubject) -> Neighbours:
    """Return those of each sample among `subject.training_subset`."""
    return _nearest_in_features(subject, subject.sample_features)


def _nearest_in_features(subject: ImageSubject, features: np.ndarray) -> Neighbours:
    """Those of features [N, D], among mirrored training images where there were some."""
    neighbours = nearest(features, subject.training_features)
    if not subject.flipped:
        return neighbours
    others = nearest(features, subject.mirrored_training_features)
    return neighbours.with_others(others)


def neighbours_in_pixels(images: ImageSet, training: np.ndarray) -> Neighbours:
    """Return those of images among all training images, as they are and mirrored.

    The distance is the root mean square of 0 to 255. An image is as far from a mirrored
    one as its own mirror image is from that one as it is; so the images are mirrored,
    which are far fewer.

    Args:
        images: N of them
        training: the training images as points [M, values] (`flat`)
    """
    points = flat(images.pixels)
    neighbours = nearest(points, training).with_others(
        nearest(flat(mirrored(images).pixels), training)
    )
    return Neighbours(neighbours.rows, neighbours.distances / np.sqrt(points.shape[1]))


def flat(pixels: np.ndarray) -> np.ndarray:
    """Return images [N, H, W, C] as points [N, values].

    They stay uint8 as they are, or become float32 means over areas where they are
    larger than 64 a side.
    """
    height, width = pixels.shape[1:3]
    longest = max(height, width)
    if longest <= SIDE:
        return pixels.reshape(len(pixels), -1)
    size = [max(1, round(side * SIDE / longest)) for side in (height, width)]
    parts = [
        _shrink(pixels[start : start + SHRINK_BATCH], size)
        for start in range(0, len(pixels), SHRINK_BATCH)
    ]
    points: np.ndarray = torch.cat(parts).flatten(1).numpy()
    return points


def _shrink(pixels: np.ndarray, size: list[int]) -> Tensor:
    """Return float32 [B, C, *size]: means over areas of images uint8 [B, H, W, C]."""
    images = torch.tensor(pixels).permute(0, 3, 1, 2).float()
    return F.interpolate(images, size, mode="area")


def nearest(points: np.ndarray, among: np.ndarray, count: int = NEAREST) -> Neighbours:
    """Return the `count` nearest of among [M, D] to each of points [N, D], exactly.

    They are searched in single precision, then measured again in double.
    """
    count = min(count, len(among))
    x = torch.tensor(points).float()
    best = torch.full((len(x), 0), torch.inf)
    rows = torch.zeros((len(x), 0), dtype=torch.int64)
    for start in range(0, len(among), SEARCH_BATCH):
        y = torch.tensor(among[start : start + SEARCH_BATCH]).float()
        # ‖x - y‖² without ‖x‖², which is the same for all y.
        gaps = y.square().sum(1) - 2 * x @ y.T
        y_rows = torch.arange(start, start + len(y)).expand(len(x), -1)
        best, rows = _smallest(
            torch.cat([best, gaps], 1), torch.cat([rows, y_rows], 1), count + SPARE
        )
    exact = [
        _exact_distances(
            points[start : start + EXACT_BATCH],
            among,
            rows[start : start + EXACT_BATCH].numpy(),
        )
        for start in range(0, len(points), EXACT_BATCH)
    ]
    distances, rows = _smallest(torch.cat(exact), rows, count)
    return Neighbours(rows.numpy(), distances.numpy())


def _exact_distances(points: np.ndarray, among: np.ndarray, rows: np.ndarray) -> Tensor:
    """Return the distances of points [N, D] to among[rows [N, K]], float64 [N, K]."""
    gaps = points[:, None].astype(np.float64) - among[rows]
    return torch.from_numpy(np.linalg.norm(gaps, axis=2))


def _smallest(gaps: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` smallest gaps of each point, ascending, with their rows."""
    values, indices = gaps.topk(min(count, gaps.shape[1]), largest=False)
    return values, rows.gather(1, indices)


def _scores(
    space: Space, distances: np.ndarray, natural: np.ndarray, seed: int
) -> list[Score]:
    """Return the scores of one space.

    Args:
        space: Where the distances were measured.
        distances: Of each sample to its nearest training image.
        natural: The same of held-out images.
        seed: Decides the resampling.
    """
    one_percent = share_closer(distances, natural, 1, seed).value
    return [
        Score(
            f"nearest_{space.name}",
            *mean_interval(distances.tolist(), seed),
            n=len(distances),
            detail=in_each(
                lambda: say(
                    f"held-out pictures: {natural.mean():.2f}; {space.detail}; samples resampled",
                    f"留出图片：{natural.mean():.2f}；{space.detail}；按样本重采样",
                )
            ),
            label=in_each(
                lambda: say(
                    f"Nearest training picture, {space.label}",
                    f"最近的训练图片（{space.label}）",
                )
            ),
        ),
        Score(
            f"closer_{space.name}",
            *share_closer(distances, natural, 5, seed),
            n=len(distances),
            better="lower",
            detail=say(
                "share that lies nearer than all but 5 % of held-out pictures "
                f"do: 0.05 where samples are new; for 1 %: {one_percent:.3f}; both "
                "resampled",
                "比 95% 的留出图片离训练图片更近的样本占比：全新样本应为 0.05；"
                f"以 1% 为界：{one_percent:.3f}；两者均重采样",
            ),
            label=in_each(
                lambda: say(
                    f"Samples too near to training, {space.label}",
                    f"过于接近训练图片的样本（{space.label}）",
                )
            ),
        ),
    ]


def share_closer(
    distances: np.ndarray, natural: np.ndarray, percent: float, seed: int
) -> Estimate:
    """Return the share of `distances` below the `percent` percentile of `natural`.

    Both are resampled; the interval is at least as wide as Wilson's.
    """
    draw = random_generator([seed, 2])
    rows = draw.integers(len(natural), size=(RESAMPLES, len(natural)))
    limits = np.percentile(natural[rows], percent, axis=1)
    low, high = bootstrap(
        lambda rows: (distances[rows] < limits[:, None]).mean(1), len(distances), seed
    )
    closer = distances < np.percentile(natural, percent)
    wilson = share_interval(float(closer.mean()), len(distances))
    return Estimate(wilson.value, min(low, wilson.low), max(high, wilson.high))


def _exact_copies(subject: ImageSubject) -> Score:
    assert subject.training is not None
    samples = [image.tobytes() for image in subject.samples.pixels]
    mirror_images = [image.tobytes() for image in mirrored(subject.samples).pixels]
    copied = {*samples, *mirror_images}.intersection(
        image.tobytes() for image in subject.training.pixels
    )
    share = sum(
        sample in copied or mirror_image in copied
        for sample, mirror_image in zip(samples, mirror_images, strict=True)
    ) / len(samples)
    return Score(
        "exact_copies",
        *share_interval(share, len(samples)),
        n=len(samples),
        better="lower",
        detail=say(
            "samples that are a training picture in every pixel, as it is or mirrored; "
            "Wilson's interval",
            "与某张训练图片或其镜像逐像素相同的样本占比；Wilson 区间",
        ),
        label=say("Exact copies", "完全相同的副本"),
    )
