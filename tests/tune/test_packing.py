"""Sequences laid end to end are those of each alone: losses, gradients, attention, for
every architecture.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tests.tune.talkers import KINDS, model
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.nn import chunked
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch
from miaobi.tune.text.packing import Layout, Reader, by_sequence, pack

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # PEFT asks by the old name
Row = tuple[np.ndarray, np.ndarray]


def sequences(
    lengths: tuple[int, ...] = (5, 9, 30, 31, 32, 60, 2), common: int = 3, seed: int = 0
) -> list[Row]:
    """Random ids that begin with `common` equal ones; about two thirds of what follows
    is learned.
    """
    draw = np.random.default_rng(seed)
    beginning = np.arange(1, common + 1)
    rows = list[Row]()
    for length in lengths:
        own = draw.integers(8, 97, length)
        ids = np.concatenate([beginning, own])
        learned = np.zeros(len(ids), dtype=bool)
        learned[common + 1 :] = draw.random(length - 1) < 0.66
        learned[-1] = True
        rows.append((ids, learned))
    return rows


def row(ids: list[int], learned: list[int]) -> Row:
    return np.array(ids), np.array(learned, dtype=bool)


def alone(net: nn.Module, row: Row) -> Tensor:
    """Nats of a sequence's learned tokens, by the model's own logits."""
    ids = torch.from_numpy(row[0])
    learned = torch.from_numpy(row[1])
    output = net(input_ids=ids[None])
    logits = output.logits[0, -len(ids) : -1]  # a learned prompt's come first
    nats = F.cross_entropy(logits, ids[1:], reduction="none")
    return nats[learned[1:]]


def assert_as_alone(net: nn.Module, rows: list[Row], losses: list[Tensor]) -> None:
    with torch.no_grad():
        for packed, row in zip(losses, rows, strict=True):
            torch.testing.assert_close(packed, alone(net, row), rtol=1e-5, atol=1e-5)


def gradients_of(net: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in net.named_parameters()
        if parameter.grad is not None
    }


def test_a_batch_holds_every_token_that_is_needed_once() -> None:
    rows = [
        row([1, 2, 3, 4, 5], [0, 0, 0, 1, 0]),
        row([1, 2, 9, 8, 7, 6], [0, 0, 0, 0, 1, 1]),
    ]
    batch = {name: value.tolist() for name, value in pack(rows).items()}
    # [1 2] is shared; the second row is longer, so it comes first; neither last learned
    # token is an input.
    assert batch["ids"] == [1, 2, 9, 8, 7, 3]
    assert batch["positions"] == [0, 1, 2, 3, 4, 2]
    assert batch["targets"] == [MASKED, MASKED, MASKED, 7, 6, 4]
    assert batch["bounds"] == [2, 5, 6]
    assert batch["order"] == [1, 0]


def test_nothing_learned_is_in_a_shared_beginning() -> None:
    rows = [
        row([1, 2, 3, 4, 5], [0, 0, 1, 1, 1]),
        row([1, 2, 3, 4, 6], [0, 0, 1, 1, 1]),
    ]
    assert pack(rows)["bounds"][0] == 1
    assert pack(rows, share=False)["bounds"][0] == 0


def test_rows_with_nothing_to_learn_do_no_harm() -> None:
    rows = [
        row([5], [1]),
        row([5, 6, 7], [0, 0, 0]),
        row([5, 6, 7], [1, 1, 1]),
    ]
    reader = Reader(model())
    batch = pack(rows)
    losses = by_sequence(batch, reader.nats(batch))
    assert [len(part) for part in losses] == [0, 0, 2]
    torch.testing.assert_close(
        losses[2], alone(reader.net, rows[2]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("common", [0, 4])
def test_losses_are_those_of_each_alone(kind: str, common: int) -> None:
    net = model(kind)
    rows = sequences(common=common)
    reader = Reader(net)
    # Gemma 2 caps its scores and its logits: it is padded, and its logits are not those
    # of its head. Cohere scales its logits.
    caps = kind == "gemma2"
    assert reader.packs is not caps
    assert reader.returns_logits is caps
    scales = {"cohere": 0.0625, "gemma2": 0.0}
    assert reader.scale == pytest.approx(scales.get(kind, 1.0))
    batch = pack(rows, share=reader.packs)
    losses = by_sequence(batch, reader.nats(batch))
    assert_as_alone(net, rows, losses)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gpt2"])
def test_gradients_are_those_of_each_alone(kind: str) -> None:
    net = model(kind).double()
    rows = sequences()
    reader = Reader(net)
    nats = reader.nats(pack(rows, share=reader.packs))
    (nats / 7).sum().backward()
    packed = gradients_of(net)
    net.zero_grad()
    for row in rows:
        (alone(net, row) / 7).sum().backward()
    assert_same_gradients(packed, gradients_of(net))


def assert_same_gradients(
    actual: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, rtol=1e-5, atol=1e-6, msg=name
        )


def test_no_sequence_sees_another() -> None:
    rows = sequences()
    reader = Reader(model())
    before = by_sequence(pack(rows), reader.nats(pack(rows)))
    others = [rows[0]]
    for ids, learned in rows[1:]:
        turned = np.concatenate([ids[:3], ids[:2:-1]])
        others.append((turned, learned))
    after = by_sequence(pack(others), reader.nats(pack(others)))
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[3], after[3])


def test_with_adapters_of_peft() -> None:
    """Only low-rank matrices get gradients, and nothing is computed backwards below the
    first of them.
    """
    rows = sequences()
    net = get_peft_model(
        model(),
        LoraConfig(
            r=4,
            target_modules=["q_proj", "down_proj"],
            layers_to_transform=[1],
            init_lora_weights=False,
        ),
    )
    reader = Reader(net)
    batch = pack(rows)
    assert reader.packs
    needs_gradient = list[bool]()

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        needs_gradient.append(output.requires_grad)

    first = net.get_base_model().model.layers[0]
    first.register_forward_hook(note)
    losses = reader.nats(batch)
    losses.sum().backward()
    assert needs_gradient == [False]
    low_rank = {name for name, _ in net.named_parameters() if "lora_" in name}
    assert gradients_of(net).keys() == low_rank
    assert_as_alone(net, rows, by_sequence(batch, losses))


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["prompt", "prefix"],
)
def test_learned_prompts_come_before_every_sequence(config: object) -> None:
    net = get_peft_model(model(), config)
    net.eval()
    rows = sequences()
    reader = Reader(net)
    assert reader.returns_logits
    assert not reader.packs
    batch = pack(rows, share=False)
    assert_as_alone(net, rows, by_sequence(batch, reader.nats(batch)))


def test_gradient_checkpoints_change_nothing() -> None:
    net = model()
    reader = Reader(net)
    batch = pack(sequences())
    reader.nats(batch).sum().backward()
    expected = gradients_of(net)
    net.zero_grad()
    net.train()
    net.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}
    )
    reader.nats(batch).sum().backward()
    for name, gradient in gradients_of(net).items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-5, atol=1e-5, msg=name
        )


def test_autocast_changes_losses_and_gradients_by_rounding_only() -> None:
    net = model()
    reader = Reader(net)
    batch = pack(sequences())
    expected = losses_and_gradients(reader, batch, autocast=False)
    actual = losses_and_gradients(reader, batch, autocast=True)
    for name, value in expected.items():
        assert actual[name].dtype == torch.float32
        assert (actual[name] - value).norm() < 0.05 * value.norm(), name


def losses_and_gradients(
    reader: Reader, batch: Batch, autocast: bool
) -> dict[str, Tensor]:
    reader.net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = reader.nats(batch)
    losses.mean().backward()
    return {"losses": losses.detach(), **gradients_of(reader.net)}


def test_neftune_noise_has_the_size_of_the_paper() -> None:
    """Uniform in ± α/√(L d), L the sequence's own length: standard deviation α/√(3 L d)."""
    net = model()
    reader = Reader(net)
    rows = sequences(lengths=(60, 60, 20, 20), common=0)
    batch = pack(rows, share=False)
    embedded = list[Tensor]()

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        embedded.append(inputs[0][0])

    hook = net.model.layers[0].register_forward_pre_hook(note)
    reader.states(batch)
    reader.states(batch, noise=5.0)
    hook.remove()
    plain, noisy = embedded
    lengths = batch["bounds"].diff().tolist()
    for part, length in zip((noisy - plain).split(lengths), lengths, strict=True):
        bound = 5.0 / (length * 32) ** 0.5
        assert part.abs().max() <= bound
        assert part.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_sequences_of_like_length_attend_together() -> None:
    layout = Layout(torch.tensor([4, 104, 200, 240, 270, 272]))
    assert [group.lengths for group in layout.groups] == [(100, 96), (40,), (30,), (2,)]
    assert [group.start for group in layout.groups] == [4, 200, 240, 270]


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("bias", [False, True])
def test_chunked_cross_entropy_is_the_whole_one(
    monkeypatch: pytest.MonkeyPatch, trained: bool, bias: bool
) -> None:
    monkeypatch.setattr(chunked, "CHUNK", 5 * 31)
    torch.manual_seed(0)
    hidden = torch.randn(23, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 31, (23,))
    weight = torch.randn(31, 7, dtype=torch.float64, requires_grad=trained)
    offset: Tensor | None = None
    if bias:
        offset = torch.randn(31, dtype=torch.float64, requires_grad=trained)
    scale = torch.rand(23)
    leaves = [hidden]
    if trained:
        leaves += [weight] if offset is None else [weight, offset]

    logits = F.linear(hidden, weight, offset)
    expected = F.cross_entropy(logits, targets, reduction="none")
    actual = chunked.cross_entropy(hidden, weight, offset, targets)
    torch.testing.assert_close(actual, expected.float())
    actual_gradients = torch.autograd.grad((actual * scale).sum(), leaves)
    expected_gradients = torch.autograd.grad((expected * scale).sum(), leaves)
    for ours, theirs in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    nats, best = chunked.scores(hidden, weight, offset, targets)
    torch.testing.assert_close(nats, expected.float().detach())
    assert torch.equal(best, F.linear(hidden, weight, offset).argmax(-1))
