"""What the picture metrics say of models whose quality is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluate import image_models
from tests.evaluate.image_models import Factors, crowd, subject

from miaobi.evaluate.image import (
    coverage,
    frechet,
    kernel_distance,
    memorisation,
    reconstruction,
)
from miaobi.evaluate.image import diversity as picture_diversity
from miaobi.evaluate.image import likelihood as picture_likelihood
from miaobi.evaluate.image.subject import ImageSet
from miaobi.evaluate.score import Score
from miaobi.nn.image import from_pixels


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def shifted(pixels: np.ndarray, by: int) -> ImageSet:
    return ImageSet((pixels.astype(int) + by).clip(0, 255).astype(np.uint8))


def test_a_perfect_model_is_told_from_one_that_is_off() -> None:
    good = by_name(
        [
            *frechet.measure(subject()),
            *kernel_distance.measure(subject()),
            *coverage.measure(subject()),
        ]
    )
    off = subject(samples=shifted(crowd(Factors(), 150, 5).pixels, 40))
    bad = by_name(
        [*frechet.measure(off), *kernel_distance.measure(off), *coverage.measure(off)]
    )
    assert (
        bad["frechet"].low > good["frechet"].high
        and bad["kernel_distance"].low > good["kernel_distance"].high
    )
    assert (
        bad["precision"].high < good["precision"].low and good["coverage"].value > 0.85
    )
    assert (
        good["kernel_distance"].low <= 0 <= good["kernel_distance"].high
    )  # unbiased: nought is inside the interval


def test_extrapolation_takes_most_of_the_bias_away() -> None:
    """The same distribution on both sides: d² is nought but for the small sample; the
    reference is large.
    """
    net = Factors()
    found = by_name(
        frechet.measure(subject(net, training=crowd(net, 4000, 77), count=100))
    )
    assert abs(found["frechet_extrapolated"].value) < 0.35 * found["frechet"].value


def test_the_interval_of_the_frechet_distance_covers_its_spread() -> None:
    """Forty samplings of one model against one reference: the interval is as wide as
    they scatter, within a third.
    """
    net = Factors()
    reference = frechet.Gaussian.of(
        image_models.projection().features(
            crowd(net, 600, 9).pixels, lambda share: None
        )
    )
    features = [
        image_models.projection().features(
            shifted(crowd(net, 100, 10_000 + at).pixels, 30).pixels, lambda share: None
        )
        for at in range(40)
    ]
    scatter = np.std([reference.distance(item) for item in features])
    widths = [
        frechet.extrapolate(reference, item, 0)[2].std() for item in features[:10]
    ]
    assert np.mean(widths) == pytest.approx(scatter, rel=0.34)


def test_without_training_pictures_held_out_ones_are_the_reference() -> None:
    known = subject(training=None)
    [score, _] = frechet.measure(known)
    assert "120 held-out pictures" in score.detail and known.baseline_features is None


def test_a_collapsed_model() -> None:
    """One picture with a little noise: it keeps its precision and loses recall and diversity."""
    one = crowd(Factors(), 1, 3).pixels.repeat(150, axis=0)
    noise = np.random.default_rng(0).integers(-2, 3, one.shape)
    collapsed = subject(
        samples=ImageSet((one.astype(int) + noise).clip(0, 255).astype(np.uint8))
    )
    found, good = (
        by_name(coverage.measure(collapsed)),
        by_name(coverage.measure(subject())),
    )
    assert (
        found["precision"].value > 0.9
        and found["recall"].high < 0.2 < good["recall"].low
    )
    [spread], [natural] = (
        picture_diversity.measure(collapsed),
        picture_diversity.measure(subject()),
    )
    assert spread.high < 0.1 * natural.low


def test_diversity_is_the_mean_over_pairs_and_its_interval_the_jackknife() -> None:
    from miaobi.evaluate.score import jackknife

    points = np.random.default_rng(0).normal(size=(12, 3))

    def plainly(rows: list[int]) -> float:
        return float(
            np.mean(
                [
                    np.linalg.norm(points[i] - points[j])
                    for i in rows
                    for j in rows
                    if i < j
                ]
            )
        )

    assert picture_diversity.pairwise(points) == pytest.approx(jackknife(plainly, 12))


def test_planted_copies_are_found() -> None:
    """A third of the samples are training pictures: exact ones, and ones with a value
    or two changed.
    """
    plain = subject()
    assert plain.training is not None
    pixels = crowd(Factors(), 150, 5).pixels.copy()
    pixels[:25] = plain.training.pixels[:25]
    pixels[25:50] = plain.training.pixels[50:75] + (
        np.arange(64).reshape(8, 8, 1) == 9
    ).astype(np.uint8)
    found = by_name(memorisation.measure(subject(samples=ImageSet(pixels))))
    fresh = by_name(memorisation.measure(plain))
    assert (
        found["exact_copies"].value == pytest.approx(25 / 150)
        and fresh["exact_copies"].value == 0
    )
    for space in ("closer_features", "closer_pixels"):
        assert found[space].low > 0.2 and fresh[space].low <= 0.05 <= fresh[space].high


def test_the_neighbours_are_the_nearest_and_measured_exactly() -> None:
    draw = np.random.default_rng(0)
    among, points = (
        draw.integers(0, 256, (5000, 48), dtype=np.uint8),
        draw.integers(0, 256, (70, 48), dtype=np.uint8),
    )
    points[0] = among[4321]
    found = memorisation.nearest(points, among)
    plainly = np.array(
        [
            [np.linalg.norm(point.astype(float) - other) for other in among]
            for point in points
        ]
    )
    assert found.distances[0, 0] == 0 and found.rows[0, 0] == 4321
    np.testing.assert_allclose(found.distances, np.sort(plainly, axis=1)[:, :3])


def test_large_pictures_are_compared_by_their_areas() -> None:
    large = (
        np.arange(2 * 128 * 64, dtype=np.int64).reshape(2, 128, 64, 1).astype(np.uint8)
    )
    flat = memorisation.flat(large)
    assert flat.shape == (2, 64 * 32)
    assert flat[0, 0] == large[0, :2, :2].mean()


def test_the_bound_of_a_tight_posterior_is_the_likelihood_itself() -> None:
    net = Factors()
    whole = subject(net)
    [nats, bits, gap] = picture_likelihood.measure(whole)
    truth = -net.log_likelihood(
        from_pixels(torch.from_numpy(whole.held_out_subset.pixels))
    ).mean()
    assert nats.value == pytest.approx(float(truth), rel=1e-5) and nats.n == 120
    assert bits.value == pytest.approx(
        nats.value / np.log(2) / 64
    ) and gap.value == pytest.approx(0, abs=1e-3)
    assert "gaussian" in nats.detail


def test_a_loose_posterior_costs_and_more_draws_win_it_back() -> None:
    loose = Factors(blur=1.6)
    found = by_name(picture_likelihood.measure(subject(loose)))
    truth = -float(
        loose.log_likelihood(
            from_pixels(torch.from_numpy(subject(loose).held_out_subset.pixels))
        ).mean()
    )
    assert truth < found["nats"].value < truth + 0.1 and found["bound_gap"].low > 0.2


def test_structural_similarity_as_its_definition_says() -> None:
    draw = np.random.default_rng(0)
    x, y = (
        draw.integers(0, 256, (2, 15, 13, 3), dtype=np.uint8),
        draw.integers(0, 256, (2, 15, 13, 3), dtype=np.uint8),
    )
    y[0] = np.clip(x[0].astype(int) + draw.integers(-20, 20, x[0].shape), 0, 255)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def plainly(a: np.ndarray, b: np.ndarray) -> float:
        found = []
        for channel in range(3):
            for top in range(5):
                for left in range(3):
                    p, q = (
                        item[top : top + 11, left : left + 11, channel] / 255
                        for item in (a, b)
                    )
                    mean_p, mean_q = (window * p).sum(), (window * q).sum()
                    spread_p, spread_q = (
                        (window * (p - mean_p) ** 2).sum(),
                        (window * (q - mean_q) ** 2).sum(),
                    )
                    shared = (window * (p - mean_p) * (q - mean_q)).sum()
                    found.append(
                        (2 * mean_p * mean_q + 0.01**2)
                        * (2 * shared + 0.03**2)
                        / (
                            (mean_p**2 + mean_q**2 + 0.01**2)
                            * (spread_p + spread_q + 0.03**2)
                        )
                    )
        return float(np.mean(found))

    assert reconstruction.ssim(x, y) == pytest.approx(
        [plainly(x[at], y[at]) for at in range(2)]
    )
    assert reconstruction.ssim(x, x) == pytest.approx([1, 1])


def test_reconstruction_error_of_factors_is_their_noise() -> None:
    """What three factors cannot hold of 64 values is σ² in [-1, 1], a quarter of that
    in [0, 1], less the three values held.
    """
    whole = subject()
    found = by_name(reconstruction.measure(whole))
    assert found["mse"].value == pytest.approx(0.1**2 / 4 * 61 / 64, rel=0.05)
    assert (
        found["psnr"].value
        == pytest.approx(-10 * np.log10(found["mse"].value), abs=0.2)
        and 0.5 < found["ssim"].value < 1
    )


def test_a_perfect_copy_has_a_finite_psnr() -> None:
    whole = subject()
    whole.__dict__["reconstructions"] = (
        whole.held_out_subset,
        whole.held_out_subset.pixels,
    )
    found = by_name(reconstruction.measure(whole))
    assert (
        found["mse"].value == 0
        and found["ssim"].value == pytest.approx(1)
        and np.isfinite(found["psnr"].value)
    )


def test_samples_have_the_classes_as_often_as_the_data_has_them() -> None:
    seen = []

    def paint(count: int, after: ImageSet | None, seed: int) -> np.ndarray:
        assert after is not None and after.labels is not None
        seen.append(after.labels)
        return np.zeros((count, 8, 8, 1), np.uint8)

    uneven = crowd(Factors(), 300, 1)
    whole = subject(
        paint=paint,
        count=600,
        training=ImageSet(uneven.pixels, np.array([0] * 240 + [1] * 60)),
    )
    assert (
        len(whole.samples) == 600
        and (np.concatenate(seen) == whole.samples.labels).all()
    )
    assert np.mean(whole.samples.labels) == pytest.approx(0.2, abs=0.05)


def test_a_slow_model_is_asked_for_fewer_samples() -> None:
    assert len(subject(patience=0.0).samples) == 64


def test_too_few_pictures_are_no_statistic() -> None:
    few = subject(held_out=crowd(Factors(), 5, 3))
    assert "Only 5 held-out" in few.lacks(memorisation.NEEDS) and not few.lacks(
        frechet.NEEDS
    )
    assert "--samples" in replace(few, count=3).lacks(frechet.NEEDS)


def test_a_model_that_asks_for_classes_says_so() -> None:
    nameless = subject(held_out=ImageSet(crowd(Factors(), 60, 3).pixels))
    assert "classes" in nameless.lacks(
        picture_likelihood.NEEDS
    ) and "classes" in nameless.lacks(reconstruction.NEEDS)
