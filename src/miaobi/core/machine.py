"""How many threads to use, and how they wait."""

import os
import sys
from functools import cache

LOOK_SECONDS, BUSY_PERCENT = 0.25, 20.0
"""A machine of which others use more than so much of all cores, for so long, has other work."""


def physical_cores() -> int:
    """Cores this process may use; a second hardware thread of the same core gains
    nothing in matrix products.
    """
    import psutil

    allowed = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


@cache
def settle_waiting() -> None:
    """Let OpenMP's threads sleep while they wait, if other work runs here: torch reads
    it when it is first imported, after which this does nothing.

    Threads that spin make the training of a small network 1.4 to 1.8 times as quick on
    a machine that has nothing else to do, and half as quick beside another such process
    (bench/README.md). OMP_WAIT_POLICY, where it is set, is left as it is.
    """
    import psutil

    if (
        "torch" not in sys.modules
        and "OMP_WAIT_POLICY" not in os.environ
        and psutil.cpu_percent(interval=LOOK_SECONDS) > BUSY_PERCENT
    ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
