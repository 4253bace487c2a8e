"""What a model makes while it learns, for the run's folder and its trackers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from miaobi.core.artifacts import Artifact, Facts
from miaobi.provenance import writers
from miaobi.provenance.publish import publish
from miaobi.train.tracking import Tracker


def record_samples(
    samples: Sequence[Artifact],
    model: str,
    step: int,
    run: Path,
    trackers: Sequence[Tracker],
) -> None:
    """Write samples to samples/step-STEP of the run, labelled, and to the trackers.

    Args:
        samples: of one class; none leaves no file.
        model: name of the model that made them.
        step: steps completed.
        run: folder of the run.
        trackers: those of the run.
    """
    if not samples:
        return
    facts = Facts(model, parameters={"step": step})
    labelled = [sample.labelled(facts, sample.finish) for sample in samples]
    for tracker in trackers:
        tracker.log_samples(step, labelled)
    writer = writers.get(type(samples[0]).__name__)
    ending = next(iter(writer.ENDINGS))
    publish(labelled, run / "samples" / f"step-{step:08d}{ending}")
