"""Noise on embeddings, dropout, gradient checkpointing: what they promise, and that
they rest with the net.
"""

from __future__ import annotations

import pytest
import torch
from tests.tune.small import Texts, answers, causal, classifier

from miaobi.core.errors import Unsupported
from miaobi.tune import methods
from miaobi.tune.methods import TuneConfig


def test_noise_is_uniform_and_as_strong_as_the_paper_says() -> None:
    """Within ± α / √(L d), with the variance of a uniform distribution, and only while training."""
    learner = causal()
    methods.apply(learner, TuneConfig("lora", neftune_alpha=5.0))
    embedding = learner.net.get_base_model().get_input_embeddings()
    ids = torch.arange(40).repeat(200, 1)
    bound = 5.0 / (40 * 32) ** 0.5
    learner.train()
    noise = embedding(ids) - embedding.weight[ids]
    assert float(noise.abs().max()) <= bound * 1.0001
    assert float(noise.var()) == pytest.approx(bound**2 / 3, rel=0.02)
    learner.eval()
    assert torch.equal(embedding(ids), embedding.weight[ids])


def test_a_learner_that_makes_its_own_noise_is_told_the_strength() -> None:
    learner = causal()
    learner.neftune_alpha = 0.0
    methods.apply(learner, TuneConfig("lora", neftune_alpha=5.0))
    assert learner.neftune_alpha == 5.0
    learner.train()
    embedding = learner.net.get_base_model().get_input_embeddings()
    assert torch.equal(embedding(torch.arange(4)), embedding.weight[:4]), "not twice"


def test_dropout_is_of_all_layers_that_have_it() -> None:
    learner = classifier()
    methods.apply(learner, TuneConfig("full", dropout=0.4))
    assert {
        module.p
        for module in learner.net.modules()
        if isinstance(module, torch.nn.Dropout)
    } == {0.4}
    with pytest.raises(Unsupported, match="dropout"):
        methods.apply(causal(), TuneConfig("full", dropout=0.4))


@pytest.mark.parametrize("method", ["full", "lora", "bottleneck"])
def test_checkpointing_changes_memory_and_not_gradients(method: str) -> None:
    gradients, kept = [], []
    for checkpointing in (False, True):
        learner = causal()
        torch.manual_seed(1)
        methods.apply(learner, TuneConfig(method, gradient_checkpointing=checkpointing))
        learner.train()
        held = dict[int, int]()

        def note(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = (
                tensor.untyped_storage().nbytes()
            )
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = learner.loss(Texts().batch("train", 0, 16, 0)).total
        kept.append(sum(held.values()))
        loss.backward()
        gradients.append(
            [item.grad for item in learner.net.parameters() if item.grad is not None]
        )
    assert kept[1] < kept[0] / 2
    assert gradients[0]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_net_that_cannot_is_told() -> None:
    for settings in ({"gradient_checkpointing": True}, {"neftune_alpha": 5.0}):
        learner = causal()
        learner.net = torch.nn.Sequential(torch.nn.Linear(4, 4))
        with pytest.raises(Unsupported):
            methods.apply(learner, TuneConfig("full", **settings))  # type: ignore[arg-type]


def test_answers_are_the_bases_whatever_helps() -> None:
    learner = causal()
    before = answers(learner)
    methods.apply(
        learner, TuneConfig("lora", neftune_alpha=5.0, gradient_checkpointing=True)
    )
    torch.testing.assert_close(answers(learner), before)
