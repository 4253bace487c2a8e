"""A small GAN trained beside two other busy programs: steps a second with one thread,
with all threads, and with train.threads = 0, which chooses.

Each is a process of its own, alternating, first alone and then beside the others. Target:
train.threads = 0 is never slower than one thread by more than a tenth.
Run alone: python bench/busy_machine.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

OTHERS = 2
SECONDS = 6.0
"""Of training in each process, after the choice."""
ROUNDS = 3
SETTINGS = {"one thread": 1, "all threads": -1, "chosen": 0}
"""train.threads; -1 for all."""


def train(threads: int) -> None:
    """Train for SECONDS in this process, and print steps a second and threads."""
    from miaobi.core.machine import settle_waiting

    settle_waiting()  # as `miaobi train` does, before torch is imported
    import tempfile
    from pathlib import Path

    import torch

    from miaobi.data.image.prepared import PictureSpec
    from miaobi.families import gan
    from miaobi.nn.objective import Batch
    from miaobi.train import estimate, loop
    from miaobi.train.config import TrainConfig
    from miaobi.train.threads import Threads

    torch.set_flush_denormal(True)
    spec = PictureSpec(1, 28, 28, classes=tuple("0123456789"))

    class Noise:
        """Digits without the digits."""

        def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
            generator = torch.Generator().manual_seed(index)
            return {
                "pixels": torch.rand(size, 1, 28, 28, generator=generator) * 2 - 1,
                "label": torch.randint(0, 10, (size,), generator=generator),
            }

    config = TrainConfig(
        max_steps=10**6,
        batch_size=32,
        betas=(0.0, 0.99),
        clip=0.0,
        device="cpu",
        threads=torch.get_num_threads() if threads < 0 else threads,
    )
    torch.manual_seed(0)
    model = gan.build(
        gan.Config(
            conditional=True, width=24, gamma=0.1, augment=["translation", "cutout"]
        ),
        spec,
    )
    state = loop.start(model, config)
    data = Noise()
    began = time.perf_counter()
    expected = estimate.estimate(state, data, Path(tempfile.gettempdir()))
    choosing = time.perf_counter() - began
    keeper = Threads(
        state, data, expected.threads, expected.most_threads, lambda text: None
    )

    def finish(state: loop.State) -> None:
        state.finished = state.seconds > SECONDS

    loop.run(state, data, [(1, keeper), (1, finish)])
    print(
        json.dumps(
            {
                "steps_per_second": state.step / state.seconds,
                "threads": state.threads,
                "estimate_seconds": choosing,
                "estimate": str(expected),
            }
        )
    )


@contextmanager
def others() -> Iterator[None]:
    """Within: OTHERS programs keep a core busy each."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(OTHERS)
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(threads: int) -> dict[str, object]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, __file__, "--threads", str(threads)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads is not None:
        train(options.threads)
        return
    results = dict[str, dict[str, object]]()
    for machine, beside in (("alone", nullcontext), ("busy", others)):
        speeds: dict[str, list[float]] = {name: [] for name in SETTINGS}
        last = dict[str, object]()
        with beside():
            for _ in range(options.rounds):
                for name, threads in SETTINGS.items():
                    last = measure(threads)
                    speeds[name].append(float(str(last["steps_per_second"])))
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        results[machine] = {
            "steps_per_second": {name: round(v, 2) for name, v in medians.items()},
            "ranges": {
                name: [round(min(values), 2), round(max(values), 2)]
                for name, values in speeds.items()
            },
            "threads": last["threads"],
            "estimate": last["estimate"],
            "ok": medians["chosen"] >= 0.9 * medians["one thread"],
        }
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        for machine, rows in results.items():
            print(machine, rows["steps_per_second"], "log of threads:", rows["threads"])
            print(" ", rows["estimate"])
    sys.exit(0 if all(rows["ok"] for rows in results.values()) else 1)


if __name__ == "__main__":
    main()
