"""Whether samples show the class that was asked for, as a classifier sees them.

The classifier is a linear discriminant on the extractor's features of the training
images: classes share one covariance Σ, drawn towards a multiple of the identity
(Friedman 1989, regularised discriminant analysis),

    class(x) = argmax_k  x·Σ⁻¹μ_k - ½ μ_k·Σ⁻¹μ_k + log π_k

It is fitted in closed form, and what it reaches on held-out images is what a perfect
model would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from miaobi.core.language import in_each, say
from miaobi.evaluate.image.subject import MIN_IMAGES, ImageSubject
from miaobi.evaluate.score import Score, share_interval
from miaobi.evaluate.subject import CLASSES, SAMPLES, TRAINING

MODALITY = "image"
NEEDS = frozenset({SAMPLES, TRAINING, CLASSES})
SHRINKAGE = 0.1
"""The weight of the identity in the covariance."""


def measure(subject: ImageSubject) -> list[Score]:
    training = subject.training_subset
    asked = subject.samples.labels
    assert training.labels is not None
    assert asked is not None
    classifier = Discriminant.fit(subject.training_features, training.labels)
    correct = classifier.classes_of(subject.sample_features) == asked
    name = say(
        f"linear discriminant on {subject.extractor.name} features",
        f"基于 {subject.extractor.name} 特征的线性判别",
    )
    return [
        Score(
            "class_accuracy",
            *share_interval(float(correct.mean()), len(correct)),
            n=len(correct),
            better="higher",
            detail=_held_out(subject, classifier)
            + in_each(
                lambda: say(
                    f"share of samples in which a {name} of {len(training):,} training "
                    "pictures sees the class that was asked for; Wilson's interval",
                    f"{name}（以 {len(training):,} 张训练图片拟合）认出所要求类别的样本占比；Wilson 区间",
                )
            ),
            label=say("Class accuracy", "类别正确率"),
        )
    ]


def _held_out(subject: ImageSubject, classifier: Discriminant) -> str:
    """The classifier's accuracy on held-out images; "" where they have no classes."""
    if subject.held_out is None or len(subject.held_out) < MIN_IMAGES:
        return ""
    labels = subject.held_out_subset.labels
    if labels is None:
        return ""
    correct = classifier.classes_of(subject.held_out_features) == labels
    share, low, high = share_interval(float(correct.mean()), len(correct))
    return say(
        f"{len(correct):,} held-out pictures: {share:.3f} ({low:.3f}-{high:.3f}); ",
        f"{len(correct):,} 张留出图片：{share:.3f}（{low:.3f}-{high:.3f}）；",
    )


@dataclass(frozen=True)
class Discriminant:
    """A fitted classifier of features."""

    labels: np.ndarray
    """int64 [K]: the classes it knows."""
    weights: np.ndarray
    """Σ⁻¹μ, float64 [D, K]."""
    biases: np.ndarray
    """float64 [K]."""

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> Discriminant:
        """Return the classifier of features [N, D] with labels int64 [N]."""
        values = features.astype(np.float64)
        known, numbers, counts = np.unique(
            labels, return_inverse=True, return_counts=True
        )
        sums = np.zeros((len(known), values.shape[1]))
        np.add.at(sums, numbers, values)
        means = sums / counts[:, None]
        deviations = values - means[numbers]
        covariance = deviations.T @ deviations / max(1, len(values) - len(known))
        width = len(covariance)
        spread = max(np.trace(covariance) / width, 1e-12)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * spread * np.eye(width)
        weights = np.linalg.solve(shrunk, means.T)
        priors = np.log(counts / counts.sum())
        return cls(known, weights, priors - 0.5 * (means * weights.T).sum(1))

    def classes_of(self, features: np.ndarray) -> np.ndarray:
        """Return the class of each of features [N, D], int64 [N]."""
        scores = features.astype(np.float64) @ self.weights + self.biases
        chosen: np.ndarray = self.labels[scores.argmax(1)]
        return chosen
