"""Freezing by number, by pattern, by kind; thawing layer by layer; a pace for each layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tune.small import Texts, causal, classifier, values

from miaobi.core.errors import BadInput, Unsupported
from miaobi.train import checkpoint, loop, optimizers
from miaobi.train.config import TrainConfig
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.methods import freezing

CONFIG = TrainConfig(
    max_steps=10, batch_size=4, learning_rate=1e-2, device="cpu", weight_decay=0.1
)


def parts(names: set[str]) -> set[str]:
    """Which parts of a BERT the names belong to: embeddings, 0, 1, 2, pooler, classifier."""
    return {
        name.split("layer.")[1][0]
        if ".layer." in name
        else name.split(".")[-2 if "classifier" in name else 1]
        for name in names
    }


def moving(**settings: object) -> set[str]:
    learner = classifier()
    methods.apply(learner, TuneConfig("frozen", **settings))  # type: ignore[arg-type]
    return {name for name, item in learner.net.named_parameters() if item.requires_grad}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"classifier"}),
        ({"freeze_layers": 3}, {"pooler", "classifier"}),
        ({"freeze_layers": 2}, {"2", "pooler", "classifier"}),
        ({"freeze_layers": 0}, {"0", "1", "2", "pooler", "classifier"}),
        (
            {"freeze_layers": 0, "freeze_embeddings": False},
            {"embeddings", "0", "1", "2", "pooler", "classifier"},
        ),
        (
            {"freeze_layers": 0, "freeze_pattern": r"layer\.[01]\.|pooler"},
            {"2", "classifier"},
        ),
        (
            {"freeze_layers": 0, "freeze_pattern": "classifier|pooler"},
            {"0", "1", "2", "classifier"},
        ),
    ],
)
def test_what_is_frozen(settings: dict[str, object], expected: set[str]) -> None:
    """By number the lowest layers with the embeddings, by pattern whatever fits; a new
    head always learns.
    """
    assert parts(moving(**settings)) == expected


def test_frozen_weights_are_left_out_of_the_run() -> None:
    learner = classifier()
    methods.apply(learner, TuneConfig("frozen", freeze_layers=2))
    before = values(learner.net)
    state = loop.start(learner, CONFIG)
    loop.run(state, Texts(), [])
    moved = {
        name
        for name, item in values(learner.net).items()
        if not torch.equal(item, before[name])
    }
    assert parts(moved) == {"2", "pooler", "classifier"}
    assert all(
        learner.net.get_parameter(name).grad is None
        for name in before
        if "embeddings" in name or "layer.0" in name
    )


def test_a_head_tied_to_the_embeddings_is_frozen_with_them() -> None:
    learner = causal()
    methods.apply(learner, TuneConfig("frozen", freeze_layers=1))
    moving = {
        name for name, item in learner.net.named_parameters() if item.requires_grad
    }
    assert "model.embed_tokens.weight" not in moving
    assert {name.split(".")[2] for name in moving if "layers" in name} == {"1", "2"}
    assert "model.norm.weight" in moving


def test_more_layers_than_there_are() -> None:
    with pytest.raises(BadInput, match="3 layers"):
        moving(freeze_layers=4)
    with pytest.raises(BadInput, match="nothing is left"):
        methods.apply(causal(), TuneConfig("frozen"))


def test_layers_thaw_the_last_first(tmp_path: Path) -> None:
    """Four stages over eight of ten steps: head from the start, then layer 2, 1, 0,
    then the embeddings; and a run that is resumed in the middle goes on to the bit.
    """
    config = TuneConfig(
        "frozen", freeze_layers=0, freeze_embeddings=False, gradual_unfreezing=0.8
    )
    seen = list[list[str]]()

    def fresh() -> loop.State:
        learner = classifier()
        methods.apply(learner, config)
        return loop.start(learner, CONFIG)

    def note(state: loop.State) -> None:
        now = values(state.objective.net)
        seen.append(
            sorted(
                parts(
                    {name for name in now if not torch.equal(now[name], last[0][name])}
                )
            )
        )
        last[0] = now

    state = fresh()
    last = [values(state.objective.net)]
    torch.manual_seed(3)
    loop.run(
        state,
        Texts(),
        [
            (1, note),
            (5, lambda state: checkpoint.save(state, tmp_path, keep=3) and None),
        ],
    )
    head, two, one, zero = (
        sorted(("classifier", "pooler", *more))
        for more in ((), ("2",), ("2", "1"), ("2", "1", "0"))
    )
    everything = sorted(("classifier", "pooler", "0", "1", "2", "embeddings"))
    assert seen == [head, head, two, two, one, one, zero, zero, everything, everything]
    resumed = fresh()
    checkpoint.restore(resumed, tmp_path / "step-00000005")
    loop.run(resumed, Texts(), [])
    whole, other = values(state.objective.net), values(resumed.objective.net)
    assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_each_layer_has_its_pace() -> None:
    learner = classifier()
    methods.apply(learner, TuneConfig("full", layer_decay=0.5))
    rates = {
        id(item): group["initial_lr"]
        for optimizer in optimizers.optimizers_for(learner.phases()[0], CONFIG)
        for group in optimizer.param_groups
        for item in group["params"]
    }
    paces = {
        name: rates[id(item)] / 1e-2 for name, item in learner.net.named_parameters()
    }
    assert paces["bert.embeddings.word_embeddings.weight"] == pytest.approx(0.5**4)
    assert [
        paces[f"bert.encoder.layer.{layer}.output.dense.weight"] for layer in range(3)
    ] == pytest.approx([0.5**3, 0.5**2, 0.5])
    assert (
        paces["bert.pooler.dense.weight"]
        == paces["classifier.weight"]
        == pytest.approx(1.0)
    )


def test_adapters_have_the_pace_of_their_layer() -> None:
    learner = causal()
    methods.apply(learner, TuneConfig("lora", layer_decay=0.5))
    assert learner.rates[
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"
    ] == pytest.approx(0.125)


def test_a_plain_module_is_saved_whole(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)

    one, other = causal(), causal()
    one.net, other.net = Plain(), Plain()
    methods.apply(one, TuneConfig("full"))
    methods.save(one, TuneConfig("full"), tmp_path)
    methods.restore(other, TuneConfig("full"), tmp_path)
    assert all(
        torch.equal(left, right)
        for left, right in zip(
            one.net.parameters(), other.net.parameters(), strict=True
        )
    )
    for settings in ({"layer_decay": 0.5}, {"method": "frozen", "freeze_layers": 1}):
        with pytest.raises(Unsupported):
            methods.apply(other, TuneConfig(**{"method": "full", **settings}))  # type: ignore[arg-type]


def test_an_encoder_with_a_decoder_has_two_stacks() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    net = T5ForConditionalGeneration(
        T5Config(
            vocab_size=48,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
    )
    assert freezing.stacks(net, "") == ["encoder.block", "decoder.block"]
    layers = freezing.layer_of_parameters(net, "")
    assert {name.split(".")[0] for name, depth in layers.items() if depth == 1} == {
        "encoder",
        "decoder",
    }
    assert freezing.layer_count(layers) == 2
