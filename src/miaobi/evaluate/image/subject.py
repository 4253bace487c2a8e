"""What an image model is evaluated by: images, samples, features, reconstructions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from miaobi.core.language import in_each, say
from miaobi.data.image.prepared import PictureSpec
from miaobi.evaluate.image.extractors import Extractor
from miaobi.evaluate.score import random_generator
from miaobi.evaluate.subject import (
    BOUND,
    CLASSES,
    HELD_OUT,
    RECONSTRUCTION,
    REFERENCE,
    SAMPLES,
    TRAINING,
    Subject,
)
from miaobi.nn.image import (
    Encodes,
    HasBound,
    HasLatents,
    Paints,
    from_pixels,
    to_pixels,
)

MIN_IMAGES = 20
"""Fewer images than this give no statistics."""
BATCH = 64


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels and sources."""

    pixels: np.ndarray
    """uint8 [N, H, W, C]."""
    labels: np.ndarray | None = None
    """int64 [N]; None where there are no classes."""
    sources: np.ndarray | None = None
    """uint8 [N, H, W, C_source]: what each one is made from, for pairs."""

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice | np.ndarray) -> ImageSet:
        return ImageSet(
            self.pixels[rows],
            None if self.labels is None else self.labels[rows],
            None if self.sources is None else self.sources[rows],
        )

    @property
    def classes(self) -> int:
        """How many classes there are images of."""
        return 0 if self.labels is None else len(np.unique(self.labels))

    def subset(self, count: int, seed: int) -> ImageSet:
        """Return at most `count` of the images, in an order drawn from `seed`."""
        order = random_generator(seed).permutation(len(self))
        return self[order[:count]]


Paint = Callable[[int, ImageSet | None, int], np.ndarray]
"""paint(count, conditions, seed) -> uint8 [count, H, W, C].

`conditions` has the classes to paint, or the images to translate.
"""


@dataclass(frozen=True, eq=False)
class ImageSubject(Subject):
    """A model with the images it is evaluated by."""

    modality = "image"

    name: str
    spec: PictureSpec
    paint: Paint
    extractor: Extractor
    net: Paints | None = None
    """The network, where it runs in this process: for bounds and reconstructions."""
    likelihood: str = ""
    """What the network's own likelihood is called."""
    training: ImageSet | None = None
    held_out: ImageSet | None = None
    compared: ImageSet | None = None
    """What samples are compared with instead of the training images.

    When two models are compared, the first one's training images serve both.
    """
    binarised: bool = False
    """Whether the data was made black or white, while samples are shades."""
    flipped: bool = False
    """Whether training images were mirrored at random."""
    count: int = 1000
    """How many samples to make."""
    patience: float = 180.0
    """Seconds after which no further batch of samples, bounds or reconstructions is
    computed.
    """
    limit: int = 10_000
    """At most so many training and so many held-out images go to the extractor."""

    @property
    def takes_image(self) -> bool:
        """Whether this model makes an image from another image."""
        return "image" in self._controls

    @property
    def _controls(self) -> frozenset[str]:
        return self.net.controls if self.net else frozenset()

    @property
    def _has_classes(self) -> bool:
        is_asked = "label" in self._controls and not self.takes_image
        return is_asked and self.training is not None and bool(self.training.classes)

    @property
    def _encodes(self) -> bool:
        return isinstance(self.net, Encodes) and isinstance(self.net, HasLatents)

    @cached_property
    def samples(self) -> ImageSet:
        """New images.

        Their classes are as frequent as in the data; models that take an image get
        held-out ones.
        """
        conditions = self._conditions
        count = self.count
        if self.takes_image and conditions is not None:
            count = min(count, len(conditions))
        deadline = time.monotonic() + self.patience
        batches = list[np.ndarray]()
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            part = None if conditions is None else conditions[start : start + size]
            batches.append(self.paint(size, part, self._paint_seed(start)))
            self.progress((start + size) / count)
            if time.monotonic() > deadline:
                break
        pixels = np.concatenate(batches)
        if conditions is None:
            return ImageSet(pixels)
        used = conditions[: len(pixels)]
        return ImageSet(pixels, used.labels, used.sources)

    def _paint_seed(self, start: int) -> int:
        """Return the seed of the batch that begins with image number `start`."""
        return self.seed * 100_003 + start

    @cached_property
    def _conditions(self) -> ImageSet | None:
        """What the samples are conditioned on; None if on nothing."""
        if self.takes_image:
            if self.held_out:
                return self.held_out.subset(self.count, self.seed)
            return None
        data = self.training or self.held_out
        if not data or data.labels is None:
            return None
        draw = random_generator([self.seed, 1])
        rows = draw.integers(len(data), size=self.count)
        return data[np.sort(rows)]

    @cached_property
    def sample_features(self) -> np.ndarray:
        """Features of the samples, float32 [N, D]."""
        return self.extractor.features(self.samples.pixels, self.progress)

    def sample_rows(self, count: int) -> np.ndarray:
        """Return `count` rows of the samples drawn at random, int64 [count], to compare
        with as few held-out images.
        """
        order = random_generator([self.seed, 4]).permutation(len(self.samples))
        return order[:count]

    @cached_property
    def training_subset(self) -> ImageSet:
        """The training images that go to the extractor."""
        assert self.training is not None
        return self.training.subset(self.limit, self.seed)

    @cached_property
    def held_out_subset(self) -> ImageSet:
        """The held-out images that go to the extractor."""
        assert self.held_out is not None
        return self.held_out.subset(self.limit, self.seed)

    @cached_property
    def training_features(self) -> np.ndarray:
        """Features of `training_subset`, float32 [N, D]."""
        return self._cached_features(self.training_subset)

    @cached_property
    def mirrored_training_features(self) -> np.ndarray:
        """Features of `training_subset`, mirrored left to right, float32 [N, D]."""
        return self._cached_features(mirrored(self.training_subset))

    @cached_property
    def held_out_features(self) -> np.ndarray:
        """Features of `held_out_subset`, float32 [N, D]."""
        return self._cached_features(self.held_out_subset)

    @cached_property
    def reference_features(self) -> np.ndarray:
        """Features of what samples are compared with, float32 [N, D].

        These are the training images, or the held-out ones where there are none.
        """
        if self.compared is not None:
            return self._cached_features(self.compared.subset(self.limit, self.seed))
        return self.training_features if self.training else self.held_out_features

    def _cached_features(self, images: ImageSet) -> np.ndarray:
        return self.extractor.cached_features(images.pixels, self.progress)

    @property
    def baseline_features(self) -> np.ndarray | None:
        """Features of held-out images, to compare with the reference as samples are.

        They show what a perfect model would reach. None if there are too few, or if
        they are the reference.
        """
        if not (self.compared or self.training):
            return None
        if not self.held_out or len(self.held_out) < MIN_IMAGES:
            return None
        return self.held_out_features

    @property
    def reference(self) -> str:
        """The reference in words."""
        count = len(self.reference_features)
        if self.compared or self.training:
            return say(f"{count:,} training pictures", f"{count:,} 张训练图片")
        return say(f"{count:,} held-out pictures", f"{count:,} 张留出图片")

    @cached_property
    def reconstructions(self) -> tuple[ImageSet, np.ndarray]:
        """Held-out images, and what the model makes of them, uint8 [N, H, W, C].

        They are encoded and decoded, or translated from their sources.
        """
        originals = self.held_out_subset
        deadline = time.monotonic() + self.patience
        batches = list[np.ndarray]()
        with torch.inference_mode():
            for start in range(0, len(originals), BATCH):
                part = originals[start : start + BATCH]
                batches.append(self._reconstruct(part, start))
                self.progress(min(1.0, (start + BATCH) / len(originals)))
                if time.monotonic() > deadline:
                    break
        pixels = np.concatenate(batches)
        return originals[: len(pixels)], pixels

    def _reconstruct(self, images: ImageSet, start: int) -> np.ndarray:
        net = self.net
        if isinstance(net, Encodes) and isinstance(net, HasLatents):
            label = labels_of(images)
            latent = net.encode(from_pixels(torch.tensor(images.pixels)), label)
            return to_pixels(net.decode(latent, label)).numpy()
        return self.paint(len(images), images, self._paint_seed(start))

    def lacks(self, needs: frozenset[str]) -> str:
        return (
            self._lacks_images(needs)
            or self._lacks_samples(needs)
            or self._lacks_abilities(needs)
        )

    def _lacks_images(self, needs: frozenset[str]) -> str:
        training = _size(self.training)
        held_out = _size(self.held_out)
        most = max(held_out, training, _size(self.compared))
        if TRAINING in needs and not training:
            return say(
                "Not measurable: the training pictures of this model are not available.",
                "无法测量：手头没有此模型的训练图片。",
            )
        if HELD_OUT in needs and held_out < MIN_IMAGES:
            return _too_few(say("held-out", "留出"), held_out)
        if REFERENCE in needs and most < MIN_IMAGES:
            return _too_few(say("known", "已知"), most)
        return ""

    def _lacks_samples(self, needs: frozenset[str]) -> str:
        if SAMPLES not in needs:
            return ""
        if self.binarised:
            return say(
                "The data was made black or white (data.binarise) and samples are shades: "
                "what sets them apart would be that alone.",
                "数据已二值化（data.binarise），而样本是灰度：测得的差异只会是这一点。",
            )
        if self.takes_image and not self.held_out:
            return say(
                "This model makes a picture from another one; give some with --data FOLDER.",
                "此模型由一张图片生成另一张；请用 --data 文件夹 给出图片。",
            )
        if self.count < MIN_IMAGES:
            return say(
                f"Not measurable with {self.count} samples; {MIN_IMAGES} are the fewest (--samples).",
                f"样本只有 {self.count} 个，至少需要 {MIN_IMAGES} 个（--samples）。",
            )
        return ""

    def _lacks_abilities(self, needs: frozenset[str]) -> str:
        if BOUND in needs and not isinstance(self.net, HasBound):
            return say(
                "This model does not bound how likely a picture is.",
                "此模型不提供图片概率的界。",
            )
        if CLASSES in needs and not self._has_classes:
            return say(
                "This model is not asked for a class, or has no training pictures of them.",
                "此模型不按类别生成，或没有各类的训练图片。",
            )
        reconstructs = self._encodes or self.spec.source_channels
        if RECONSTRUCTION in needs and not reconstructs:
            return say("This model does not encode pictures.", "此模型不能编码图片。")
        if (
            needs & {BOUND, RECONSTRUCTION}
            and "label" in self._controls
            and self.held_out is not None
            and self.held_out.labels is None
        ):
            return say(
                "The held-out pictures have no classes, which this model needs.",
                "留出图片没有类别，而此模型需要类别。",
            )
        return ""


def mirrored(images: ImageSet) -> ImageSet:
    """Return the images mirrored left to right."""
    pixels = np.ascontiguousarray(images.pixels[:, :, ::-1])
    return replace(images, pixels=pixels)


def labels_of(images: ImageSet) -> Tensor | None:
    """Return the labels as int64 [N]; None where there are none."""
    return None if images.labels is None else torch.tensor(images.labels)


def _size(images: ImageSet | None) -> int:
    return len(images) if images else 0


def _too_few(which: str, count: int) -> str:
    if not count:
        return in_each(
            lambda: say(
                f"No {which} pictures are available; give some with --data FOLDER.",
                f"手头没有{which}图片；请用 --data 文件夹 给出。",
            )
        )
    return in_each(
        lambda: say(
            f"Only {count} {which} pictures; {MIN_IMAGES} are the fewest to measure by.",
            f"{which}图片只有 {count} 张，至少需要 {MIN_IMAGES} 张。",
        )
    )
