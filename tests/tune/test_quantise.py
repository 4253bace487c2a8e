"""Bases in eight and four bits: how close they come, that gradients are exact, and that
an adapter above them learns and comes back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tune.small import Texts, answers, causal, classifier, values
from torch import nn

from miaobi.train import checkpoint, loop
from miaobi.train.config import TrainConfig
from miaobi.tune import methods
from miaobi.tune.methods import TuneConfig
from miaobi.tune.methods.quantise import BLOCK, NF4, QuantisedLinear, pack

CONFIG = TrainConfig(max_steps=8, batch_size=4, learning_rate=1e-2, device="cpu")


@pytest.mark.parametrize("columns", [64, 128, 100])
def test_no_weight_is_further_than_half_a_step(columns: int) -> None:
    """int8 rounds to multiples of max |w| / 127 of its block; int4 to the nearest of
    sixteen levels times max |w|.
    """
    torch.manual_seed(0)
    linear = nn.Linear(columns, 24)
    blocks = nn.functional.pad(linear.weight.detach(), (0, -columns % BLOCK)).unflatten(
        1, (-1, BLOCK)
    )
    largest = (
        blocks.abs().amax(2, keepdim=True).expand_as(blocks).flatten(1)[:, :columns]
    )
    error = (QuantisedLinear(linear, "int8").weight - linear.weight).abs()
    assert bool((error <= largest / 254 * 1.001).all())
    levels = torch.tensor(NF4)
    nearest = (linear.weight[..., None] / largest[..., None] - levels).abs().min(
        -1
    ).values * largest
    torch.testing.assert_close(
        (QuantisedLinear(linear, "int4").weight - linear.weight).abs(),
        nearest,
        rtol=1e-4,
        atol=1e-6,
    )


def test_levels_come_back_as_they_were() -> None:
    levels = torch.tensor(NF4)
    linear = nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(levels.repeat(3, 4) * torch.tensor([[1.0], [0.5], [7.0]]))
    torch.testing.assert_close(
        QuantisedLinear(linear, "int4").weight, linear.weight.detach()
    )


def test_bits_are_few() -> None:
    codes, scale = pack(torch.randn(256, 512), "int4")
    assert (codes.element_size() * codes.numel(), scale.numel()) == (
        256 * 512 // 2,
        256 * 512 // BLOCK,
    )
    codes, _ = pack(torch.randn(256, 512), "int8")
    assert codes.element_size() * codes.numel() == 256 * 512
    layer = QuantisedLinear(nn.Linear(512, 256), "int4")
    assert set(layer.state_dict()) == {"bias"}, "the base is not kept again"
    assert sum(item.numel() for item in layer.parameters()) == 256


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_products_and_gradients_are_those_of_the_unpacked_matrix(bits: str) -> None:
    torch.manual_seed(0)
    layer = QuantisedLinear(nn.Linear(100, 24), bits)  # type: ignore[arg-type]
    x = torch.randn(5, 7, 100, requires_grad=True)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    pull = torch.randn_like(plain)
    (wanted,) = torch.autograd.grad(plain, x, pull)
    (found,) = torch.autograd.grad(layer(x), x, pull)
    torch.testing.assert_close(layer(x), plain)
    torch.testing.assert_close(found, wanted)


def test_nothing_of_a_matrix_is_kept_for_the_way_back() -> None:
    """Autograd holds no unpacked weights: they are made again."""
    layer = QuantisedLinear(nn.Linear(512, 512, bias=False), "int4")
    held = list[int]()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: held.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        layer(torch.randn(2, 512, requires_grad=True))
    assert sum(held) == 0


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize(
    "method", ["lora", "dora", "ia3", "bottleneck", "prompt", "adalora"]
)
def test_an_adapter_above_few_bits_learns_resumes_and_comes_back(
    bits: str, method: str, tmp_path: Path
) -> None:
    config = TuneConfig(method, quantise=bits, bottleneck_size=4)  # type: ignore[arg-type]

    def fresh() -> loop.State:
        learner = causal()
        methods.apply(learner, config)
        return loop.start(learner, CONFIG)

    state, batch = fresh(), Texts().batch("train", 0, 4, 0)
    assert (
        sum(isinstance(module, QuantisedLinear) for module in state.objective.modules())
        == 21
    )
    before = state.objective.loss(batch).total.item()
    torch.manual_seed(1)
    loop.run(
        state,
        Texts(),
        [(3, lambda state: checkpoint.save(state, tmp_path / "kept", keep=9) and None)],
    )
    assert state.objective.loss(batch).total.item() < before
    resumed = fresh()
    checkpoint.restore(resumed, tmp_path / "kept" / "step-00000003")
    loop.run(resumed, Texts(), [])
    one, other = values(state.objective.net), values(resumed.objective.net)
    assert all(torch.equal(one[name], other[name]) for name in one)
    (tmp_path / "bundle").mkdir()
    methods.save(state.objective, config, tmp_path / "bundle")
    again = causal()
    methods.restore(again, config, tmp_path / "bundle")
    torch.testing.assert_close(
        answers(again), answers(state.objective), rtol=1e-5, atol=1e-6
    )


def test_eight_bits_answer_nearly_as_the_base() -> None:
    learner = classifier()
    before = answers(learner)
    methods.apply(learner, TuneConfig("lora", quantise="int8"))
    eight = (answers(learner) - before).abs().max()
    learner = classifier()
    methods.apply(learner, TuneConfig("lora", quantise="int4"))
    four = (answers(learner) - before).abs().max()
    assert 0 < eight < four < 0.1 * before.abs().max() + 0.05
    assert (
        type(learner.net.base_model.model.classifier.modules_to_save["default"])
        is nn.Linear
    ), "a new head is not quantised"
