"""Yardsticks are honest: held-out images are measured by as many as the samples, rows
that mean nothing are left out with a word, and mirrored copies are copies.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from tests.evaluate.image_models import Factors, image_set, subject

from miaobi.evaluate.evaluation import measure
from miaobi.evaluate.image import (
    class_accuracy,
    coverage,
    frechet,
    memorisation,
    reconstruction,
)
from miaobi.evaluate.image.class_accuracy import Discriminant
from miaobi.evaluate.image.frechet import frechet_distance
from miaobi.evaluate.image.subject import ImageSet, mirrored


def test_held_out_images_and_samples_are_as_many() -> None:
    tested = subject(count=150)  # with 120 held-out images
    value, limit = frechet.measure(tested)
    match = re.match(
        r"120 held-out pictures: ([\d.]+), as many samples: ([\d.]+); ", value.detail
    )
    assert match is not None, value.detail
    held_out, samples = map(float, match.groups())
    rows = tested.sample_rows(120)
    expected = frechet_distance(tested.sample_features[rows], tested.training_features)
    assert samples == pytest.approx(expected, abs=0.006)
    assert samples > value.value, "fewer samples lie further away"
    assert held_out == pytest.approx(samples, rel=0.5), "the model is perfect"
    assert re.match(
        r"held-out pictures: -?[\d.]+ \(-?[\d.]+ to -?[\d.]+\); ", limit.detail
    )


def test_with_enough_held_out_images_one_figure_is_enough() -> None:
    value, _ = frechet.measure(subject(count=100))
    assert value.detail.startswith("100 held-out pictures: ")
    assert "as many samples" not in value.detail
    for score in coverage.measure(subject(count=100)):
        assert "as many samples" not in score.detail


def test_shares_of_as_few_samples_stand_beside_those_of_held_out_images() -> None:
    tested = subject(count=150)
    for score in coverage.measure(tested):
        match = re.match(
            r"120 held-out pictures: ([\d.]+), as many samples: ([\d.]+); ",
            score.detail,
        )
        assert match is not None, score.detail


def test_the_extrapolated_figures_of_a_perfect_model_agree() -> None:
    """Each lies in the interval of the other, which the finite ones need not."""
    tested = subject(count=300, held_out=image_set(Factors(), 120, 2_000_001))
    _, limit = frechet.measure(tested)
    match = re.match(r"held-out pictures: (\S+) \((\S+) to (\S+)\)", limit.detail)
    assert match is not None
    held_out, low, high = map(float, match.groups())
    assert low <= held_out <= high
    assert low <= limit.high
    assert high >= limit.low


def test_shades_are_not_compared_with_black_and_white() -> None:
    scores, missing = measure(subject(binarised=True), lambda name, share: None)
    assert {score.name for score in scores} == {
        "nats",
        "bits_per_value",
        "bound_gap",
        "mse",
    }
    assert {item.metric for item in missing} == {
        "frechet",
        "kernel_distance",
        "coverage",
        "class_accuracy",
        "picture_diversity",
        "picture_memorisation",
    }
    assert all("black or white" in item.why for item in missing)
    [error] = reconstruction.measure(subject(binarised=True))
    assert "no PSNR" in error.detail


def test_mirrored_copies_are_copies() -> None:
    net = Factors()
    training = image_set(net, 300, 1)
    copies = mirrored(training)[np.arange(150)]
    tested = subject(net, samples=copies, training=training, count=100)
    scores = {score.name: score for score in memorisation.measure(tested)}
    assert scores["exact_copies"].value == 1
    assert scores["nearest_pixels"].value == 0
    assert scores["closer_pixels"].value == 1
    assert scores["nearest_features"].value > 0, "it was not trained on mirrored ones"
    flipped = replace(tested, flipped=True)
    scores = {score.name: score for score in memorisation.measure(flipped)}
    assert scores["nearest_features"].value == pytest.approx(0, abs=1e-5)
    assert "mirrored ones too" in scores["nearest_features"].detail


def two_classes(count: int, seed: int) -> ImageSet:
    """Dark and light images by turns."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    levels = 60 + 120 * labels[:, None, None, None]
    noise = draw.integers(-40, 41, (count, 8, 8, 1))
    return ImageSet((levels + noise).astype(np.uint8), labels)


def test_a_class_that_is_asked_for_is_seen() -> None:
    training = two_classes(300, 1)
    tested = subject(training=training, held_out=two_classes(100, 2), count=100)

    def obey(count: int, conditions: ImageSet | None, seed: int) -> np.ndarray:
        assert conditions is not None
        assert conditions.labels is not None
        wanted = conditions.labels
        dark = training.labels == 0
        rows = np.where(wanted == 0, np.flatnonzero(dark)[0], np.flatnonzero(~dark)[0])
        return training.pixels[rows]

    [score] = class_accuracy.measure(replace(tested, paint=obey))
    assert score.value == 1
    assert score.high == 1
    assert "linear discriminant on projection to 24 features" in score.detail
    assert score.detail.startswith("100 held-out pictures: 1.000 (0.963-1.000); ")

    def ignore(count: int, conditions: ImageSet | None, seed: int) -> np.ndarray:
        return training.pixels[:1].repeat(count, axis=0)

    [score] = class_accuracy.measure(replace(tested, paint=ignore))
    assert score.low < 0.5 < score.high


def test_without_classes_there_is_no_class_accuracy() -> None:
    training = replace(two_classes(100, 1), labels=None)
    assert "not asked for a class" in subject(training=training).lacks(
        class_accuracy.NEEDS
    )
    assert not subject().lacks(class_accuracy.NEEDS)


def test_the_discriminant_is_bayes_classifier_of_gaussians() -> None:
    """Two classes of one covariance, unequally frequent: its errors are Bayes' own."""
    draw = np.random.default_rng(0)
    labels = (draw.random(20_000) < 0.3).astype(int) + 5
    features = draw.normal(size=(20_000, 2)) + 2.0 * (labels == 6)[:, None] * [1, 0]
    fitted = Discriminant.fit(features, labels)
    # x·Σ⁻¹μ with μ = (2, 0): the border lies at 1 + log(0.7 / 0.3) / 2.
    border = 1 + np.log(0.7 / 0.3) / 2
    expected = np.where(features[:, 0] > border, 6, 5)
    assert (fitted.classes_of(features) == expected).mean() > 0.995
