"""An ONNX model and the threads that run it.

One answer at a time gets all cores; several at a time get a core each, since two runs
side by side do more than one run on two cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime as ort

from miaobi.core.machine import physical_cores


class Sessions:
    """One session; `workers` runs of it go on side by side.

    Args:
        model: The ONNX file.
        streams: How many answers will be made at the same time.
        threads: Of the processor; its physical cores unless given.
    """

    def __init__(self, model: Path, streams: int, threads: int | None) -> None:
        cores = threads or physical_cores()
        self.workers = min(cores, max(1, streams))
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, cores // self.workers)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait by turning take the core of another run.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self._session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="voices")

    def run(self, inputs: Mapping[str, np.ndarray], stop: Stop) -> np.ndarray:
        """Return the samples, float32 [samples]. Raises Stopped when `stop` was set."""
        if stop.requested:
            raise Stopped
        try:
            output = self._session.run(None, dict(inputs), stop.options)[0]
        except Exception:
            if stop.requested:
                raise Stopped from None
            raise
        return np.asarray(cast(np.ndarray, output), np.float32).ravel()

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


class Stop:
    """Ends the runs of one request, also the one that is going on."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        self.requested = False

    def request(self) -> None:
        self.requested = True
        self.options.terminate = True


class Stopped(Exception):
    """A run was ended before its time."""
