"""Every registered family: builds from its defaults, learns, saves in the ecosystem's
layout, loads back the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from miaobi.core.artifacts import Text
from miaobi.core.config import options
from miaobi.core.requests import requests
from miaobi.data import datasets
from miaobi.data.text.tokens import TokenSpec
from miaobi.families import families
from miaobi.nn.objective import Loss, Objective
from miaobi.train import loop
from miaobi.train.config import TrainConfig

SPEC = TokenSpec(
    vocab_size=19, context_length=16, bos_id=0, eos_id=0, pad_id=0, tokenizer="test"
)
TEXT = [name for name in families.names() if families.get(name).DATA == "tokens"]


class Numbers:
    """A tokenizer whose texts are the ids themselves."""

    def encode(self, texts: list[str]) -> list[int]:
        return [int(word) for text in texts for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return "".join(f" {number}" for number in ids)


class Counting:
    """Sequences that count upwards from anywhere: learnable exactly."""

    spec, fingerprint, folder = SPEC, "counting", Path()
    tokenizer = Numbers()

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


SUITES = {
    "tokens": "tests/contracts/test_families.py",
    "pictures": "tests/contracts/test_image_families.py",
    "masked": "tests/contracts/test_reading_families.py",
    "pairs": "tests/contracts/test_reading_families.py",
    "sentences": "tests/contracts/test_sentence_families.py",
}
"""Which suite runs over the families of a data set."""


@pytest.mark.parametrize("name", families.names())
def test_declares_itself(name: str) -> None:
    family = families.get(name)
    assert family.NAME == name
    assert family.DATA in datasets
    makes = {requests.get(kind).makes for kind in requests.names()}
    assert family.MODALITY in makes, "no request asks for what it makes"
    if family.DATA not in SUITES:
        pytest.fail(
            f"The family {name} learns from {family.DATA}, which no suite has a toy of: "
            "write one beside tests/contracts/test_families.py and name it in SUITES."
        )
    assert family.__doc__
    undocumented = [
        option.key
        for option in [*options(family.Config), *options(family.Sample)]
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
    uniform_guess = torch.tensor(19.0).log().item()
    assert untrained == pytest.approx(uniform_guess, rel=0.15)
    loop.run(state, Counting(), [])
    assert loop.validate(state, Counting()) < 0.3
    family.save(objective, tmp_path)
    assert (tmp_path / "config.json").exists()
    weights = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    loaded = family.load(tmp_path)
    ids = Counting().batch("train", 3, 4, 0)["ids"]
    objective.eval()
    with torch.no_grad():
        logits = objective.net(ids)
        output = loaded(ids)
    loaded_logits = getattr(output, "logits", output)  # of Transformers, or of our own
    torch.testing.assert_close(loaded_logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TEXT)
def test_samples_are_texts(name: str) -> None:
    family = families.get(name)
    torch.manual_seed(0)
    objective = family.build(family.Config(), SPEC).eval()
    config = family.Sample(prompts=["3", "14"], max_new_tokens=4)
    samples = family.sample(objective, Counting(), config)
    assert [type(sample) for sample in samples] == [Text, Text]
    assert [str(sample)[:2] for sample in samples] == ["3 ", "14"]
    assert all(len(str(sample).split()) <= 5 for sample in samples)


@pytest.mark.parametrize("name", TEXT)
def test_masked_targets_do_not_count(name: str) -> None:
    family = families.get(name)
    torch.manual_seed(0)
    objective = family.build(family.Config(), SPEC).eval()
    batch = Counting().batch("train", 0, 4, 0)
    masked = {**batch, "targets": batch["targets"].clone()}
    masked["targets"][2:] = -100
    first_rows = {key: value[:2] for key, value in batch.items()}
    whole: Loss = objective.validate(batch)
    half: Loss = objective.validate(first_rows)
    part: Loss = objective.validate(masked)
    assert part.count == half.count
    assert part.count == whole.count // 2
    torch.testing.assert_close(part.total, half.total)
