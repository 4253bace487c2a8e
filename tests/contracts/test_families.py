"""Every registered family: builds from its defaults, learns, saves in the ecosystem's
layout, loads back the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from miaobi.core.config import options
from miaobi.data.text.tokens import TokenSpec
from miaobi.families import families
from miaobi.nn.objective import Loss, Objective
from miaobi.train import loop
from miaobi.train.config import TrainConfig

SPEC = TokenSpec(
    vocab_size=19, context_length=16, bos_id=0, eos_id=0, pad_id=0, tokenizer="test"
)
TEXT = [name for name in families.names() if families.get(name).DATA == "tokens"]


class Counting:
    """Sequences that count upwards from anywhere: learnable exactly."""

    spec, fingerprint, folder = SPEC, "counting", Path()

    def batch(
        self, split: str, index: int, size: int, seed: int
    ) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        first = torch.randint(0, 19, (size, 1), generator=generator)
        ids = (first + torch.arange(17)) % 19
        return {"ids": ids[:, :-1], "targets": ids[:, 1:]}

    def batches(self, split: str, size: int):
        return iter([self.batch(split, 10**6, size, 0)])

    def save(self, folder: Path) -> None:
        """Nothing to keep."""


@pytest.mark.parametrize("name", families.names())
def test_declares_itself(name: str) -> None:
    family = families.get(name)
    assert family.NAME == name
    assert family.MODALITY in ("text", "image", "audio", "video")
    assert family.__doc__
    undocumented = [
        option.key
        for option in options(family.Config)
        if not option.help and option.key not in ("norm_eps",)
    ]
    assert not undocumented


@pytest.mark.parametrize("name", TEXT)
def test_learns_saves_and_loads(name: str, tmp_path: Path) -> None:
    family = families.get(name)
    torch.manual_seed(0)
    objective: Objective = family.build(family.Config(), SPEC)
    state = loop.start(
        objective,
        TrainConfig(max_steps=40, batch_size=32, learning_rate=5e-3, device="cpu"),
    )
    untrained = loop.validate(state, Counting())
    assert untrained == pytest.approx(torch.tensor(19.0).log().item(), rel=0.15), (
        "starts near the uniform guess"
    )
    loop.run(state, Counting(), [])
    assert loop.validate(state, Counting()) < 0.3
    family.save(objective, tmp_path)
    assert (tmp_path / "config.json").exists()
    assert all(
        value.dtype == torch.float32
        for value in load_file(tmp_path / "model.safetensors").values()
    )
    loaded = family.load(tmp_path)
    ids = Counting().batch("train", 3, 4, 0)["ids"]
    objective.eval()
    with torch.no_grad():
        mine = objective.net(ids)
        output = loaded(ids)
    torch.testing.assert_close(
        getattr(output, "logits", output), mine, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", TEXT)
def test_masked_targets_do_not_count(name: str) -> None:
    family = families.get(name)
    torch.manual_seed(0)
    objective = family.build(family.Config(), SPEC).eval()
    batch = Counting().batch("train", 0, 4, 0)
    masked = {**batch, "targets": batch["targets"].clone()}
    masked["targets"][2:] = -100
    whole, half = (
        objective.validate(batch),
        objective.validate({name: value[:2] for name, value in batch.items()}),
    )
    part: Loss = objective.validate(masked)
    assert part.count == half.count == whole.count // 2
    torch.testing.assert_close(part.total, half.total)
