"""Bases in eight and four bits: how close they come, that gradients are exact, and that
an adapter above them learns and comes back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tune.small import Texts, answers, causal, classifier, values
from torch import Tensor, nn

from miaobi.train import checkpoint, loop
from miaobi.train.config import TrainConfig
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.methods.quantise import BLOCK, NF4, Bits, QuantisedLinear, pack

CONFIG = TrainConfig(max_steps=8, batch_size=4, learning_rate=1e-2, device="cpu")


@pytest.mark.parametrize("columns", [64, 128, 100])
def test_no_weight_is_further_than_half_a_step(columns: int) -> None:
    """int8 rounds to multiples of max |w| / 127 of its block; int4 to the nearest of
    sixteen levels times max |w|.
    """
    torch.manual_seed(0)
    linear = nn.Linear(columns, 24)
    weight = linear.weight.detach()
    largest = largest_of_blocks(weight)

    eight_bits = QuantisedLinear(linear, "int8")
    error = (eight_bits.weight - weight).abs()
    half_step = largest / 254
    assert bool((error <= half_step * 1.001).all())

    four_bits = QuantisedLinear(linear, "int4")
    error = (four_bits.weight - weight).abs()
    shares = weight / largest
    levels = torch.tensor(NF4)
    distances = (shares[..., None] - levels).abs()
    nearest = distances.amin(-1) * largest
    torch.testing.assert_close(error, nearest, rtol=1e-4, atol=1e-6)


def largest_of_blocks(weight: Tensor) -> Tensor:
    """Return for each weight the largest |w| of its block."""
    rows, columns = weight.shape
    padded = nn.functional.pad(weight, (0, -columns % BLOCK))
    blocks = padded.view(rows, -1, BLOCK).abs()
    largest = blocks.amax(2, keepdim=True).expand_as(blocks)
    return largest.flatten(1)[:, :columns]


def test_levels_come_back_as_they_were() -> None:
    levels = torch.tensor(NF4)
    scales = torch.tensor([[1.0], [0.5], [7.0]])
    linear = nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(levels.repeat(3, 4) * scales)
    layer = QuantisedLinear(linear, "int4")
    torch.testing.assert_close(layer.weight, linear.weight.detach())


def test_bits_are_few() -> None:
    weight = torch.randn(256, 512)
    codes, scale = pack(weight, "int4")
    count = weight.numel()
    assert codes.nbytes == count // 2
    assert scale.numel() == count // BLOCK
    codes, _ = pack(weight, "int8")
    assert codes.nbytes == count
    linear = nn.Linear(512, 256)
    layer = QuantisedLinear(linear, "int4")
    saved = layer.state_dict()
    assert set(saved) == {"bias"}, "the base is not saved again"
    (bias,) = layer.parameters()
    assert bias.numel() == 256


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_products_and_gradients_are_those_of_the_unpacked_matrix(bits: Bits) -> None:
    torch.manual_seed(0)
    layer = QuantisedLinear(nn.Linear(100, 24), bits)
    x = torch.randn(5, 7, 100, requires_grad=True)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    gradient = torch.randn_like(plain)
    (expected,) = torch.autograd.grad(plain, x, gradient)
    output = layer(x)
    (actual,) = torch.autograd.grad(output, x, gradient)
    torch.testing.assert_close(output, plain)
    torch.testing.assert_close(actual, expected)


def test_nothing_of_a_matrix_is_saved_for_the_backward_pass() -> None:
    """Autograd holds no unpacked weights: they are unpacked again."""
    layer = QuantisedLinear(nn.Linear(512, 512, bias=False), "int4")
    sizes = list[int]()

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(torch.randn(2, 512, requires_grad=True))
    assert sum(sizes) == 0


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize(
    "method", ["lora", "dora", "ia3", "bottleneck", "prompt", "adalora"]
)
def test_an_adapter_above_few_bits_learns_resumes_and_comes_back(
    bits: Bits, method: str, tmp_path: Path
) -> None:
    config = TuneConfig(method, quantise=bits, bottleneck_size=4)

    def fresh() -> loop.State:
        learner = causal()
        methods.apply(learner, config)
        return loop.start(learner, CONFIG)

    def save(state: loop.State) -> None:
        checkpoint.save(state, tmp_path / "run", keep=9)

    state = fresh()
    learner = state.objective
    layers = [item for item in learner.modules() if isinstance(item, QuantisedLinear)]
    assert len(layers) == 21
    batch = Texts().batch("train", 0, 4, 0)
    before = learner.loss(batch).total.item()
    torch.manual_seed(1)
    loop.run(state, Texts(), [(3, save)])
    assert learner.loss(batch).total.item() < before

    resumed = fresh()
    checkpoint.restore(resumed, tmp_path / "run" / "step-00000003")
    loop.run(resumed, Texts(), [])
    expected = values(learner.net)
    actual = values(resumed.objective.net)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)

    (tmp_path / "bundle").mkdir()
    methods.save(learner, config, tmp_path / "bundle")
    restored = causal()
    methods.restore(restored, config, tmp_path / "bundle")
    torch.testing.assert_close(
        answers(restored), answers(learner), rtol=1e-5, atol=1e-6
    )


def test_eight_bits_answer_nearly_as_the_base() -> None:
    base = answers(classifier())
    errors = dict[str, float]()
    for bits in ("int8", "int4"):
        learner = classifier()
        methods.apply(learner, TuneConfig("lora", quantise=bits))
        errors[bits] = (answers(learner) - base).abs().max().item()
    assert 0 < errors["int8"] < errors["int4"]
    assert errors["int4"] < 0.1 * base.abs().max() + 0.05
    model = learner.net.base_model.model
    head = model.classifier.modules_to_save["default"]
    assert type(head) is nn.Linear, "a new head is not quantised"
