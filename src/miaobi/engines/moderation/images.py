"""Unsafe images do not leave: each generated one is scored by the packaged open_nsfw
(engines/moderation/nsfw.py) and, from a threshold of probability on, replaced by a plain
grey image that ends with "content_filter".

The probability stands in the facts of every image that was scored. What the model knows
and does not know is in nsfw.py; it recognises nakedness in photographs and nothing else,
and it errs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miaobi.core.artifacts import FinishReason
from miaobi.core.errors import BadInput, MiaobiError
from miaobi.core.language import say

if TYPE_CHECKING:
    import numpy as np

THRESHOLD = 0.6
"""Below every explicit photograph in the packaged model's own tests (the lowest scores
0.74), and above every ordinary one (0.09).
"""
GREY = 128
INSTALL = 'pip install "miaobi[engines]"'


@dataclass(frozen=True)
class Verdict:
    """An image after the check."""

    pixels: np.ndarray
    """As they were, or grey."""
    probability: float
    """That the image is unsafe."""
    finish: FinishReason


@dataclass(frozen=True)
class Checker:
    """Replaces unsafe images by grey ones.

    `score`: pixels uint8 [H, W, C] -> the probability that they are unsafe.
    """

    score: Callable[[np.ndarray], float]
    threshold: float = THRESHOLD

    def __call__(self, pixels: np.ndarray) -> Verdict:
        import numpy as np

        probability = round(self.score(pixels), 4)
        if probability < self.threshold:
            return Verdict(pixels, probability, "stop")
        return Verdict(np.full_like(pixels, GREY), probability, "content_filter")


def open_checker(threshold: float) -> Checker:
    """Return a checker with the packaged model.

    The model is fetched and tried here, so that what is missing is said before any
    image is generated. Raises BadInput for a threshold outside (0, 1], and what
    `packs.path` raises, with the option that does without.
    """
    if not 0 < threshold <= 1:
        raise BadInput(
            say(
                f"safety_threshold is {threshold}.",
                f"safety_threshold 为 {threshold}。",
            ),
            say(
                f"Give a probability above 0 and at most 1; {THRESHOLD} when left out.",
                f"请给出大于 0 且不大于 1 的概率；默认为 {THRESHOLD}。",
            ),
        )
    import numpy as np

    try:
        from miaobi.engines.moderation.nsfw import unsafe_probability

        unsafe_probability(np.full((64, 64, 3), GREY, np.uint8))
    except (MiaobiError, ImportError) as error:
        raise _unavailable(error) from None
    return Checker(unsafe_probability, threshold)


def _unavailable(error: Exception) -> MiaobiError:
    """The same kind of error, with what it stops and how to go on."""
    without = say(
        "or leave the check out: --no-safety-checker, in Python safety_checker=False",
        "或关闭安全检查：--no-safety-checker，Python 中为 safety_checker=False",
    )
    if isinstance(error, MiaobiError):
        kind, problem, remedy = type(error), error.problem, error.remedy
    else:
        kind, problem, remedy = MiaobiError, str(error), INSTALL
    return kind(
        say(
            "Pictures cannot be checked for safety: ",
            "无法对图片进行安全检查：",
        )
        + problem,
        remedy + " (" + without + ")" if remedy else without,
    )
