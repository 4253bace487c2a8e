"""A small GAN trained with one thread, with all threads, and with train.threads = 0,
which takes the quicker: steps a second alone, beside two busy programs, and when these
come while it runs.

The three train in turn in one process, in slices of a second, so that whatever else the
machine does meets all of them; medians and ranges of the slices. Target: train.threads =
0 is at least 0.9 times as quick as one thread. Run alone: python bench/busy_machine.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miaobi.train.estimate import Estimate
    from miaobi.train.loop import State

OTHERS = 2
SLICE_SECONDS = 1.0
SLICES = 10
BEFORE_COMPANY = 5
"""Slices before the others come; they are not counted."""
SITUATIONS = ("alone", "busy", "company comes")
SETTINGS = {"one thread": 1, "all threads": None, "chosen": 0}
"""train.threads; None for as many as there are."""


class Competitor:
    """A run with one of SETTINGS, trained slice by slice."""

    def __init__(self, threads: int) -> None:
        from miaobi.train import estimate
        from miaobi.train.threads import Threads

        self.state = new_state(threads)
        self.data = Noise()
        self.estimate: Estimate = estimate.estimate(
            self.state, self.data, Path(tempfile.gettempdir())
        )
        self.adapt_threads = Threads(
            self.state,
            self.data,
            self.estimate.threads,
            self.estimate.most_threads,
            lambda text: None,
        )

    def train_slice(self) -> float:
        """Train for SLICE_SECONDS; return steps a second, choosing included."""
        import torch

        from miaobi.train import loop

        torch.set_num_threads(self.state.threads[-1][1])
        first_step = self.state.step
        began = time.perf_counter()

        def finish(state: State) -> None:
            state.finished = time.perf_counter() - began > SLICE_SECONDS

        self.state.finished = False
        loop.run(self.state, self.data, [(1, self.adapt_threads), (1, finish)])
        return (self.state.step - first_step) / (time.perf_counter() - began)


class Noise:
    """Digits without the digits."""

    def batch(self, split: str, index: int, size: int, seed: int) -> Any:
        import torch

        generator = torch.Generator().manual_seed(index)
        pixels = torch.rand(size, 1, 28, 28, generator=generator)
        labels = torch.randint(0, 10, (size,), generator=generator)
        return {"pixels": 2 * pixels - 1, "label": labels}


def new_state(threads: int) -> State:
    """The model of recipes/image/digits_cgan.yaml."""
    import torch

    from miaobi.data.image.prepared import PictureSpec
    from miaobi.families import gan
    from miaobi.train import loop
    from miaobi.train.config import TrainConfig

    train = TrainConfig(
        max_steps=10**6,
        batch_size=32,
        betas=(0.0, 0.99),
        clip=0.0,
        device="cpu",
        threads=threads,
    )
    config = gan.Config(
        conditional=True, width=24, gamma=0.1, augment=["translation", "cutout"]
    )
    torch.manual_seed(0)
    spec = PictureSpec(1, 28, 28, classes=tuple("0123456789"))
    return loop.start(gan.build(config, spec), train)


@contextmanager
def other_programs() -> Iterator[None]:
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


def measure_here(situation: str, slices: int) -> dict[str, Any]:
    """Return the results of one situation, measured in this process."""
    from miaobi.core.machine import settle_waiting

    settle_waiting()  # as `miaobi train` does, before torch is imported
    import torch

    torch.set_flush_denormal(True)
    all_threads = torch.get_num_threads()
    competitors = dict[str, Competitor]()
    for name, threads in SETTINGS.items():
        torch.set_num_threads(all_threads)
        competitors[name] = Competitor(all_threads if threads is None else threads)
    if situation != "company comes":
        return train_in_turn(competitors, slices)
    train_in_turn(competitors, BEFORE_COMPANY)
    with other_programs():
        return train_in_turn(competitors, slices)


def train_in_turn(competitors: dict[str, Competitor], slices: int) -> dict[str, Any]:
    speeds: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(slices):
        for name, competitor in competitors.items():
            speeds[name].append(competitor.train_slice())
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    chosen = competitors["chosen"]
    return {
        "steps_per_second": {name: round(item, 2) for name, item in medians.items()},
        "ranges": {
            name: [round(min(values), 2), round(max(values), 2)]
            for name, values in speeds.items()
        },
        "threads": chosen.state.threads,
        "estimate": str(chosen.estimate),
        "ok": medians["chosen"] >= 0.9 * medians["one thread"],
    }


def measure(situation: str, slices: int) -> dict[str, Any]:
    """Return the results of one situation, measured in a new process."""
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    argv = [sys.executable, __file__, "--situation", situation, "--slices", str(slices)]
    done = subprocess.run(
        argv, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--situation", choices=SITUATIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.situation:
        print(json.dumps(measure_here(options.situation, options.slices)))
        return
    results = dict[str, dict[str, Any]]()
    for situation in SITUATIONS:
        if situation == "busy":
            with other_programs():
                results[situation] = measure(situation, options.slices)
        else:
            results[situation] = measure(situation, options.slices)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        for situation, row in results.items():
            print(f"{situation}: {row['steps_per_second']}, threads {row['threads']}")
            print(f"  {row['estimate']}")
    sys.exit(0 if all(row["ok"] for row in results.values()) else 1)


if __name__ == "__main__":
    main()
