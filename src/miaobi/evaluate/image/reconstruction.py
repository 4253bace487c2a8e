"""How much of a held-out picture survives being encoded and decoded; for models that
translate, how near they come to the true one.

MSE = mean (x - x̂)², values in [0, 1]       PSNR = -10 log10 MSE, dB
SSIM = (2 μ_x μ_y + c_1)(2 σ_xy + c_2) / ((μ_x² + μ_y² + c_1)(σ_x² + σ_y² + c_2)), mean over 11 × 11 Gaussian windows, σ = 1.5,
       c_1 = 0.01², c_2 = 0.03²              (Wang et al. 2004, IEEE TIP 13:4)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.language import say
from miaobi.evaluate.image.subject import PictureSubject
from miaobi.evaluate.score import Score, mean_interval
from miaobi.evaluate.text.subject import HELD_OUT, REBUILDING

MODALITY = "image"
NEEDS = frozenset({HELD_OUT, REBUILDING})
WINDOW, SIGMA = 11, 1.5


def measure(subject: PictureSubject) -> list[Score]:
    originals, made = subject.rebuilt
    errors = squared_errors(originals.pixels, made)
    alike = ssim(originals.pixels, made)
    what = (
        say("translated from their sources", "由源图生成")
        if subject.spec.source_channels
        else say("encoded and decoded", "编码再解码")
    )
    detail = say(
        f"held-out pictures, {what}; resampled", f"留出图片，{what}；按图片重采样"
    )
    # The largest PSNR of 8-bit pictures that are not equal but in one value; equal ones
    # would have an endless one.
    psnr = -10 * np.log10(np.maximum(errors, 1 / 255**2 / originals.pixels[0].size))
    rows = [
        (
            "mse",
            errors,
            "",
            "lower",
            say("Reconstruction error", "重建误差"),
            say("mean squared, values in [0, 1]; ", "均方误差，取值 [0, 1]；"),
        ),
        ("psnr", psnr, "dB", "higher", say("PSNR", "峰值信噪比"), ""),
        ("ssim", alike, "", "higher", say("Structural similarity", "结构相似度"), ""),
    ]
    return [
        Score(
            name,
            *mean_interval(values.tolist(), subject.seed),
            len(values),
            unit,
            better,
            note + detail,
            label,
        )
        for name, values, unit, better, label, note in rows
    ]


def squared_errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared error of each pair, uint8 [N, H, W, C] as values in [0, 1] -> float64 [N]."""
    return np.array(
        [
            np.square((x.astype(np.float64) - y) / 255).mean()
            for x, y in zip(a, b, strict=True)
        ]
    )


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean SSIM of each pair, uint8 [N, H, W, C] -> float64 [N]. Windows lie wholly
    inside; smaller pictures have smaller ones.
    """
    return np.concatenate(
        [
            _ssim(
                *(
                    torch.tensor(item[at : at + 64]).permute(0, 3, 1, 2).double() / 255
                    for item in (a, b)
                )
            )
            for at in range(0, len(a), 64)
        ]
    )


def _ssim(x: Tensor, y: Tensor) -> np.ndarray:
    size = min(WINDOW, (min(x.shape[2:]) - 1) // 2 * 2 + 1)
    line = torch.exp(
        -torch.arange(-(size // 2), size // 2 + 1, dtype=torch.float64).square()
        / (2 * SIGMA**2)
    )
    line = line / line.sum()
    window = (line[:, None] * line).expand(x.shape[1], 1, size, size)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window, groups=x.shape[1])

    mean_x, mean_y = mean(x), mean(y)
    spread_x, spread_y, shared = (
        mean(x * x) - mean_x**2,
        mean(y * y) - mean_y**2,
        mean(x * y) - mean_x * mean_y,
    )
    found = (
        (2 * mean_x * mean_y + 1e-4)
        * (2 * shared + 9e-4)
        / ((mean_x**2 + mean_y**2 + 1e-4) * (spread_x + spread_y + 9e-4))
    )
    return found.mean((1, 2, 3)).numpy()
