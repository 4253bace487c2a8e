"""The log and the trackers, read back by their own readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from miaobi.core.artifacts import Facts, Text
from miaobi.core.errors import MissingPart, NotFound
from miaobi.train import tracking


def test_the_log_drops_what_a_resumed_run_will_repeat(tmp_path: Path) -> None:
    log = tracking.Log(tmp_path)
    for step in (10, 20, 30):
        log.log_metrics(step, {"loss": 1 / step})
    with log.path.open("a") as file:
        file.write('{"step": 40, "lo')  # cut off by a power failure
    tracking.Log(tmp_path, from_step=20).log_metrics(21, {"loss": 0.0})
    assert [row["step"] for row in tracking.read_log(tmp_path)] == [10, 20, 21]


def test_tensorboard_writes_what_tensorboard_reads(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (board,) = tracking.open_trackers(None, tmp_path, {"name": "x"})
    board.log_metrics(1, {"loss": 2.5})
    board.log_samples(1, [Text("春", Facts("x"))])
    board.close()
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [event.value for event in reader.Scalars("loss")] == [2.5]
    assert "sample/0/text_summary" in reader.Tags()["tensors"]


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "poet-1"
    run.mkdir()
    (board,) = tracking.open_trackers(["wandb"], run, {"train": {"max_steps": 3}})
    board.log_metrics(1, {"loss": 2.5})
    board.log_samples(1, [Text("春", Facts("x"))])
    board.close()
    # Its service writes the file after the run has ended; then the service ends.
    wandb.teardown()
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    assert b"max_steps" in file.read_bytes()


def test_without_wandb_the_error_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tracking.open_trackers(None, tmp_path, {}) == []
    with pytest.raises(MissingPart) as caught:
        tracking.open_trackers(["wandb"], tmp_path, {})
    assert "miaobi[wandb]" in caught.value.remedy


def test_unknown_tracker(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="tensorbord"):
        tracking.open_trackers(["tensorbord"], tmp_path, {})
