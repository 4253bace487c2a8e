"""How far apart two crowds of pictures lie, without supposing Gaussians, and without
bias for few pictures.

    MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j),   k(x, y) = (x·y / D + 1)³

(Bińkowski et al. 2018, arXiv:1801.01401, who call it KID on Inception's features.) Its
expectation is zero where both come from one distribution, so it may well be a little
below zero.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from miaobi.core.language import say
from miaobi.evaluate.image.subject import PictureSubject
from miaobi.evaluate.score import RESAMPLES, Score
from miaobi.evaluate.text.subject import REFERENCE, SAMPLES

MODALITY = "image"
NEEDS = frozenset({SAMPLES, REFERENCE})
BLOCKS = 200


def measure(subject: PictureSubject) -> list[Score]:
    blocks = Blocks(subject.sample_features, subject.reference_features)
    value, (low, high) = blocks.value(), blocks.interval(subject.seed)
    beside = ""
    if subject.yardstick_features is not None:
        held = kernel_distance(subject.yardstick_features, subject.reference_features)
        beside = say(f"held-out pictures: {held:.2g}; ", f"留出图片：{held:.2g}；")
    return [
        Score(
            "kernel_distance",
            value,
            min(low, value),
            max(high, value),
            len(subject.sample_features),
            "",
            "lower",
            beside
            + say(
                f"cubic kernel on {subject.extractor.name} features, against "
                f"{subject.reference}; blocks of both resampled",
                f"{subject.extractor.name} 特征上的三次核，对照{subject.reference}；对两边按块重采样",
            ),
            say("Kernel distance", "核距离"),
        )
    ]


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased MMD² of features a [N, D] and b [M, D]."""
    return Blocks(a, b).value()


class Blocks:
    """Sums of k over blocks of pictures, at most 200 a side: from them the estimate
    under any weighting of the blocks.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        first, second = (
            torch.tensor(np.asarray(item), dtype=torch.float32) for item in (a, b)
        )
        self.sizes = [
            torch.tensor(
                [len(piece) for piece in item.tensor_split(min(BLOCKS, len(item)))],
                dtype=torch.float64,
            )
            for item in (first, second)
        ]
        self.within = [
            _sums(first, first, self.sizes[0], self.sizes[0], True),
            _sums(second, second, self.sizes[1], self.sizes[1], True),
        ]
        self.between = _sums(first, second, self.sizes[0], self.sizes[1], False)

    def value(self) -> float:
        return float(
            self.weighted(
                *(torch.ones(1, len(item), dtype=torch.float64) for item in self.sizes)
            )
        )

    def weighted(self, first: Tensor, second: Tensor) -> Tensor:
        """first [R, blocks of a], second [R, blocks of b]: how often each block was
        drawn -> MMD² [R].

        A picture is never paired with itself, however often it was drawn.
        """
        own = [
            _mean(weights, weights, sums, size[:, None] * size - size.diag())
            for weights, sums, size in zip(
                (first, second), self.within, self.sizes, strict=True
            )
        ]
        return (
            own[0]
            + own[1]
            - 2
            * _mean(first, second, self.between, self.sizes[0][:, None] * self.sizes[1])
        )

    def interval(self, seed: int) -> tuple[float, float]:
        """The block bootstrap's 2.5 and 97.5 percentiles: blocks of both sides are
        drawn anew 1,000 times.
        """
        draw = np.random.Generator(np.random.PCG64(seed))
        weights = [
            torch.from_numpy(
                draw.multinomial(
                    len(size), np.full(len(size), 1 / len(size)), size=RESAMPLES
                )
            ).double()
            for size in self.sizes
        ]
        low, high = np.percentile(self.weighted(*weights).numpy(), [2.5, 97.5])
        return float(low), float(high)


def _sums(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, same: bool) -> Tensor:
    """k summed over each pair of blocks [blocks of a, blocks of b], without pairs of a
    picture with itself when `same`.
    """
    found = torch.empty(len(rows), len(columns), dtype=torch.float64)
    ends = columns.long().cumsum(0)
    at = 0
    for place, size in enumerate(rows.long().tolist()):
        kernel = (a[at : at + size] @ b.T / a.shape[1] + 1).double() ** 3
        if same:
            kernel[torch.arange(size), torch.arange(at, at + size)] = 0
        totals = torch.cat([kernel.new_zeros(1), kernel.sum(0).cumsum(0)])
        found[place] = totals[ends] - totals[ends - columns.long()]
        at += size
    return found


def _mean(rows: Tensor, columns: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    return ((rows @ sums) * columns).sum(1) / ((rows @ counts) * columns).sum(1)
