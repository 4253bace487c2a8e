"""A run in one process, in two, or in a changing number of them: the same batches, the
same losses; with the same number of processes, the same bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train import parts
from tests.train.parts import CONFIG, STEPS, Part, write_parts

from miaobi.core.errors import BadInput
from miaobi.train import checkpoint, loop
from miaobi.train.config import TrainConfig

KINDS = ("gan", "ragged", "language")


@dataclass(frozen=True)
class Result:
    indices: list[int]
    """Numbers of the batches that all processes read."""
    losses: list[dict[str, float]]
    """Of every step, by name. A lazy phase has none between a resume and its next turn."""
    seen: int
    tensors: dict[str, torch.Tensor]
    """Of the last checkpoint."""


def result_of(run: Path) -> Result:
    indices = list[int]()
    losses = list[dict[str, float]]()
    seen = 0
    for path in sorted(run.glob("*-of-rank-*.json")):
        content = json.loads(path.read_text())
        indices += content["indices"]
        if path.stem.endswith("-0"):
            losses += content["losses"]
            seen = content["seen"]
    newest = checkpoint.list_checkpoints(run)[-1]
    return Result(indices, losses, seen, load_file(newest / "tensors.safetensors"))


def torchrun(runs: Path) -> None:
    """Train the parts of parts.json in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, parts.__file__, str(runs)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind: in one process, in two, and in one, two and one; with
    dropout, in two without and with an interruption.
    """
    runs = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        Part(kind, f"{kind}-one", 0.0, STEPS).train(runs)
        Part(kind, f"{kind}-changing", 0.0, 3).train(runs)
    in_two = list[Part]()
    for kind in KINDS:
        in_two += [
            Part(kind, f"{kind}-two", 0.0, STEPS),
            Part(kind, f"{kind}-changing", 0.0, 8),
            Part(kind, f"{kind}-whole", 0.1, STEPS),
            Part(kind, f"{kind}-resumed", 0.1, 5),
            Part(kind, f"{kind}-resumed", 0.1, STEPS),
        ]
    write_parts(in_two, runs)
    torchrun(runs)
    for kind in KINDS:
        Part(kind, f"{kind}-changing", 0.0, STEPS).train(runs)
    return runs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", ["two", "changing"])
def test_the_number_of_processes_changes_nothing(
    runs: Path, kind: str, processes: str
) -> None:
    one = result_of(runs / f"{kind}-one")
    other = result_of(runs / f"{kind}-{processes}")
    each_once = Counter(range(4 * STEPS))
    assert Counter(one.indices) == each_once
    assert Counter(other.indices) == each_once
    assert other.seen == one.seen
    assert len(other.losses) == STEPS
    for losses, expected in zip(other.losses, one.losses, strict=True):
        assert "loss" in losses or "generator/loss" in losses
        wanted = {name: expected[name] for name in losses}
        assert losses == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_resume_to_the_same_bits(runs: Path, kind: str) -> None:
    """Each has its own dropout, and gets it back."""
    whole = result_of(runs / f"{kind}-whole")
    resumed = result_of(runs / f"{kind}-resumed")
    for losses, expected in zip(resumed.losses, whole.losses, strict=True):
        assert "loss" in losses or "generator/loss" in losses
        assert losses == {name: expected[name] for name in losses}
    assert resumed.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert torch.equal(resumed.tensors[name], tensor), name
    states = whole.tensors["random.cpu"]
    assert len(states) == 2
    if kind != "ragged":  # which draws nothing
        assert not torch.equal(*states)


def test_microbatches_that_cannot_be_shared_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert TrainConfig().microbatches == 4, "one for each process"
    with pytest.raises(BadInput, match="4 processes cannot share") as caught:
        TrainConfig(microbatches=6)
    assert "1, 2, 3, 6" in caught.value.remedy
    assert "--train.microbatches 8" in caught.value.remedy


def test_a_checkpoint_without_a_count_of_batches_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    """As 0.1.0 wrote them, which also kept one random state only."""
    part = Part("gan", "run", 0.1, 5)
    part.train(tmp_path)
    path = checkpoint.list_checkpoints(tmp_path / "run")[-1]
    content = json.loads((path / "state.json").read_text())
    assert content.pop("batches") == 20
    (path / "state.json").write_text(json.dumps(content))
    state = loop.start(part.objective(), TrainConfig(microbatches=4, ema=0.1))
    checkpoint.restore(state, path)
    assert state.batches == 20
    tensors, _ = checkpoint.state_dict(state)
    tensors["random.cpu"] = tensors["random.cpu"][0]
    torch.manual_seed(9)
    checkpoint.load_state_dict(state, tensors, content)
    assert torch.equal(torch.get_rng_state(), tensors["random.cpu"])
    assert CONFIG.ema == state.config.ema
