"""A LoRA run that is stopped after any step, or whose power fails at any moment, ends
as the unbroken one does, to the bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tune.small import Texts, causal, values

from miaobi.train import checkpoint, loop
from miaobi.train.config import TrainConfig
from miaobi.train.estimate import Estimate
from miaobi.train.run import Run, restore_newest
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig

STEPS = 6
CONFIG = TrainConfig(
    max_steps=STEPS,
    batch_size=4,
    microbatches=2,
    learning_rate=1e-2,
    device="cpu",
    validate_every=2,
    patience=9,
    checkpoint_every=1,
    sample_every=3,
    log_every=1,
    trackers=[],
)
NO_ESTIMATE = Estimate(0.0, 0, 0, 0, 0, 0)


def fresh() -> loop.State:
    torch.manual_seed(CONFIG.seed)
    learner = causal()
    methods.apply(learner, TuneConfig("lora", lora_dropout=0.2, neftune_alpha=5.0))
    return loop.start(learner, CONFIG)


def run_to_end(folder: Path, stop: int = 0) -> loop.State:
    """A run in `folder` from where it is to the end, or until Ctrl-C is pressed in step
    number `stop`.
    """
    state = fresh()
    restore_newest(state, folder)

    class Pressed(Texts):
        def batch(
            self, split: str, index: int, size: int, seed: int
        ) -> dict[str, torch.Tensor]:  # type: ignore[override]
            if split == "train" and stop and index == 2 * (stop - 1):
                signal.raise_signal(signal.SIGINT)
            return dict(super().batch(split, index, size, seed))

    run = Run(folder, CONFIG, {}, "finetune", lambda state, outputs: None)
    run.train(state, Pressed(), NO_ESTIMATE, quiet=True)
    return state


def test_ctrl_c_in_any_step(tmp_path: Path) -> None:
    whole = run_to_end(tmp_path / "whole")
    for stop in range(1, STEPS):
        with pytest.raises(KeyboardInterrupt):
            run_to_end(tmp_path / str(stop), stop)
        assert [
            path.name
            for path in checkpoint.list_checkpoints(
                tmp_path / str(stop) / "checkpoints"
            )
        ][-1] == f"step-{stop:08d}"
        state = run_to_end(tmp_path / str(stop))
        one, other = values(whole.objective.net), values(state.objective.net)
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert whole.train == state.train
        assert whole.validation == state.validation


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import time
from tests.tune import test_interruption as here
from safetensors.torch import save_file
slow = here.checkpoint.write_beside
def lingering(path):
    time.sleep(0.1)   # so that the power often fails while a checkpoint is written
    return slow(path)
here.checkpoint.write_beside = lingering
print("ready", flush=True)
state = here.run_to_end(Path({folder!r}))
save_file(here.values(state.objective.net), {result!r})
"""


@pytest.mark.slow
def test_power_loss_in_the_middle_of_a_step_or_of_a_checkpoint(tmp_path: Path) -> None:
    result = tmp_path / "result.safetensors"
    script = SCRIPT.format(
        root=str(Path(__file__).parents[2]),
        folder=str(tmp_path / "run"),
        result=str(result),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for after, wait in ((1, 0.0), (3, 0.07), (None, 0.0)):
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if after is not None:
                while process.poll() is None and not checkpoint.list_checkpoints(
                    tmp_path / "run" / "checkpoints"
                )[-1:] >= [tmp_path / "run" / "checkpoints" / f"step-{after:08d}"]:
                    time.sleep(0.002)
                time.sleep(wait)
                process.kill()
            _, errors = process.communicate(timeout=120)
        assert process.returncode == (0 if after is None else -signal.SIGKILL), errors
    whole = values(run_to_end(tmp_path / "whole").objective.net)
    resumed = load_file(result)
    assert all(torch.equal(whole[name], resumed[name]) for name in resumed)
    assert resumed.keys() <= whole.keys()
    assert any("lora_A" in name for name in resumed)
