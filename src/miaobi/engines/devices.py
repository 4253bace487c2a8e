"""Where PyTorch engines run: the words people write, checked. Imports torch when called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.errors import BadInput, MissingPart, nearest
from miaobi.core.language import say

if TYPE_CHECKING:
    import torch

TYPES = ("auto", "float32", "bfloat16", "float16")


def place(device: str) -> str:
    """ "auto" as "cuda" where there is one, else "cpu". Raises MissingPart for a CUDA
    device that is not here.
    """
    import torch

    chosen = (
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        raise MissingPart(
            say(
                f"There is no CUDA device here (asked for {device}).",
                f"本机没有 CUDA 设备（要求 {device}）。",
            ),
            say("Leave device out, or use cpu.", "请去掉 device，或使用 cpu。"),
        )
    return chosen


def number_type(dtype: str, place: str) -> torch.dtype:
    """ "auto" as bfloat16 on CUDA, else float32. Raises BadInput for another word."""
    import torch

    if dtype not in TYPES:
        raise BadInput(
            say(f"There is no dtype {dtype!r}.", f"没有名为 {dtype!r} 的 dtype。"),
            nearest(dtype, TYPES),
        )
    if dtype == "auto":
        dtype = "bfloat16" if place.startswith("cuda") else "float32"
    found: torch.dtype = getattr(torch, dtype)
    return found
