"""How much of a sentence goes through the latent space of a model of sentences.

    bits per byte ≤ -1/B Σ log2 1/K Σ_k p(x, z_k) / q(z_k|x),   z_k ~ q       K = 100
    active units = |{d : Var_x E_q[z_d] > 0.01}|

both Burda et al. 2016 (arXiv:1509.00519). The first compares with bits per byte of models
that score every token (likelihood.py): the end of a text is counted in neither. A
dimension that is not active says the same of every sentence.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from miaobi.core.language import say
from miaobi.evaluate.score import Score, bootstrap, ratio_interval
from miaobi.evaluate.subject import BOUND, HELD_OUT
from miaobi.evaluate.text.subject import TextSubject

MODALITY = "text"
NEEDS = frozenset({BOUND, HELD_OUT})
DRAWS = 100
ACTIVE = 0.01
"""Variance of a dimension's mean over sentences, from which it is active."""


def measure(subject: TextSubject) -> list[Score]:
    texts, sizes = sentences(subject)
    net = subject.net
    assert net is not None
    generator = torch.Generator().manual_seed(subject.seed)
    bounds = net.bound(texts, DRAWS, generator)
    subject.progress(0.5)
    points = net.encode(texts).double().numpy()
    restored = net.decode(torch.from_numpy(points).float())
    subject.progress(1.0)
    same = [shared(text, other) for text, other in zip(texts, restored, strict=True)]
    bits = (-bounds.double() / math.log(2)).tolist()
    active = float(active_units(points[None])[0])
    low, high = bootstrap(lambda rows: active_units(points[rows]), len(texts), 0)
    return [
        Score(
            "bound_bits_per_byte",
            *ratio_interval(bits, sizes, subject.seed),
            n=len(texts),
            unit=say("bits/byte", "比特/字节"),
            better="lower",
            detail=say(
                f"upper bound with {DRAWS} draws from the encoder; sentences resampled",
                f"编码器抽样 {DRAWS} 次所得上界；按句子重采样",
            ),
            label=say("Bits per byte, at most", "每字节比特数（上界）"),
        ),
        Score(
            "active_units",
            active,
            min(low, active),
            max(high, active),
            n=len(texts),
            unit=say(f"of {points.shape[1]}", f"共 {points.shape[1]} 个"),
            better="higher",
            detail=say(
                f"dimensions whose mean varies by more than {ACTIVE} over held-out sentences",
                f"其均值在留出句子间的方差大于 {ACTIVE} 的维度",
            ),
            label=say("Active units", "活跃维度"),
        ),
        Score(
            "tokens_restored",
            *ratio_interval(same, [len(text) for text in texts], subject.seed),
            n=len(texts),
            unit=say("of all tokens", "占全部词元"),
            better="higher",
            detail=say(
                "tokens that are back in their place after encoding and decoding",
                "编码再解码后仍在原位的词元",
            ),
            label=say("Tokens restored", "还原的词元"),
        ),
    ]


def sentences(subject: TextSubject) -> tuple[list[list[int]], list[int]]:
    """Return the held-out texts that fit the model as token ids, and their UTF-8 bytes."""
    assert subject.encode is not None and subject.net is not None
    longest = subject.net.spec.context_length - 1
    texts = list[list[int]]()
    sizes = list[int]()
    for text in subject.held_out:
        ids = [token for token, *_ in subject.encode(text)]
        if 1 <= len(ids) <= longest:
            texts.append(ids)
            sizes.append(len(text.encode()))
    return texts, sizes


def active_units(points: np.ndarray) -> np.ndarray:
    """Return the number of active dimensions of each set of points [..., N, D]."""
    active: np.ndarray = (points.var(axis=-2) > ACTIVE).sum(-1)
    return active


def shared(text: list[int], restored: list[int]) -> int:
    """Return how many tokens of a text are the same in both, place by place."""
    pairs = zip(text, restored, strict=False)
    return sum(token == other for token, other in pairs)
