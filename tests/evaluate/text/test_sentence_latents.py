"""Bounds and active units of models whose latent space is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.evaluate.text_models import Lengths, unigram

from miaobi.evaluate.text import sentence_latents
from miaobi.evaluate.text.sentence_latents import active_units

TEXTS = ["aaaa", "bcb", "春眠不", "dd"]


def test_bound_units_and_tokens_are_those_of_the_model() -> None:
    subject = replace(unigram({"a": 1.0}), held_out=[*TEXTS, "x" * 64], net=Lengths())
    bits, units, restored = sentence_latents.measure(subject)
    tokens, size = 4 + 3 + 3 + 2, 4 + 3 + 9 + 2
    assert bits.value == pytest.approx(2 * tokens / math.log(2) / size)
    assert units.value == 2, "length and first token; the constant is not active"
    assert restored.value == pytest.approx((4 + 2 + 1 + 2) / tokens)
    assert {score.n for score in (bits, units, restored)} == {len(TEXTS)}


def test_units_are_counted_by_their_variance() -> None:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(1, 10_000, 3)) * np.array([1.0, 0.2, 0.05])
    assert active_units(points).tolist() == [2]


def test_a_model_of_another_kind_is_not_measured() -> None:
    assert unigram({"a": 1.0}).lacks(sentence_latents.NEEDS)
