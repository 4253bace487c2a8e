"""Numbers as people read them, and round values for axes."""

from __future__ import annotations

import math


def format_number(value: float) -> str:
    """Return four significant digits, at most three decimals where that suffices."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 0.01:
        return f"{value:.2g}"
    magnitude = math.floor(math.log10(abs(value)))
    decimals = min(3, max(0, 3 - magnitude))
    return f"{value:,.{decimals}f}"


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return about so many round values between `low` and `high`."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(multiple * step, 12) for multiple in range(first, last + 1)]
