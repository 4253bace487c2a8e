"""Every family that learns from sentences: builds from its defaults, learns, saves, loads
back the same, and its latent space does what the verbs ask of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from miaobi.core.artifacts import Text
from miaobi.data.text.tokens import TokenSpec
from miaobi.families import families
from miaobi.nn.objective import Loss, Objective
from miaobi.train import loop
from miaobi.train.config import TrainConfig

SPEC = TokenSpec(
    vocab_size=13, context_length=12, bos_id=0, eos_id=0, pad_id=0, tokenizer="test"
)
SENTENCES = [
    name for name in families.names() if families.get(name).DATA == "sentences"
]


class Numbers:
    """A tokenizer whose texts are the ids themselves."""

    def encode(self, texts: list[str]) -> list[int]:
        return [int(word) for text in texts for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Runs:
    """Sentences of one number, said three to eight times: two facts hold all of it."""

    spec, fingerprint, folder = SPEC, "runs", Path()
    tokenizer = Numbers()

    def batch(self, split: str, index: int, size: int, seed: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(index)
        numbers = torch.randint(1, 13, (size, 1), generator=draw)
        lengths = torch.randint(3, 9, (size, 1), generator=draw)
        columns = torch.arange(10)
        ids = torch.where((columns > 0) & (columns <= lengths), numbers, 0)
        targets = torch.where(columns < lengths, numbers, 0)
        return {"ids": ids, "targets": targets.masked_fill(columns > lengths, -100)}

    def batches(self, split: str, size: int) -> Iterator[dict[str, Tensor]]:
        return iter([self.batch(split, 10**6, size, 0)])

    def save(self, folder: Path) -> None:
        """Nothing to keep."""


def built(name: str) -> Objective:
    family = families.get(name)
    torch.manual_seed(0)
    config = family.Config(latent_size=4, hidden_size=48, embedding_size=24)
    objective: Objective = family.build(config, SPEC)
    return objective


@pytest.fixture(scope="module", params=SENTENCES)
def trained(request: pytest.FixtureRequest) -> tuple[str, Objective, float]:
    """A family, its model of the runs, and the loss before training."""
    objective = built(request.param)
    settings = TrainConfig(
        max_steps=250, batch_size=32, learning_rate=1e-2, device="cpu"
    )
    state = loop.start(objective, settings)
    untrained = loop.validate(state, Runs())
    loop.run(state, Runs(), [])
    return request.param, objective.eval(), untrained


def test_learns_saves_and_loads(
    trained: tuple[str, Objective, float], tmp_path: Path
) -> None:
    name, objective, untrained = trained
    batch = Runs().batch("validation", 10**6, 256, 0)
    torch.manual_seed(0)
    learnt = objective.validate(batch)
    assert learnt.total.item() / learnt.count < untrained / 2
    family = families.get(name)
    family.save(objective, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    loaded = family.load(tmp_path)
    torch.testing.assert_close(loaded(batch["ids"]), objective.net(batch["ids"]))


def test_the_latent_space_holds_a_sentence(
    trained: tuple[str, Objective, float],
) -> None:
    _, objective, _ = trained
    net = objective.net
    texts = [[number] * length for number in (2, 7, 11) for length in (3, 6)]
    restored = net.decode(net.encode(texts))
    same_number = [
        bool(answer) and answer[0] == text[0]
        for answer, text in zip(restored, texts, strict=True)
    ]
    assert sum(same_number) >= 5
    assert (net.encode(texts * 10).var(0) > 0.01).sum() >= 2, "active units"


def test_the_bound_is_nearer_with_more_draws(
    trained: tuple[str, Objective, float],
) -> None:
    _, objective, _ = trained
    net = objective.net
    texts = [[number] * 5 for number in range(1, 13)] * 4

    def bound(samples: int) -> float:
        generator = torch.Generator().manual_seed(1)
        return float(net.bound(texts, samples, generator).mean())

    assert bound(1) < bound(100) < 0
    assert bound(100) > -math.log(13) * 5


@pytest.mark.parametrize("name", SENTENCES)
def test_texts_that_hold_nothing_do_not_count(name: str) -> None:
    objective = built(name).eval()
    batch = Runs().batch("train", 0, 4, 0)
    emptied = {key: value.clone() for key, value in batch.items()}
    emptied["targets"][2:] = -100
    emptied["targets"][2:, 0] = 0
    half = {key: value[:2] for key, value in batch.items()}
    torch.manual_seed(0)
    whole: Loss = objective.validate(half)
    torch.manual_seed(0)
    part: Loss = objective.validate(emptied)
    assert part.count == whole.count == 2
    torch.testing.assert_close(part.total, whole.total)


@pytest.mark.parametrize("name", SENTENCES)
def test_samples_are_texts(name: str) -> None:
    family = families.get(name)
    objective = built(name).eval()
    config = family.Sample(prompts=["3 4", "5"], max_new_tokens=4)
    texts = family.sample(objective, Runs(), config)
    assert [type(text) for text in texts] == [Text, Text]
    assert str(texts[0]).startswith("3 4 → ")
    assert family.sample(objective, Runs(), family.Sample())


@pytest.mark.parametrize("name", SENTENCES)
def test_a_seed_draws_one_point(name: str) -> None:
    net = built(name).net
    assert net.draw([5, 6]).equal(torch.cat([net.draw([5]), net.draw([6])]))
    assert not net.draw([5]).equal(net.draw([6]))
