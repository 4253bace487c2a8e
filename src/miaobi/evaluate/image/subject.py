"""What is judged of a model that paints, made when first asked. The counterpart of
`subject.Subject`, which is for texts.

A picture metric has MODALITY "image", NEEDS (names below) and
`measure(subject: PictureSubject) -> list[Score]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from miaobi.core.language import say
from miaobi.data.image.prepared import PictureSpec
from miaobi.evaluate.image.extractors import Extractor
from miaobi.evaluate.text.subject import (
    BOUND,
    HELD_OUT,
    REBUILDING,
    REFERENCE,
    SAMPLES,
    TRAINING,
)
from miaobi.nn.image import (
    Encodes,
    HasBound,
    HasLatents,
    Paints,
    from_pixels,
    to_pixels,
)

FEW = 20
"""Fewer pictures than this have no statistics worth the name."""
BATCH = 64


@dataclass(frozen=True, eq=False)
class Crowd:
    """Pictures with what belongs to each."""

    pixels: np.ndarray
    """uint8 [N, H, W, C]."""
    labels: np.ndarray | None = None
    """int64 [N]; None where there are no classes."""
    sources: np.ndarray | None = None
    """uint8 [N, H, W, C_source]: what each one is made from, for pairs."""

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice | np.ndarray) -> Crowd:
        return Crowd(
            *(
                None if item is None else item[rows]
                for item in (self.pixels, self.labels, self.sources)
            )
        )

    def drawn(self, count: int, seed: int) -> Crowd:
        """At most `count` of them, in an order drawn from `seed`."""
        return self[
            np.random.Generator(np.random.PCG64(seed)).permutation(len(self))[:count]
        ]


Paint = Callable[[int, Crowd | None, int], np.ndarray]
"""paint(count, after, seed) -> uint8 [count, H, W, C]; `after` tells the classes to
paint, or the pictures to paint from.
"""


@dataclass(frozen=True, eq=False)
class PictureSubject:
    """A model with the pictures it is judged by."""

    name: str
    spec: PictureSpec
    paint: Paint
    extractor: Extractor
    net: Paints | None = None
    """The network itself, where it runs in this process: for bounds and reconstructions."""
    likelihood: str = ""
    """What the network's own likelihood is called."""
    training: Crowd | None = None
    held_out: Crowd | None = None
    compared: Crowd | None = None
    """What samples are compared with, if not the training pictures: another model's,
    when the two are set side by side.
    """
    modality: str = "image"
    count: int = 1000
    """How many samples to paint."""
    patience: float = 180.0
    """Seconds after which samples, bounds and reconstructions are enough, if they are
    at least 64.
    """
    limit: int = 10_000
    """At most so many training and so many held-out pictures are looked at by the extractor."""
    seed: int = 0
    listeners: list[Callable[[float], None]] = field(default_factory=list)

    def progress(self, share: float) -> None:
        for listener in self.listeners:
            listener(share)

    @property
    def follows(self) -> bool:
        """Whether this model makes a picture of another one."""
        return "image" in self._controls

    @cached_property
    def samples(self) -> Crowd:
        """New pictures: of classes as often as the data has them, or made of held-out
        ones by models that translate or restore.
        """
        after, count = self._after, self.count
        if self.follows and after is not None:
            count = min(count, len(after))
        began, made = time.monotonic(), list[np.ndarray]()
        for at in range(0, count, BATCH):
            size = min(BATCH, count - at)
            made.append(
                self.paint(
                    size,
                    None if after is None else after[slice(at, at + size)],
                    self.seed * 100_003 + at,
                )
            )
            self.progress((at + size) / count)
            if time.monotonic() - began > self.patience:
                break
        pixels = np.concatenate(made)
        labels = (
            None
            if after is None or after.labels is None
            else after.labels[: len(pixels)]
        )
        sources = (
            None
            if after is None or after.sources is None
            else after.sources[: len(pixels)]
        )
        return Crowd(pixels, labels, sources)

    @cached_property
    def _after(self) -> Crowd | None:
        """Whose classes the samples follow, or what they are made of."""
        known = self.held_out if self.follows else self.training or self.held_out
        if (
            known is None
            or not len(known)
            or (known.labels is None and not self.follows)
        ):
            return None
        if self.follows:
            return known.drawn(self.count, self.seed)
        rows = np.random.Generator(np.random.PCG64([self.seed, 1])).integers(
            len(known), size=self.count
        )
        return known[np.sort(rows)]

    @cached_property
    def sample_features(self) -> np.ndarray:
        return self.extractor.features(self.samples.pixels, self.progress)

    @cached_property
    def chosen_training(self) -> Crowd:
        """The training pictures that the extractor looks at."""
        assert self.training is not None
        return self.training.drawn(self.limit, self.seed)

    @cached_property
    def chosen_held_out(self) -> Crowd:
        assert self.held_out is not None
        return self.held_out.drawn(self.limit, self.seed)

    @cached_property
    def training_features(self) -> np.ndarray:
        return self.extractor.kept(self.chosen_training.pixels, self.progress)

    @cached_property
    def held_out_features(self) -> np.ndarray:
        return self.extractor.kept(self.chosen_held_out.pixels, self.progress)

    @cached_property
    def reference_features(self) -> np.ndarray:
        """What samples are compared with: training pictures, or held-out ones where the
        training pictures are not at hand.
        """
        if self.compared is not None:
            return self.extractor.kept(
                self.compared.drawn(self.limit, self.seed).pixels, self.progress
            )
        return self.training_features if self.training else self.held_out_features

    @property
    def yardstick_features(self) -> np.ndarray | None:
        """Held-out pictures, to be compared with the reference as the samples are: what
        a perfect model would reach.
        """
        known = self.compared or self.training
        return (
            self.held_out_features
            if known and self.held_out and len(self.held_out) >= FEW
            else None
        )

    @property
    def reference(self) -> str:
        """The reference in words."""
        count = len(self.reference_features)
        return (
            say(f"{count:,} training pictures", f"{count:,} 张训练图片")
            if self.compared or self.training
            else say(f"{count:,} held-out pictures", f"{count:,} 张留出图片")
        )

    @cached_property
    def rebuilt(self) -> tuple[Crowd, np.ndarray]:
        """(held-out pictures, what the model makes of them, uint8 [N, H, W, C]):
        encoded and decoded, or translated from the source.
        """
        originals, net = self.chosen_held_out, self.net
        began, made = time.monotonic(), list[np.ndarray]()
        with torch.inference_mode():
            for at in range(0, len(originals), BATCH):
                part = originals[slice(at, at + BATCH)]
                made.append(self._rebuild(net, part, at))
                self.progress(min(1.0, (at + BATCH) / len(originals)))
                if time.monotonic() - began > self.patience:
                    break
        pixels = np.concatenate(made)
        return originals[slice(0, len(pixels))], pixels

    def _rebuild(self, net: Paints | None, part: Crowd, at: int) -> np.ndarray:
        if isinstance(net, Encodes) and isinstance(net, HasLatents):
            label = labels_of(part)
            return to_pixels(
                net.decode(
                    net.encode(from_pixels(torch.tensor(part.pixels)), label), label
                )
            ).numpy()
        return self.paint(len(part), part, self.seed * 100_003 + at)

    def lacks(self, needs: frozenset[str]) -> str:
        """Why a metric with these needs cannot be measured; empty when it can."""
        held_out, training, compared = (
            len(item) if item else 0
            for item in (self.held_out, self.training, self.compared)
        )
        if TRAINING in needs and not training:
            return say(
                "Not measurable: the pictures this model was trained on are not at hand.",
                "无法测量：手头没有此模型的训练图片。",
            )
        if HELD_OUT in needs and held_out < FEW:
            return _few(say("held-out", "留出"), held_out)
        if REFERENCE in needs and max(held_out, training, compared) < FEW:
            return _few(say("known", "已知"), max(held_out, training, compared))
        if SAMPLES in needs and self.follows and not held_out:
            return say(
                "This model makes a picture of another one; give some with --data FOLDER.",
                "此模型由一张图片生成另一张；请用 --data 文件夹 给出图片。",
            )
        if SAMPLES in needs and self.count < FEW:
            return say(
                f"Not measurable with {self.count} samples; {FEW} are the fewest (--samples).",
                f"样本只有 {self.count} 个，至少需要 {FEW} 个（--samples）。",
            )
        if BOUND in needs and not isinstance(self.net, HasBound):
            return say(
                "This model does not bound how likely a picture is.",
                "此模型不提供图片概率的界。",
            )
        if (
            REBUILDING in needs
            and not (isinstance(self.net, Encodes) and isinstance(self.net, HasLatents))
            and not self.spec.source_channels
        ):
            return say("This model does not encode pictures.", "此模型不能编码图片。")
        if (
            needs & {BOUND, REBUILDING}
            and "label" in self._controls
            and self.held_out is not None
            and self.held_out.labels is None
        ):
            return say(
                "The held-out pictures have no classes, which this model asks for.",
                "留出图片没有类别，而此模型需要类别。",
            )
        return ""

    @property
    def _controls(self) -> frozenset[str]:
        return self.net.controls if self.net else frozenset()


def labels_of(crowd: Crowd) -> Tensor | None:
    return None if crowd.labels is None else torch.tensor(crowd.labels)


def _few(which: str, count: int) -> str:
    if not count:
        return say(
            f"No {which} pictures are at hand; give some with --data FOLDER.",
            f"手头没有{which}图片；请用 --data 文件夹 给出。",
        )
    return say(
        f"Only {count} {which} pictures; {FEW} are the fewest to measure by.",
        f"{which}图片只有 {count} 张，至少需要 {FEW} 张。",
    )
