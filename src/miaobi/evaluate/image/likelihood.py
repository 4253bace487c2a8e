"""How likely a model holds unseen images to be, in nats an image and bits a value.

    -log p(x) ≤ -log 1/K Σ_k p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)       (Burda et al. 2016, arXiv:1509.00519)

With K = 200 the bound is near the truth; with K = 1 it is the ELBO that training
maximised. The gap between the two is what the encoder's approximation costs. Values
compare only within one likelihood and one preparation of the data.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from miaobi.core.language import say
from miaobi.evaluate.image.subject import BATCH, ImageSubject, labels_of
from miaobi.evaluate.score import Estimate, Score, mean_interval
from miaobi.evaluate.subject import BOUND, HELD_OUT
from miaobi.nn.image import HasBound, from_pixels

MODALITY = "image"
NEEDS = frozenset({BOUND, HELD_OUT})
DRAWS = 200


def measure(subject: ImageSubject) -> list[Score]:
    bounds = log_bounds(subject, draws=DRAWS, stream=0)
    elbos = log_bounds(subject, draws=1, stream=1)[: len(bounds)]
    gaps = bounds[: len(elbos)] - elbos
    nats = mean_interval((-bounds).tolist(), subject.seed)
    values = subject.spec.channels * subject.spec.height * subject.spec.width
    bits = Estimate(*(number / math.log(2) / values for number in nats))
    kind = f"{subject.likelihood}, " if subject.likelihood else ""
    return [
        Score(
            "nats",
            *nats,
            n=len(bounds),
            unit=say("nats/picture", "奈特/图"),
            better="lower",
            detail=say(
                f"{kind}upper bound with {DRAWS} draws from the encoder; held-out pictures resampled",
                f"{kind}编码器抽样 {DRAWS} 次所得上界；按留出图片重采样",
            ),
            label=say("Negative log-likelihood", "负对数似然"),
        ),
        Score(
            "bits_per_value",
            *bits,
            n=len(bounds),
            unit=say("bits/value", "比特/值"),
            better="lower",
            detail=say(
                f"the same by the {values:,} values of a picture",
                f"同上，除以每张图片的 {values:,} 个值",
            ),
            label=say("Bits per value", "每值比特数"),
        ),
        Score(
            "bound_gap",
            *mean_interval(gaps.tolist(), subject.seed),
            n=len(elbos),
            unit=say("nats/picture", "奈特/图"),
            better="lower",
            detail=say(
                f"between {DRAWS} draws and one, the ELBO",
                f"{DRAWS} 次抽样与单次（ELBO）之差",
            ),
            label=say("What the encoder's approximation costs", "编码器近似的代价"),
        ),
    ]


def log_bounds(subject: ImageSubject, draws: int, stream: int) -> np.ndarray:
    """Return bounds on log p of held-out images, float64 [N].

    There are fewer than held-out images if they take longer than the subject's
    patience.

    Args:
        subject: The model and its held-out images.
        draws: K.
        stream: 0 or 1: two calls with different ones have independent draws.
    """
    assert isinstance(subject.net, HasBound)
    images = subject.held_out_subset
    deadline = time.monotonic() + subject.patience
    batches = list[np.ndarray]()
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            seed = (subject.seed * 100_003 + start) * 2 + stream
            bound = subject.net.bound(
                from_pixels(torch.tensor(part.pixels)),
                labels_of(part),
                draws,
                torch.Generator().manual_seed(seed),
            )
            batches.append(bound.double().numpy())
            subject.progress(min(1.0, (start + BATCH) / len(images)))
            if time.monotonic() > deadline:
                break
    return np.concatenate(batches)
