"""Bytes and seconds as people read them, in the language that is spoken."""

from __future__ import annotations

from miaobi.core.language import say

SIZES = ("B", "kB", "MB", "GB")
"""Each a thousand times the one before."""


def format_size(count: float) -> str:
    """Return a number of bytes with its unit: "1.05 GB", "145 MB"."""
    for unit in SIZES:
        if count < 1000 or unit == SIZES[-1]:
            break
        count /= 1000
    return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"


def format_duration(seconds: float) -> str:
    """Return a duration: "14 s", "2 min 14 s", "1 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return say(f"{hours} h {minutes} min", f"{hours} 小时 {minutes} 分")
    if minutes:
        return say(f"{minutes} min {rest} s", f"{minutes} 分 {rest} 秒")
    return say(f"{rest} s", f"{rest} 秒")
