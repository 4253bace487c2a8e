"""How many threads to use here, and how they wait."""

import os
import sys
from functools import cache

SAMPLE_SECONDS = 0.25
BUSY_PERCENT = 20.0
"""A machine is busy when others use more than this of all cores for SAMPLE_SECONDS."""


def physical_cores() -> int:
    """Return the number of cores that this process may use; a second hardware thread of
    the same core gains nothing in matrix products.
    """
    import psutil

    allowed = _allowed_cores()
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def settle_waiting() -> None:
    """Let OpenMP's threads sleep while they wait, if this machine is busy.

    Torch reads the setting when it is first imported; after that this does nothing.

    Threads that spin make the training of a small network 1.4 to 1.8 times as quick on
    a machine that has nothing else to do, and half as quick beside another such process
    (bench/README.md). OMP_WAIT_POLICY, where it is set, is left as it is.
    """
    import psutil

    if (
        "torch" not in sys.modules
        and "OMP_WAIT_POLICY" not in os.environ
        and psutil.cpu_percent(interval=SAMPLE_SECONDS) > BUSY_PERCENT
    ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
