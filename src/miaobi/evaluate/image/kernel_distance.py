"""How far apart two sets of images lie, without assuming Gaussians and without bias for
few images.

    MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j),   k(x, y) = (x·y / D + 1)³

(Bińkowski et al. 2018, arXiv:1801.01401, who call it KID on Inception's features.) Its
expectation is zero where both come from one distribution, so it may well be a little
below zero.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from miaobi.core.language import in_each, say
from miaobi.evaluate.image.subject import ImageSubject
from miaobi.evaluate.score import RESAMPLES, Score, random_generator
from miaobi.evaluate.subject import REFERENCE, SAMPLES

MODALITY = "image"
NEEDS = frozenset({SAMPLES, REFERENCE})
BLOCKS = 200


def measure(subject: ImageSubject) -> list[Score]:
    blocks = Blocks(subject.sample_features, subject.reference_features)
    value = blocks.value()
    low, high = blocks.interval(subject.seed)
    natural = ""
    if subject.baseline_features is not None:
        held_out = Blocks(subject.baseline_features, subject.reference_features)
        least, most = held_out.interval(subject.seed)
        natural = say(
            f"held-out pictures: {held_out.value():.2g} ({least:.2g} to {most:.2g}); ",
            f"留出图片：{held_out.value():.2g}（{least:.2g} 至 {most:.2g}）；",
        )
    return [
        Score(
            "kernel_distance",
            value,
            min(low, value),
            max(high, value),
            n=len(subject.sample_features),
            better="lower",
            detail=natural
            + in_each(
                lambda: say(
                    f"cubic kernel on {subject.extractor.name} features, against "
                    f"{subject.reference}; blocks of both resampled",
                    f"{subject.extractor.name} 特征上的三次核，对照{subject.reference}；对两边按块重采样",
                )
            ),
            label=say("Kernel distance", "核距离"),
        )
    ]


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased MMD² of features a [N, D] and b [M, D]."""
    return Blocks(a, b).value()


class Blocks:
    """Sums of k over blocks of images, at most 200 a side.

    They give the estimate under any weighting of the blocks.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        x = torch.tensor(np.asarray(a), dtype=torch.float32)
        y = torch.tensor(np.asarray(b), dtype=torch.float32)
        self.x_sizes = _block_sizes(x)
        self.y_sizes = _block_sizes(y)
        self.x_sums = _kernel_sums(x, x, self.x_sizes, self.x_sizes, same=True)
        self.y_sums = _kernel_sums(y, y, self.y_sizes, self.y_sizes, same=True)
        self.between = _kernel_sums(x, y, self.x_sizes, self.y_sizes, same=False)

    def value(self) -> float:
        """Return the estimate with every block once."""
        x_weights = torch.ones(1, len(self.x_sizes), dtype=torch.float64)
        y_weights = torch.ones(1, len(self.y_sizes), dtype=torch.float64)
        return float(self.weighted(x_weights, y_weights))

    def weighted(self, x_weights: Tensor, y_weights: Tensor) -> Tensor:
        """Return MMD² [R] under weights: how often each block was drawn.

        An image is never paired with itself, however often it was drawn.

        Args:
            x_weights: [R, blocks of a].
            y_weights: [R, blocks of b].
        """
        within_x = _mean(x_weights, x_weights, self.x_sums, _pair_counts(self.x_sizes))
        within_y = _mean(y_weights, y_weights, self.y_sums, _pair_counts(self.y_sizes))
        counts = self.x_sizes[:, None] * self.y_sizes
        between = _mean(x_weights, y_weights, self.between, counts)
        return within_x + within_y - 2 * between

    def interval(self, seed: int) -> tuple[float, float]:
        """Return the block bootstrap's 2.5 and 97.5 percentiles.

        Blocks of both sides are drawn anew 1,000 times.
        """
        draw = random_generator(seed)
        x_weights = _drawn_weights(len(self.x_sizes), draw)
        y_weights = _drawn_weights(len(self.y_sizes), draw)
        values = self.weighted(x_weights, y_weights).numpy()
        low, high = np.percentile(values, [2.5, 97.5])
        return float(low), float(high)


def _block_sizes(features: Tensor) -> Tensor:
    """Return how many images each block holds, float64 [blocks]."""
    blocks = features.tensor_split(min(BLOCKS, len(features)))
    return torch.tensor([len(block) for block in blocks], dtype=torch.float64)


def _pair_counts(sizes: Tensor) -> Tensor:
    """Return the pairs between blocks [blocks, blocks], without images with themselves."""
    return sizes[:, None] * sizes - sizes.diag()


def _drawn_weights(blocks: int, draw: np.random.Generator) -> Tensor:
    """Return how often each block is drawn, float64 [RESAMPLES, blocks]."""
    uniform = np.full(blocks, 1 / blocks)
    counts = draw.multinomial(blocks, uniform, size=RESAMPLES)
    return torch.from_numpy(counts).double()


def _kernel_sums(
    a: Tensor, b: Tensor, a_sizes: Tensor, b_sizes: Tensor, same: bool
) -> Tensor:
    """Return k summed over each pair of blocks, float64 [blocks of a, blocks of b].

    Args:
        a: Features [N, D].
        b: Features [M, D].
        a_sizes: Images in each block of a.
        b_sizes: Images in each block of b.
        same: a is b: leave out pairs of an image with itself.
    """
    sums = torch.empty(len(a_sizes), len(b_sizes), dtype=torch.float64)
    ends = b_sizes.long().cumsum(0)
    starts = ends - b_sizes.long()
    row = 0
    for index, size in enumerate(a_sizes.long().tolist()):
        kernel = (a[row : row + size] @ b.T / a.shape[1] + 1).double() ** 3
        if same:
            kernel[torch.arange(size), torch.arange(row, row + size)] = 0
        totals = torch.cat([kernel.new_zeros(1), kernel.sum(0).cumsum(0)])
        sums[index] = totals[ends] - totals[starts]
        row += size
    return sums


def _mean(rows: Tensor, columns: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Return means [R] under row weights [R, A] and column weights [R, B]."""
    return ((rows @ sums) * columns).sum(1) / ((rows @ counts) * columns).sum(1)
