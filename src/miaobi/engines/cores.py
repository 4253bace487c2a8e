"""How many threads an engine should use."""

import os


def physical_cores() -> int:
    """Cores this process may use; a second hardware thread of the same core gains nothing in matrix products."""
    import psutil
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
