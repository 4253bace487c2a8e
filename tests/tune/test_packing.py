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
    found = list[Row]()
    for length in lengths:
        ids = np.concatenate([np.arange(1, common + 1), draw.integers(8, 97, length)])
        learned = np.zeros(len(ids), dtype=bool)
        learned[common + 1 :] = draw.random(length - 1) < 0.66
        learned[-1] = True
        found.append((ids, learned))
    return found


def alone(net: nn.Module, row: Row) -> Tensor:
    """Nats of a sequence's learned tokens, by the model's own logits."""
    ids, learned = (torch.from_numpy(part) for part in row)
    device = next(net.parameters()).device
    logits = net(input_ids=ids[None].to(device)).logits[0, -len(ids) : -1]
    return F.cross_entropy(logits, ids[1:], reduction="none")[learned[1:]]


def test_a_batch_holds_every_token_that_is_needed_once() -> None:
    rows = [
        (np.array([1, 2, 3, 4, 5]), np.array([0, 0, 0, 1, 0], dtype=bool)),
        (np.array([1, 2, 9, 8, 7, 6]), np.array([0, 0, 0, 0, 1, 1], dtype=bool)),
    ]
    batch = {name: value.tolist() for name, value in pack(rows).items()}
    # [1 2] is shared; the second row is longer, so it comes first; neither last learned
    # token is an input.
    assert batch["ids"] == [1, 2, 9, 8, 7, 3]
    assert batch["positions"] == [0, 1, 2, 3, 4, 2]
    assert batch["targets"] == [MASKED, MASKED, MASKED, 7, 6, 4]
    assert batch["bounds"] == [2, 5, 6]
    assert batch["order"] == [1, 0]


def test_a_shared_beginning_ends_where_something_is_learned() -> None:
    rows = [
        (np.array([1, 2, 3, 4, 5]), np.array([0, 0, 1, 1, 1], dtype=bool)),
        (np.array([1, 2, 3, 4, 6]), np.array([0, 0, 1, 1, 1], dtype=bool)),
    ]
    assert pack(rows)["bounds"][0] == 1
    assert pack(rows, share=False)["bounds"][0] == 0


def test_rows_with_nothing_to_learn_do_no_harm() -> None:
    rows = [
        (np.array([5]), np.array([True])),
        (np.array([5, 6, 7]), np.zeros(3, dtype=bool)),
        (np.array([5, 6, 7]), np.ones(3, dtype=bool)),
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
    net, rows = model(kind), sequences(common=common)
    reader, batch = Reader(net), pack(rows)
    # Gemma 2 caps its scores and its logits: it is padded, and its logits are made
    # whole. Cohere scales its logits.
    assert (reader.packs, reader.returns_logits) == (
        (False, True) if kind == "gemma2" else (True, False)
    )
    assert reader.scale == pytest.approx(
        {"cohere": 0.0625, "gemma2": 0.0}.get(kind, 1.0)
    )
    if not reader.packs:
        batch = pack(rows, share=False)
    with torch.no_grad():
        for found, row in zip(by_sequence(batch, reader.nats(batch)), rows):
            torch.testing.assert_close(found, alone(net, row), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gpt2"])
def test_gradients_are_those_of_each_alone(kind: str) -> None:
    net, rows = model(kind).double(), sequences()
    reader = Reader(net)
    (reader.nats(pack(rows, share=reader.packs)) / 7).sum().backward()
    packed = {
        name: parameter.grad.clone() for name, parameter in net.named_parameters()
    }
    net.zero_grad()
    sum((alone(net, row) / 7).sum() for row in rows).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(
            packed[name], parameter.grad, rtol=1e-5, atol=1e-6, msg=name
        )


def test_no_sequence_sees_another() -> None:
    net, rows = model(), sequences()
    reader = Reader(net)
    before = by_sequence(pack(rows), reader.nats(pack(rows)))
    others = [
        rows[0],
        *(
            (np.concatenate([ids[:3], ids[:2:-1]]), learned)
            for ids, learned in rows[1:]
        ),
    ]
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
    reader, batch = Reader(net), pack(rows)
    assert reader.packs
    first = net.get_base_model().model.layers[0]
    met = list[bool]()
    first.register_forward_hook(
        lambda module, inputs, output: met.append(output.requires_grad)
    )
    losses = reader.nats(batch)
    losses.sum().backward()
    assert met == [False]
    assert {
        name for name, parameter in net.named_parameters() if parameter.grad is not None
    } == {name for name, _ in net.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for found, row in zip(by_sequence(batch, losses), rows):
            torch.testing.assert_close(found, alone(net, row), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["prompt", "prefix"],
)
def test_learned_prompts_come_before_every_sequence(config: object) -> None:
    net, rows = get_peft_model(model(), config), sequences()
    net.eval()
    reader, batch = Reader(net), pack(rows, share=False)
    assert reader.returns_logits and not reader.packs
    with torch.no_grad():
        for found, row in zip(by_sequence(batch, reader.nats(batch)), rows):
            torch.testing.assert_close(found, alone(net, row), rtol=1e-5, atol=1e-5)


def test_gradient_checkpoints_change_nothing() -> None:
    net, rows = model(), sequences()
    reader, batch = Reader(net), pack(rows)
    reader.nats(batch).sum().backward()
    wanted = {
        name: parameter.grad.clone() for name, parameter in net.named_parameters()
    }
    net.zero_grad()
    net.train()
    net.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}
    )
    reader.nats(batch).sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(
            parameter.grad, wanted[name], rtol=1e-5, atol=1e-5, msg=name
        )


def test_in_autocast_losses_and_gradients_are_those_of_float32_but_for_rounding() -> (
    None
):
    net, rows = model(), sequences()
    reader, batch = Reader(net), pack(rows)
    found = list[dict[str, Tensor]]()
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = reader.nats(batch)
        losses.mean().backward()
        found.append(
            {
                "losses": losses.detach(),
                **{
                    name: parameter.grad.clone()
                    for name, parameter in net.named_parameters()
                },
            }
        )
    for name, wanted in found[0].items():
        assert found[1][name].dtype == torch.float32
        assert (found[1][name] - wanted).norm() < 0.05 * wanted.norm(), name


def test_neftune_noise_has_the_size_of_the_paper() -> None:
    """Uniform in ± α/√(L d), L the sequence's own length: standard deviation α/√(3 L d)."""
    net = model()
    reader, batch = (
        Reader(net),
        pack(sequences(lengths=(60, 60, 20, 20), common=0), share=False),
    )
    embedded = list[Tensor]()
    hook = net.model.layers[0].register_forward_pre_hook(
        lambda module, inputs: embedded.append(inputs[0][0])
    )
    reader.states(batch)
    reader.states(batch, noise=5.0)
    hook.remove()
    noise, lengths = embedded[1] - embedded[0], batch["bounds"].diff().tolist()
    for part, length in zip(noise.split(lengths), lengths):
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
    hidden, targets = (
        torch.randn(23, 7, dtype=torch.float64, requires_grad=True),
        torch.randint(0, 31, (23,)),
    )
    weight = torch.randn(31, 7, dtype=torch.float64, requires_grad=trained)
    offset = (
        torch.randn(31, dtype=torch.float64, requires_grad=trained) if bias else None
    )
    scale = torch.rand(23)
    leaves = [
        part
        for part in (hidden, weight, offset)
        if part is not None and part.requires_grad
    ]
    found = chunked.cross_entropy(hidden, weight, offset, targets)
    wanted = F.cross_entropy(
        F.linear(hidden, weight, offset), targets, reduction="none"
    )
    torch.testing.assert_close(found, wanted.float())
    for ours, theirs in zip(
        torch.autograd.grad((found * scale).sum(), leaves),
        torch.autograd.grad((wanted * scale).sum(), leaves),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    nats, best = chunked.scores(hidden, weight, offset, targets)
    torch.testing.assert_close(nats, wanted.float().detach())
    assert torch.equal(best, F.linear(hidden, weight, offset).argmax(-1))
