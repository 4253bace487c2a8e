"""Whether the samples are new, or pictures of the training set again.

For each sample the nearest training picture, in features and in pixels. Held-out
pictures have nearest training pictures too: the share of samples that lie nearer than 5
% (1 %) of held-out pictures do should be about 5 % (1 %). Held-out pictures never take
part in training, so whatever makes the share larger is memory (Meehan et al. 2020,
arXiv:2004.05675, compare likewise).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.language import say
from miaobi.evaluate.image.subject import PictureSubject
from miaobi.evaluate.score import (
    RESAMPLES,
    Score,
    bootstrap,
    mean_interval,
    share_interval,
)
from miaobi.evaluate.text.subject import HELD_OUT, SAMPLES, TRAINING

MODALITY = "image"
NEEDS = frozenset({SAMPLES, TRAINING, HELD_OUT})
NEAREST = 3
SIDE = 64
"""Larger pictures are compared pixel by pixel at this size."""
ROWS = 4096
MOST = 2000
"""Held-out pictures to take the percentiles of."""


@dataclass(frozen=True)
class Neighbours:
    """rows int64 [N, 3] of the training pictures, distances float [N, 3]; the nearest first."""

    rows: np.ndarray
    distances: np.ndarray


def measure(subject: PictureSubject) -> list[Score]:
    return [
        *_scores(
            subject,
            "features",
            in_features(subject),
            nearest(subject.held_out_features[:MOST], subject.training_features),
            say(
                f"in {subject.extractor.name} features, among {len(subject.training_features):,} training pictures",
                f"在 {subject.extractor.name} 特征中，对照 {len(subject.training_features):,} 张训练图片",
            ),
            say("feature space", "特征空间"),
        ),
        *_scores(
            subject,
            "pixels",
            in_pixels(subject, subject.samples.pixels),
            in_pixels(subject, subject.chosen_held_out.pixels[:MOST]),
            say(
                f"root mean square of 0 to 255, among {len(subject.training or ()):,} training pictures",
                f"0–255 的均方根，对照 {len(subject.training or ()):,} 张训练图片",
            ),
            say("pixels", "像素"),
        ),
        _copies(subject),
    ]


def in_features(subject: PictureSubject) -> Neighbours:
    """Of each sample among `subject.chosen_training`."""
    return nearest(subject.sample_features, subject.training_features)


def in_pixels(subject: PictureSubject, pixels: np.ndarray) -> Neighbours:
    """Of pictures uint8 [N, H, W, C] among all training pictures; the distance is the
    root mean square of 0 to 255.
    """
    assert subject.training is not None
    found = nearest(flat(pixels), flat(subject.training.pixels))
    return Neighbours(found.rows, found.distances / np.sqrt(flat(pixels[:1]).shape[1]))


def flat(pixels: np.ndarray) -> np.ndarray:
    """[N, H, W, C] -> [N, values]: uint8 as they are, or float32 means over areas where
    they are larger than 64 a side.
    """
    longest = max(pixels.shape[1:3])
    if longest <= SIDE:
        return pixels.reshape(len(pixels), -1)
    size = [max(1, round(side * SIDE / longest)) for side in pixels.shape[1:3]]
    parts = [
        F.interpolate(
            torch.tensor(pixels[at : at + 256]).permute(0, 3, 1, 2).float(),
            size,
            mode="area",
        )
        for at in range(0, len(pixels), 256)
    ]
    return torch.cat(parts).flatten(1).numpy()


def nearest(points: np.ndarray, among: np.ndarray, count: int = NEAREST) -> Neighbours:
    """The `count` nearest of among [M, D] to each of points [N, D], exactly: found in
    single precision, then measured again.
    """
    count = min(count, len(among))
    x = torch.tensor(points).float()
    best, rows = (
        torch.full((len(x), 0), torch.inf),
        torch.zeros((len(x), 0), dtype=torch.int64),
    )
    for at in range(0, len(among), ROWS):
        y = torch.tensor(among[at : at + ROWS]).float()
        gaps = y.square().sum(1) - 2 * x @ y.T
        best, rows = _kept(
            torch.cat([best, gaps], 1),
            torch.cat([rows, torch.arange(at, at + len(y)).expand(len(x), -1)], 1),
            count + 2,
        )
    exact, rows = _kept(
        torch.cat(
            [
                _exactly(points[at : at + 64], among, rows[at : at + 64].numpy())
                for at in range(0, len(points), 64)
            ]
        ),
        rows,
        count,
    )
    return Neighbours(rows.numpy(), exact.numpy())


def _exactly(points: np.ndarray, among: np.ndarray, rows: np.ndarray) -> Tensor:
    """The distances of points [N, D] to among[rows [N, K]], in double precision."""
    return torch.from_numpy(
        np.linalg.norm(points[:, None].astype(np.float64) - among[rows], axis=2)
    )


def _kept(gaps: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    found = gaps.topk(min(count, gaps.shape[1]), largest=False)
    return found.values, rows.gather(1, found.indices)


def _scores(
    subject: PictureSubject,
    name: str,
    samples: Neighbours,
    held_out: Neighbours,
    where: str,
    space: str,
) -> list[Score]:
    found, natural = samples.distances[:, 0], held_out.distances[:, 0]
    value, low, high = mean_interval(found.tolist(), subject.seed)
    share, share_low, share_high = closer(found, natural, 5, subject.seed)
    fewer, _, _ = closer(found, natural, 1, subject.seed)
    return [
        Score(
            f"nearest_{name}",
            value,
            low,
            high,
            len(found),
            "",
            None,
            say(
                f"held-out pictures: {natural.mean():.2f}; {where}; samples resampled",
                f"留出图片：{natural.mean():.2f}；{where}；按样本重采样",
            ),
            say(f"Nearest training picture, {space}", f"最近的训练图片（{space}）"),
        ),
        Score(
            f"closer_{name}",
            share,
            share_low,
            share_high,
            len(found),
            "",
            "lower",
            say(
                "share that lies nearer than all but 5 % of held-out pictures "
                f"do: 0.05 where samples are new; for 1 %: {fewer:.3f}; both "
                "resampled",
                f"比 95% 的留出图片离训练图片更近的样本占比：全新样本应为 0.05；以 1% 为界：{fewer:.3f}；两者均重采样",
            ),
            say(
                f"Samples too near to training, {space}",
                f"过于接近训练图片的样本（{space}）",
            ),
        ),
    ]


def closer(
    found: np.ndarray, natural: np.ndarray, percent: float, seed: int
) -> tuple[float, float, float]:
    """(share of `found` below the `percent` percentile of `natural`, low, high): both
    resampled, and at least as wide as Wilson's.
    """
    limits = np.percentile(
        natural[
            np.random.Generator(np.random.PCG64([seed, 2])).integers(
                len(natural), size=(RESAMPLES, len(natural))
            )
        ],
        percent,
        axis=1,
    )
    low, high = bootstrap(
        lambda rows: (found[rows] < limits[:, None]).mean(1), len(found), seed
    )
    share, least, most = share_interval(
        float((found < np.percentile(natural, percent)).mean()), len(found)
    )
    return share, min(low, least), max(high, most)


def _copies(subject: PictureSubject) -> Score:
    assert subject.training is not None
    samples = [picture.tobytes() for picture in subject.samples.pixels]
    copied = set(samples) & {picture.tobytes() for picture in subject.training.pixels}
    value, low, high = share_interval(
        sum(sample in copied for sample in samples) / len(samples), len(samples)
    )
    return Score(
        "exact_copies",
        value,
        low,
        high,
        len(subject.samples),
        "",
        "lower",
        say(
            "samples that are a training picture in every pixel; Wilson's interval",
            "与某张训练图片逐像素相同的样本占比；Wilson 区间",
        ),
        say("Exact copies", "完全相同的副本"),
    )
