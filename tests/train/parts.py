"""Parts of a run, trained in this process or in several: what test_processes.py
compares.

python -m torch.distributed.run --nproc-per-node=2 tests/train/parts.py FOLDER
trains the parts that FOLDER/parts.json lists.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.train.toys import Letters, PointGAN, Points, Ragged, letters_gpt

from miaobi.data.dataset import Batch, Dataset
from miaobi.nn.objective import Objective
from miaobi.train import checkpoint, loop, processes
from miaobi.train.config import TrainConfig

STEPS = 12
CONFIG = TrainConfig(
    max_steps=STEPS,
    batch_size=8,
    learning_rate=2e-3,
    device="cpu",
    ema=0.1,
)


@dataclass(frozen=True)
class Part:
    """The steps of a run up to `last`, from its newest checkpoint on."""

    kind: str
    """gan, ragged or language."""
    run: str
    """Its folder's name."""
    dropout: float
    last: int
    microbatches: int = 4

    def objective(self) -> Objective:
        if self.kind == "language":
            return letters_gpt(self.dropout)
        if self.kind == "ragged":
            return Ragged()
        objective = PointGAN()
        objective.noise.p = self.dropout
        return objective

    def train(self, runs: Path) -> None:
        """Train; write a checkpoint, and what each step read and lost."""
        folder = runs / self.run
        config = replace(CONFIG, microbatches=self.microbatches)
        torch.manual_seed(100 + processes.rank())  # only the first one's weights count
        state = loop.start(self.objective(), config)
        torch.manual_seed(config.seed + processes.rank())
        saved = checkpoint.list_checkpoints(folder)
        processes.wait_for_all()
        if saved:
            checkpoint.restore(state, saved[-1])
        data = Recorder(Letters() if self.kind == "language" else Points())
        losses = list[dict[str, float]]()

        def record(state: loop.State) -> None:
            losses.append(state.train)
            state.finished = state.step == self.last

        loop.run(state, data, [(1, record)])
        state.finished = False
        checkpoint.save(state, folder, keep=9)
        name = f"{self.last:02d}-of-rank-{processes.rank()}.json"
        content = {"indices": data.indices, "losses": losses, "seen": state.seen}
        (folder / name).write_text(json.dumps(content))


class Recorder:
    """A dataset that remembers the numbers of the batches it gave."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.indices = list[int]()

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        self.indices.append(index)
        return self.data.batch(split, index, size, seed)


def write_parts(parts: list[Part], runs: Path) -> None:
    content = [asdict(part) for part in parts]
    (runs / "parts.json").write_text(json.dumps(content))


def main(runs: Path) -> None:
    with processes.process_group(torch.device("cpu")):
        for content in json.loads((runs / "parts.json").read_text()):
            Part(**content).train(runs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
