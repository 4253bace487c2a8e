"""Where PyTorch engines run, and with which numbers: people's words for it, checked.

Imports torch when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.errors import BadInput, MissingPart, nearest
from miaobi.core.language import say

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


def torch_device(device: str) -> str:
    """Return the device; "auto" is "cuda" where there is one, else "cpu".

    Raises MissingPart for a CUDA device that is not here.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device.startswith("cuda") and not has_cuda:
        raise MissingPart(
            say(
                f"There is no CUDA device here (asked for {device}).",
                f"本机没有 CUDA 设备（要求 {device}）。",
            ),
            say("Leave device out, or use cpu.", "请去掉 device，或使用 cpu。"),
        )
    return device


def torch_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the dtype; "auto" is bfloat16 on CUDA, else float32.

    Raises BadInput for another word.
    """
    import torch

    if dtype not in DTYPES:
        raise BadInput(
            say(f"There is no dtype {dtype!r}.", f"没有名为 {dtype!r} 的 dtype。"),
            nearest(dtype, DTYPES),
        )
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    dtypes = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    return dtypes[dtype]
