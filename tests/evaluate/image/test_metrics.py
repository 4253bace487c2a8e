"""What the image metrics say of models whose quality is known."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluate.image_models import Factors, image_set, projection, subject

from miaobi.evaluate.image import (
    coverage,
    diversity,
    frechet,
    kernel_distance,
    likelihood,
    memorisation,
    reconstruction,
)
from miaobi.evaluate.image.subject import ImageSet, ImageSubject
from miaobi.evaluate.score import Score, jackknife
from miaobi.nn.image import from_pixels


def measure(subject: ImageSubject, *metrics: ModuleType) -> dict[str, Score]:
    """Return the scores of these metrics by name."""
    scores: list[Any] = [metric.measure(subject) for metric in metrics]
    return {score.name: score for several in scores for score in several}


def brighter(pixels: np.ndarray, by: int) -> ImageSet:
    return ImageSet((pixels.astype(int) + by).clip(0, 255).astype(np.uint8))


def truth(net: Factors, whole: ImageSubject) -> float:
    """Return the mean -log p of the held-out images."""
    pixels = from_pixels(torch.from_numpy(whole.held_out_subset.pixels))
    return -float(net.log_likelihood(pixels).mean())


def test_a_perfect_model_differs_from_one_that_is_off() -> None:
    metrics = (frechet, kernel_distance, coverage)
    good = measure(subject(), *metrics)
    off = subject(samples=brighter(image_set(Factors(), 150, 5).pixels, 40))
    bad = measure(off, *metrics)
    assert bad["frechet"].low > good["frechet"].high
    assert bad["kernel_distance"].low > good["kernel_distance"].high
    assert bad["precision"].high < good["precision"].low
    assert good["coverage"].value > 0.85
    # Unbiased: nought is inside the interval.
    assert good["kernel_distance"].low <= 0 <= good["kernel_distance"].high


def test_extrapolation_takes_most_of_the_bias_away() -> None:
    """The same distribution on both sides: d² is nought but for the small sample; the
    reference is large.
    """
    net = Factors()
    whole = subject(net, training=image_set(net, 4000, 77), count=100)
    scores = measure(whole, frechet)
    limit = scores["frechet_extrapolated"].value
    assert abs(limit) < 0.35 * scores["frechet"].value


def test_the_interval_of_the_frechet_distance_covers_its_spread() -> None:
    """Forty samplings of one model against one reference: the interval is as wide as
    they scatter, within a third.
    """
    net = Factors()

    def features(images: ImageSet) -> np.ndarray:
        return projection().features(images.pixels, lambda share: None)

    reference = frechet.Gaussian.of(features(image_set(net, 600, 9)))
    samplings = [
        features(brighter(image_set(net, 100, 10_000 + number).pixels, 30))
        for number in range(40)
    ]
    scatter = np.std([reference.distance(sampling) for sampling in samplings])
    widths = [
        frechet.extrapolate(reference, sampling, 0).of_halves.std()
        for sampling in samplings[:10]
    ]
    assert np.mean(widths) == pytest.approx(scatter, rel=0.34)


def test_without_training_images_held_out_ones_are_the_reference() -> None:
    whole = subject(training=None)
    score, _ = frechet.measure(whole)
    assert "120 held-out pictures" in score.detail
    assert whole.baseline_features is None


def test_a_collapsed_model() -> None:
    """One image with a little noise: it keeps its precision and loses recall and
    diversity.
    """
    one = image_set(Factors(), 1, 3).pixels.repeat(150, axis=0)
    noise = np.random.default_rng(0).integers(-2, 3, one.shape)
    pixels = (one.astype(int) + noise).clip(0, 255).astype(np.uint8)
    collapsed = measure(subject(samples=ImageSet(pixels)), coverage, diversity)
    good = measure(subject(), coverage, diversity)
    assert collapsed["precision"].value > 0.9
    assert collapsed["recall"].high < 0.2 < good["recall"].low
    natural = good["picture_diversity"].low
    assert collapsed["picture_diversity"].high < 0.1 * natural


def test_diversity_is_the_mean_over_pairs_and_its_interval_the_jackknife() -> None:
    points = np.random.default_rng(0).normal(size=(12, 3))

    def mean_over_pairs(rows: list[int]) -> float:
        gaps = [
            np.linalg.norm(points[i] - points[j]) for i in rows for j in rows if i < j
        ]
        return float(np.mean(gaps))

    expected = jackknife(mean_over_pairs, 12)
    assert diversity.pairwise(points) == pytest.approx(expected)


def test_planted_copies_are_detected() -> None:
    """A third of the samples are training images: exact ones, and ones with a value
    or two changed.
    """
    whole = subject()
    assert whole.training is not None
    training = whole.training.pixels
    one_pixel = (np.arange(64).reshape(8, 8, 1) == 9).astype(np.uint8)
    pixels = image_set(Factors(), 150, 5).pixels.copy()
    pixels[:25] = training[:25]
    pixels[25:50] = training[50:75] + one_pixel
    copying = measure(subject(samples=ImageSet(pixels)), memorisation)
    fresh = measure(whole, memorisation)
    assert copying["exact_copies"].value == pytest.approx(25 / 150)
    assert fresh["exact_copies"].value == 0
    for name in ("closer_features", "closer_pixels"):
        assert copying[name].low > 0.2
        assert fresh[name].low <= 0.05 <= fresh[name].high


def test_the_neighbours_are_the_nearest_and_measured_exactly() -> None:
    draw = np.random.default_rng(0)
    among = draw.integers(0, 256, (5000, 48), dtype=np.uint8)
    points = draw.integers(0, 256, (70, 48), dtype=np.uint8)
    points[0] = among[4321]
    neighbours = memorisation.nearest(points, among)
    distances = np.linalg.norm(points[:, None].astype(float) - among, axis=2)
    expected = np.sort(distances, axis=1)[:, :3]
    assert neighbours.distances[0, 0] == 0
    assert neighbours.rows[0, 0] == 4321
    np.testing.assert_allclose(neighbours.distances, expected)


def test_large_images_are_compared_by_their_areas() -> None:
    values = np.arange(2 * 128 * 64, dtype=np.int64)
    large = values.reshape(2, 128, 64, 1).astype(np.uint8)
    points = memorisation.flat(large)
    assert points.shape == (2, 64 * 32)
    assert points[0, 0] == large[0, :2, :2].mean()


def test_the_bound_of_a_tight_posterior_is_the_likelihood_itself() -> None:
    net = Factors()
    whole = subject(net)
    nats, bits, gap = likelihood.measure(whole)
    assert nats.value == pytest.approx(truth(net, whole), rel=1e-5)
    assert nats.n == 120
    assert bits.value == pytest.approx(nats.value / np.log(2) / 64)
    assert gap.value == pytest.approx(0, abs=1e-3)
    assert "gaussian" in nats.detail


def test_a_loose_posterior_costs_and_more_draws_win_it_back() -> None:
    loose = Factors(blur=1.6)
    whole = subject(loose)
    scores = measure(whole, likelihood)
    nats = truth(loose, whole)
    assert nats < scores["nats"].value < nats + 0.1
    assert scores["bound_gap"].low > 0.2


def ssim_of_window(p: np.ndarray, q: np.ndarray, window: np.ndarray) -> float:
    """Return SSIM of one window of values in [0, 1], by its definition."""
    mean_p = (window * p).sum()
    mean_q = (window * q).sum()
    variance_p = (window * (p - mean_p) ** 2).sum()
    variance_q = (window * (q - mean_q) ** 2).sum()
    covariance = (window * (p - mean_p) * (q - mean_q)).sum()
    luminance = (2 * mean_p * mean_q + 0.01**2) / (mean_p**2 + mean_q**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variance_p + variance_q + 0.03**2)
    return float(luminance * structure)


def ssim_by_loops(a: np.ndarray, b: np.ndarray) -> float:
    """Return SSIM of images [15, 13, 3]: the mean over all windows of 11 × 11."""
    profile = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(profile, profile) / profile.sum() ** 2
    values = list[float]()
    for channel in range(3):
        for top in range(5):
            for left in range(3):
                here = (slice(top, top + 11), slice(left, left + 11), channel)
                values.append(ssim_of_window(a[here] / 255, b[here] / 255, window))
    return float(np.mean(values))


def test_structural_similarity_as_its_definition_says() -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (2, 15, 13, 3), dtype=np.uint8)
    y = draw.integers(0, 256, (2, 15, 13, 3), dtype=np.uint8)
    noise = draw.integers(-20, 20, x[0].shape)
    y[0] = np.clip(x[0].astype(int) + noise, 0, 255)
    expected = [ssim_by_loops(a, b) for a, b in zip(x, y, strict=True)]
    assert reconstruction.ssim(x, y) == pytest.approx(expected)
    assert reconstruction.ssim(x, x) == pytest.approx([1, 1])


def test_reconstruction_error_of_factors_is_their_noise() -> None:
    """What three factors cannot hold of 64 values is σ² in [-1, 1], a quarter of that
    in [0, 1], less the three values held.
    """
    scores = measure(subject(), reconstruction)
    mse = scores["mse"].value
    assert mse == pytest.approx(0.1**2 / 4 * 61 / 64, rel=0.05)
    assert scores["psnr"].value == pytest.approx(-10 * np.log10(mse), abs=0.2)
    assert 0.5 < scores["ssim"].value < 1


def test_a_perfect_copy_has_a_finite_psnr() -> None:
    whole = subject()
    images = whole.held_out_subset
    whole.__dict__["reconstructions"] = (images, images.pixels)
    scores = measure(whole, reconstruction)
    assert scores["mse"].value == 0
    assert scores["ssim"].value == pytest.approx(1)
    assert np.isfinite(scores["psnr"].value)


def test_samples_have_the_classes_as_often_as_the_data_has_them() -> None:
    painted = list[np.ndarray]()

    def paint(count: int, conditions: ImageSet | None, seed: int) -> np.ndarray:
        assert conditions is not None
        assert conditions.labels is not None
        painted.append(conditions.labels)
        return np.zeros((count, 8, 8, 1), np.uint8)

    pixels = image_set(Factors(), 300, 1).pixels
    training = ImageSet(pixels, np.array([0] * 240 + [1] * 60))
    samples = subject(paint=paint, count=600, training=training).samples
    assert len(samples) == 600
    assert (np.concatenate(painted) == samples.labels).all()
    assert samples.labels is not None
    assert np.mean(samples.labels) == pytest.approx(0.2, abs=0.05)


def test_a_slow_model_paints_fewer_samples() -> None:
    assert len(subject(patience=0.0).samples) == 64


def test_too_few_images_are_no_statistic() -> None:
    few = subject(held_out=image_set(Factors(), 5, 3))
    assert "Only 5 held-out" in few.lacks(memorisation.NEEDS)
    assert not few.lacks(frechet.NEEDS)
    assert "--samples" in replace(few, count=3).lacks(frechet.NEEDS)


def test_a_model_that_needs_classes_says_so() -> None:
    nameless = subject(held_out=ImageSet(image_set(Factors(), 60, 3).pixels))
    assert "classes" in nameless.lacks(likelihood.NEEDS)
    assert "classes" in nameless.lacks(reconstruction.NEEDS)
