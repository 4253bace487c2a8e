"""Where the examples of a batch were written, for the error that names them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.tune.small import Causal, causal

from miaobi.data.dataset import Located
from miaobi.nn.objective import Batch
from miaobi.tune import examples
from miaobi.tune.examples import Examples
from miaobi.tune.learner import Features
from miaobi.tune.tasks import tasks


class Numbers(Causal):
    """Encodes an example as the number its text ends with, which is the line it stands on."""

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        return {"line": np.array(int(columns["text"].split()[-1]))}

    def collate(self, features: Sequence[Features]) -> Batch:
        return {"line": torch.tensor([int(item["line"]) for item in features])}


def test_locations_are_those_of_the_batch(tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text(
        "".join(
            json.dumps({"text": f"text {number}"}) + "\n" for number in range(1, 31)
        ),
        encoding="utf-8",
    )
    task = tasks.get("causal")
    folder = examples.prepare(
        examples.Config(path=str(source)), task, task.Config(), False, tmp_path / "kept"
    )
    data = Examples(folder, task, Numbers(causal().net), 8)
    assert isinstance(data, Located)
    for index in (0, 3, 11):
        wanted = [
            f"{source}:{number}"
            for number in data.batch("train", index, 4, 7)["line"].tolist()
        ]
        assert data.locations("train", index, 4, 7) == wanted
