"""Work that takes a moment and can be killed anywhere: it counts, on disk, as far as it
is asked to. Another package would bring work like this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.serve.jobs.work.task import Outcome, Task


def run(task: Task) -> Outcome:
    request: dict[str, Any] = task.job.request
    do = request.get("do", "count")
    if do == "raise":
        raise RuntimeError(f"secret {task.folder}")
    if do == "refuse":
        raise BadInput(f"{task.folder}/training.jsonl:3 has no answer.", "Mend line 3.")
    if do == "die":
        os.abort()
    if do == "grow":
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1 << 16)) * 256)
            time.sleep(0.01)
    if do == "fork":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        task.progress(child=child.pid)
    if do == "chatter":
        for _ in range(300):
            print("x" * 65536)
    return _count(task, request.get("steps", 3), request.get("seconds", 0.05))


def _count(task: Task, steps: int, seconds: float) -> Outcome:
    done = Path("steps.txt")
    step = len(done.read_text().splitlines()) if done.exists() else 0
    task.progress(pid=os.getpid(), step=step)
    while step < steps:
        time.sleep(seconds)
        step += 1
        with done.open("a") as file:
            file.write(f"{step}\n")
        if task.progress(step=step):
            return Outcome("Stopped half way.", {"step": step}, "cancelled")
        task.record_event(f"step {step}", "metrics", {"step": step})
    return Outcome("Counted.", {"counted": steps})
