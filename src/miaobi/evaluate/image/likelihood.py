"""How likely a model holds pictures to be that it has not seen, in nats a picture and bits a value.

    -log p(x) ≤ -log 1/K Σ_k p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)       (Burda et al. 2016, arXiv:1509.00519)

With K = 200 the bound is near the truth; with K = 1 it is the ELBO that training
maximised. The gap between the two is what the encoder's approximation costs. Figures
compare only within one likelihood and one preparation of the data.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from miaobi.core.language import say
from miaobi.evaluate.image.subject import BATCH, PictureSubject, labels_of
from miaobi.evaluate.score import Score, mean_interval
from miaobi.evaluate.text.subject import BOUND, HELD_OUT
from miaobi.nn.image import HasBound, from_pixels

MODALITY = "image"
NEEDS = frozenset({BOUND, HELD_OUT})
DRAWS = 200


def measure(subject: PictureSubject) -> list[Score]:
    bounds = bounded(subject, DRAWS, 0)
    elbo = bounded(subject, 1, 1)[: len(bounds)]
    value, low, high = mean_interval((-bounds).tolist(), subject.seed)
    gap, gap_low, gap_high = mean_interval(
        (bounds[: len(elbo)] - elbo).tolist(), subject.seed
    )
    values = subject.spec.channels * subject.spec.height * subject.spec.width
    kind = f"{subject.likelihood}, " if subject.likelihood else ""
    bits = [number / math.log(2) / values for number in (value, low, high)]
    return [
        Score(
            "nats",
            value,
            low,
            high,
            len(bounds),
            say("nats/picture", "奈特/图"),
            "lower",
            say(
                f"{kind}upper bound with {DRAWS} draws from the encoder; held-out pictures resampled",
                f"{kind}编码器抽样 {DRAWS} 次所得上界；按留出图片重采样",
            ),
            say("Negative log-likelihood", "负对数似然"),
        ),
        Score(
            "bits_per_value",
            *bits,
            len(bounds),
            say("bits/value", "比特/值"),
            "lower",
            say(
                f"the same by the {values:,} values of a picture",
                f"同上，除以每张图片的 {values:,} 个值",
            ),
            say("Bits per value", "每值比特数"),
        ),
        Score(
            "bound_gap",
            gap,
            gap_low,
            gap_high,
            len(elbo),
            say("nats/picture", "奈特/图"),
            "lower",
            say(
                f"between {DRAWS} draws and one, the ELBO",
                f"{DRAWS} 次抽样与单次（ELBO）之差",
            ),
            say("What the encoder's approximation costs", "编码器近似的代价"),
        ),
    ]


def bounded(subject: PictureSubject, draws: int, stream: int) -> np.ndarray:
    """Bounds on log p, float64 [N], of held-out pictures; fewer than there are when
    they take longer than the subject's patience.
    """
    assert isinstance(subject.net, HasBound)
    pictures, began, found = (
        subject.chosen_held_out,
        time.monotonic(),
        list[np.ndarray](),
    )
    with torch.inference_mode():
        for at in range(0, len(pictures), BATCH):
            part = pictures[slice(at, at + BATCH)]
            generator = torch.Generator().manual_seed(
                (subject.seed * 100_003 + at) * 2 + stream
            )
            bound = subject.net.bound(
                from_pixels(torch.tensor(part.pixels)),
                labels_of(part),
                draws,
                generator,
            )
            found.append(bound.double().numpy())
            subject.progress(min(1.0, (at + BATCH) / len(pictures)))
            if time.monotonic() - began > subject.patience:
                break
    return np.concatenate(found)
