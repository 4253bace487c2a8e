"""Unsafe pictures do not leave: each one painted is judged by the packaged open_nsfw
(engines/moderation/nsfw.py) and, from a threshold of probability on, replaced by a plain grey
picture that ends with "content_filter".

The probability stands in the facts of every picture that was judged. What the model
knows and does not know is in nsfw.py; it judges nakedness in photographs and nothing
else, and it errs.
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


@dataclass(frozen=True)
class Verdict:
    pixels: np.ndarray
    """As they were, or grey."""
    probability: float
    finish: FinishReason


@dataclass(frozen=True)
class Checker:
    """`judge`: pixels uint8 [H, W, C] -> the probability that they are unsafe."""

    judge: Callable[[np.ndarray], float]
    threshold: float = THRESHOLD

    def __call__(self, pixels: np.ndarray) -> Verdict:
        import numpy as np

        probability = round(self.judge(pixels), 4)
        if probability < self.threshold:
            return Verdict(pixels, probability, "stop")
        return Verdict(np.full_like(pixels, GREY), probability, "content_filter")


def open_checker(threshold: float) -> Checker:
    """The packaged model, fetched and tried, so that what is missing is said before any
    picture is painted.

    Raises BadInput for a threshold outside (0, 1], and what `packs.path` raises, with
    the option that does without.
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
        from miaobi.engines.moderation.nsfw import unsafe

        unsafe(np.full((64, 64, 3), GREY, np.uint8))
    except (MiaobiError, ImportError) as error:
        raise _unavailable(error) from None
    return Checker(unsafe, threshold)


def _unavailable(error: Exception) -> MiaobiError:
    """The same kind of error, said with what it stops and how to go on."""
    kind = type(error) if isinstance(error, MiaobiError) else MiaobiError
    why, remedy = (
        (error.problem, error.remedy)
        if isinstance(error, MiaobiError)
        else (str(error), 'pip install "miaobi[engines]"')
    )
    without = say(
        "or leave the check out: --no-safety-checker, in Python safety_checker=False",
        "或关闭安全检查：--no-safety-checker，Python 中为 safety_checker=False",
    )
    return kind(
        say(
            f"Pictures cannot be checked for safety: {why}",
            f"无法对图片进行安全检查：{why}",
        ),
        f"{remedy} ({without})" if remedy else without,
    )
