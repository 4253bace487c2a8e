"""Noise on embeddings, dropout, gradient checkpointing: what they promise, and that
they are in the net itself.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tune.small import Texts, answers, causal, classifier
from torch import Tensor

from miaobi.core.errors import Unsupported
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig


def test_noise_is_uniform_and_as_strong_as_the_paper_says() -> None:
    """Within ± α / √(L d), with the variance of a uniform distribution, and only while training."""
    learner = causal()
    methods.apply(learner, TuneConfig("lora", neftune_alpha=5.0))
    embedding = learner.net.get_base_model().get_input_embeddings()
    length, width = 40, 32
    ids = torch.arange(length).repeat(200, 1)
    bound = 5.0 / (length * width) ** 0.5
    learner.train()
    noise = embedding(ids) - embedding.weight[ids]
    assert float(noise.abs().max()) <= bound * 1.0001
    assert float(noise.var()) == pytest.approx(bound**2 / 3, rel=0.02)
    learner.eval()
    assert torch.equal(embedding(ids), embedding.weight[ids])


def test_a_learner_that_adds_noise_itself_gets_the_strength() -> None:
    learner = causal()
    learner.neftune_alpha = 0.0
    methods.apply(learner, TuneConfig("lora", neftune_alpha=5.0))
    assert learner.neftune_alpha == 5.0
    learner.train()
    embedding = learner.net.get_base_model().get_input_embeddings()
    output = embedding(torch.arange(4))
    assert torch.equal(output, embedding.weight[:4]), "not twice"


def test_dropout_is_of_all_layers_that_have_it() -> None:
    learner = classifier()
    methods.apply(learner, TuneConfig("full", dropout=0.4))
    modules = learner.net.modules()
    layers = [module for module in modules if isinstance(module, torch.nn.Dropout)]
    assert {layer.p for layer in layers} == {0.4}
    with pytest.raises(Unsupported, match="dropout"):
        methods.apply(causal(), TuneConfig("full", dropout=0.4))


@pytest.mark.parametrize("method", ["full", "lora", "bottleneck"])
def test_checkpointing_changes_memory_and_not_gradients(method: str) -> None:
    size, gradients = saved_for_backward(method, checkpointing=False)
    small_size, recomputed = saved_for_backward(method, checkpointing=True)
    assert small_size < size / 2
    assert gradients
    for actual, expected in zip(recomputed, gradients, strict=True):
        torch.testing.assert_close(actual, expected)


def saved_for_backward(method: str, checkpointing: bool) -> tuple[int, list[Tensor]]:
    """Return the bytes that autograd saves for a batch, and the gradients."""
    learner = causal()
    torch.manual_seed(1)
    methods.apply(learner, TuneConfig(method, gradient_checkpointing=checkpointing))
    learner.train()
    sizes = dict[int, int]()

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = learner.loss(Texts().batch("train", 0, 16, 0)).total
    loss.backward()
    gradients = [
        parameter.grad
        for parameter in learner.net.parameters()
        if parameter.grad is not None
    ]
    return sum(sizes.values()), gradients


@pytest.mark.parametrize(
    "setting", [{"gradient_checkpointing": True}, {"neftune_alpha": 5.0}]
)
def test_a_net_that_cannot_is_refused(setting: dict[str, Any]) -> None:
    learner = causal()
    learner.net = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(Unsupported):
        methods.apply(learner, TuneConfig("full", **setting))


def test_answers_are_the_bases_in_evaluation_mode() -> None:
    learner = causal()
    before = answers(learner)
    config = TuneConfig("lora", neftune_alpha=5.0, gradient_checkpointing=True)
    methods.apply(learner, config)
    torch.testing.assert_close(answers(learner), before)
