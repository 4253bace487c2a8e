"""What other programs use of this machine."""

from __future__ import annotations

import os
import time

import psutil

from miaobi.core.machine import SAMPLE_SECONDS

NOT_USED = {"idle", "iowait", "guest", "guest_nice"}
"""Times of a core in which no program ran; a guest's is part of its host's user time."""


class Load:
    """The processor time that other programs use from here on."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.total_before = _total_seconds()
        self.own_before = time.process_time()

    def percent(self) -> float:
        """Return their share of all cores since the beginning; wait until that is
        SAMPLE_SECONDS ago.
        """
        elapsed = time.perf_counter() - self.began
        if elapsed < SAMPLE_SECONDS:
            time.sleep(SAMPLE_SECONDS - elapsed)
            elapsed = SAMPLE_SECONDS
        total = _total_seconds() - self.total_before
        own = time.process_time() - self.own_before
        share = (total - own) / (elapsed * (os.cpu_count() or 1))
        return 100 * min(max(share, 0.0), 1.0)


def _total_seconds() -> float:
    """Seconds that all programs together have used of all cores."""
    seconds = psutil.cpu_times()._asdict()
    return float(sum(seconds[name] for name in seconds.keys() - NOT_USED))
