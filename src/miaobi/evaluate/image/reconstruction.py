"""How much of a held-out image survives being encoded and decoded; for models that
translate, how near they come to the true one.

    MSE  = mean (x - x̂)², values in [0, 1]
    PSNR = -10 log10 MSE, dB
    SSIM = (2 μ_x μ_y + c_1)(2 σ_xy + c_2) / ((μ_x² + μ_y² + c_1)(σ_x² + σ_y² + c_2)),
           mean over 11 × 11 Gaussian windows, σ = 1.5, c_1 = 0.01², c_2 = 0.03²

(Wang et al. 2004, IEEE TIP 13:4.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.language import in_each, say
from miaobi.evaluate.image.subject import ImageSubject
from miaobi.evaluate.score import Score, mean_interval
from miaobi.evaluate.subject import HELD_OUT, RECONSTRUCTION

MODALITY = "image"
NEEDS = frozenset({HELD_OUT, RECONSTRUCTION})
WINDOW = 11
SIGMA = 1.5
C_1 = 1e-4
C_2 = 9e-4
BATCH = 64


def measure(subject: ImageSubject) -> list[Score]:
    originals, reconstructed = subject.reconstructions
    errors = squared_errors(originals.pixels, reconstructed)
    # The largest PSNR of 8-bit images that differ in one value, by one; equal images
    # would have an infinite one.
    smallest_error = 1 / 255**2 / originals.pixels[0].size
    psnr = -10 * np.log10(np.maximum(errors, smallest_error))
    similarities = ssim(originals.pixels, reconstructed)
    if subject.spec.source_channels:
        how = say("translated from their sources", "由源图生成")
    else:
        how = say("encoded and decoded", "编码再解码")
    detail = in_each(
        lambda: say(
            f"held-out pictures, {how}; resampled", f"留出图片，{how}；按图片重采样"
        )
    )
    error = [
        Score(
            "mse",
            *mean_interval(errors.tolist(), subject.seed),
            n=len(errors),
            better="lower",
            detail=say("mean squared, values in [0, 1]; ", "均方误差，取值 [0, 1]；")
            + detail
            + _left_out(subject),
            label=say("Reconstruction error", "重建误差"),
        )
    ]
    if subject.binarised:
        return error
    return [
        *error,
        Score(
            "psnr",
            *mean_interval(psnr.tolist(), subject.seed),
            n=len(psnr),
            unit="dB",
            better="higher",
            detail=detail,
            label=say("PSNR", "峰值信噪比"),
        ),
        Score(
            "ssim",
            *mean_interval(similarities.tolist(), subject.seed),
            n=len(similarities),
            better="higher",
            detail=detail,
            label=say("Structural similarity", "结构相似度"),
        ),
    ]


def _left_out(subject: ImageSubject) -> str:
    """Why there is neither PSNR nor similarity, for data that was made black or white."""
    if not subject.binarised:
        return ""
    return say(
        "; no PSNR and similarity: shades are compared with black and white",
        "；不计峰值信噪比与结构相似度：比较的是灰度与黑白",
    )


def squared_errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each pair, float64 [N].

    Images are uint8 [N, H, W, C], taken as values in [0, 1].
    """
    errors = [
        np.square((x.astype(np.float64) - y) / 255).mean()
        for x, y in zip(a, b, strict=True)
    ]
    return np.array(errors)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean SSIM of each pair of images uint8 [N, H, W, C], float64 [N].

    Windows lie wholly inside; images smaller than a window have smaller ones.
    """
    batches = [
        _ssim(_values(a[start : start + BATCH]), _values(b[start : start + BATCH]))
        for start in range(0, len(a), BATCH)
    ]
    return np.concatenate(batches)


def _values(pixels: np.ndarray) -> Tensor:
    """Return float64 [B, C, H, W] in [0, 1] of uint8 [B, H, W, C]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).double() / 255


def _ssim(x: Tensor, y: Tensor) -> np.ndarray:
    channels = x.shape[1]
    size = min(WINDOW, (min(x.shape[2:]) - 1) // 2 * 2 + 1)
    window = _gaussian_window(size).expand(channels, 1, size, size)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window, groups=channels)

    mean_x = mean(x)
    mean_y = mean(y)
    variance_x = mean(x * x) - mean_x**2
    variance_y = mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + C_1) * (2 * covariance + C_2)
    denominator = (mean_x**2 + mean_y**2 + C_1) * (variance_x + variance_y + C_2)
    similarity: np.ndarray = (numerator / denominator).mean((1, 2, 3)).numpy()
    return similarity


def _gaussian_window(size: int) -> Tensor:
    """Return float64 [size, size] whose sum is 1."""
    offsets = torch.arange(-(size // 2), size // 2 + 1, dtype=torch.float64)
    profile = torch.exp(-offsets.square() / (2 * SIGMA**2))
    profile = profile / profile.sum()
    return profile[:, None] * profile
