"""Every family that learns from hidden words or from pairs: builds from its defaults,
learns a rule exactly, saves, loads back the same, and shows samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from miaobi.core.artifacts import Text
from miaobi.data.text import tokenizer
from miaobi.data.text.masked import ROLES, SPECIALS, MaskedSpec
from miaobi.data.text.pairs import PairSpec
from miaobi.families import families
from miaobi.nn.objective import Batch
from miaobi.train import loop
from miaobi.train.config import TrainConfig

LETTERS = "abcdefghijklmnopqrs"
COUNT = len(LETTERS)


def letters(*specials: str, **roles: str) -> tokenizer.Tokenizer:
    plain = tokenizer.characters(dict.fromkeys(LETTERS, 1), 1)
    return tokenizer.with_specials(
        plain, specials, roles, single="$A <|endoftext|>", pair="$A $B <|endoftext|>"
    )


class Alphabet:
    """What a toy data set has of any."""

    fingerprint, folder = "alphabet", Path()

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        return iter([self.batch(split, 10**6, size, 0)])

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Nothing to keep."""

    def runs(self, index: int, size: int, length: int) -> torch.Tensor:
        """Letters that follow each other in the alphabet, int64 [size, length]."""
        generator = torch.Generator().manual_seed(index)
        first = torch.randint(0, COUNT, (size, 1), generator=generator)
        numbers = (first + torch.arange(length)) % COUNT
        a = self.tokenizer.encode(["a"])[0]
        return a + numbers


class Hidden(Alphabet):
    """Two letters of each run are hidden: their neighbours say which."""

    tokenizer = letters(*SPECIALS, **ROLES)

    @property
    def spec(self) -> MaskedSpec:
        pad = self.tokenizer.vocab_size - len(SPECIALS)
        return MaskedSpec(pad + 4, 16, pad, pad + 1, pad + 2, pad + 3, "char", "none")

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        spec = self.spec
        ids = self.runs(index, size, 8)
        ids[:, 0], ids[:, -1] = spec.cls_id, spec.sep_id
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        generator = torch.Generator().manual_seed(index)
        column = torch.randint(1, 4, (size, 1), generator=generator)
        hidden.scatter_(1, column, True)
        hidden.scatter_(1, column + 3, True)
        return {
            "ids": torch.where(hidden, spec.mask_id, ids),
            "targets": torch.where(hidden, ids, -100),
            "lengths": torch.full((size,), 8),
            "types": torch.zeros_like(ids),
            "order": torch.full((size,), -100),
        }


class Backwards(Alphabet):
    """Targets are the sources, read backwards."""

    tokenizer = letters("[PAD]", pad_token="[PAD]")

    @property
    def spec(self) -> PairSpec:
        pad = self.tokenizer.vocab_size - 1
        end = self.tokenizer.end_id
        return PairSpec(pad + 1, 16, 16, pad, end, (), "char")

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        spec = self.spec
        run = self.runs(index, size, 6)
        end = torch.full((size, 1), spec.eos_id)
        start = torch.full((size, 1), spec.pad_id)
        target = run.flip(1)
        return {
            "source": torch.cat([run, end], 1),
            "source_lengths": torch.full((size,), 7),
            "ids": torch.cat([start, target], 1),
            "targets": torch.cat([target, end], 1),
        }


TOYS = {"masked": Hidden(), "pairs": Backwards()}
NAMES = [name for name in families.names() if families.get(name).DATA in TOYS]


@pytest.fixture(scope="module", params=NAMES)
def trained(request: pytest.FixtureRequest):
    """(family, toy, objective that learned it)"""
    family = families.get(request.param)
    toy = TOYS[family.DATA]
    torch.manual_seed(0)
    objective = family.build(family.Config(num_layers=2, hidden_size=64), toy.spec)
    settings = TrainConfig(
        max_steps=200, batch_size=48, learning_rate=4e-3, device="cpu", warmup=0.1
    )
    state = loop.start(objective, settings)
    untrained = loop.validate(state, toy)
    uniform_guess = torch.tensor(float(toy.spec.vocab_size)).log().item()
    assert untrained == pytest.approx(uniform_guess, rel=0.2)
    loop.run(state, toy, [])
    assert loop.validate(state, toy) < 0.3
    return family, toy, objective.eval()


def test_saves_and_loads(trained, tmp_path: Path) -> None:
    family, toy, objective = trained
    family.save(objective, tmp_path)
    assert (tmp_path / "config.json").exists()
    loaded = type(objective)(family.load(tmp_path)).eval()
    batch = toy.batch("train", 3, 4, 0)
    before, after = objective.validate(batch), loaded.validate(batch)
    torch.testing.assert_close(before.total, after.total)


def test_samples_follow_the_rule(trained) -> None:
    family, toy, objective = trained
    config = family.Sample(prompts=["bc[MASK]efg", "cdefgh"], max_new_tokens=8)
    if family.DATA == "pairs":
        config = family.Sample(prompts=["cdefgh"], max_new_tokens=8)
    samples = family.sample(objective, toy, config)
    assert {type(sample) for sample in samples} == {Text}
    expected = {"masked": "bcdefg", "pairs": "cdefgh → hgfedc"}[family.DATA]
    assert str(samples[0]) == expected


def test_masked_targets_do_not_count(trained) -> None:
    _, toy, objective = trained
    batch = toy.batch("train", 0, 4, 0)
    masked = {**batch, "targets": batch["targets"].clone()}
    masked["targets"][2:] = -100
    part = objective.validate(masked)
    half = objective.validate({key: value[:2] for key, value in batch.items()})
    assert part.count == half.count
    torch.testing.assert_close(part.total, half.total)
