"""Every way to tune, on a model that writes and on one that classifies: what it
promises at the start, what moves, what is saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from tests.tune.small import (
    LEARNERS,
    Causal,
    Small,
    Texts,
    answers,
    causal,
    classifier,
    values,
)

from miaobi.core import config
from miaobi.core.errors import BadInput, MiaobiError, Unsupported
from miaobi.train import checkpoint, loop
from miaobi.train.config import TrainConfig
from miaobi.tune import methods
from miaobi.tune.config import MethodName, TuneConfig
from miaobi.tune.methods import METHODS

CONFIG = TrainConfig(
    max_steps=12, batch_size=4, learning_rate=1e-2, device="cpu", weight_decay=0.0
)
UNCHANGED = {"full", "frozen", "lora", "rslora", "dora", "adalora", "ia3", "bottleneck"}
"""Methods that begin where the base is."""
NOWHERE = {("prefix", "classifier"), ("frozen", "causal")}
"""An encoder has no past; a model without a new head has nothing left when all of it is frozen."""
PAIRS = [
    (method, kind)
    for method in METHODS
    for kind in LEARNERS
    if (method, kind) not in NOWHERE
]


def test_every_name_is_a_method() -> None:
    assert tuple(METHODS) == get_args(MethodName)


def config_of(method: str, **settings: Any) -> TuneConfig:
    return TuneConfig(method, **{"bottleneck_size": 8, "lora_rank": 4, **settings})


def tuned(method: str, kind: str, **settings: Any) -> Small:
    learner = LEARNERS[kind]()
    methods.apply(learner, config_of(method, **settings))
    return learner


def trained(learner: Small, config: TrainConfig = CONFIG) -> loop.State:
    torch.manual_seed(1)
    state = loop.start(learner, config)
    loop.run(state, Texts(), [])
    return state


@pytest.mark.parametrize(("method", "kind"), PAIRS)
class TestEvery:
    def test_it_begins_where_the_base_is_if_it_promises_to(
        self, method: str, kind: str
    ) -> None:
        close = torch.allclose(
            answers(LEARNERS[kind]()), answers(tuned(method, kind)), atol=1e-5
        )
        assert close == (method in UNCHANGED)

    def test_only_what_it_trains_moves(self, method: str, kind: str) -> None:
        learner = tuned(method, kind)
        before, moving = (
            values(learner.net),
            {
                name
                for name, item in learner.net.named_parameters()
                if item.requires_grad
            },
        )
        trained(learner)
        moved = {
            name
            for name, item in values(learner.net).items()
            if not torch.equal(item, before[name])
        }
        assert moved
        assert moved <= moving
        base = {
            name
            for name in before
            if not any(
                part in name
                for part in (
                    "lora_",
                    "ia3_",
                    "prompt",
                    "bottleneck",
                    "classifier",
                    "norm",
                    "Norm",
                )
            )
        }
        if METHODS[method].adapter:
            assert not moved & base
        if kind == "classifier":
            assert any("classifier" in name for name in moved), (
                "the head is new and must learn"
            )

    def test_what_is_saved_gives_the_same_answers(
        self, method: str, kind: str, tmp_path: Path
    ) -> None:
        learner = tuned(method, kind)
        trained(learner)
        methods.save(learner, config_of(method), tmp_path)
        again = LEARNERS[kind]()
        methods.restore(again, config_of(method), tmp_path)
        torch.testing.assert_close(
            answers(again), answers(learner), rtol=1e-5, atol=1e-6
        )
        assert not torch.allclose(
            answers(LEARNERS[kind]()), answers(again), atol=1e-4
        ), "nothing was learned, so nothing is proven"
        assert any(item.requires_grad for item in again.net.parameters()), (
            "a restored model can be tuned again"
        )
        assert {path.suffix for path in tmp_path.iterdir()} <= {
            ".safetensors",
            ".json",
            ".md",
        }
        if METHODS[method].adapter:
            held = load_file(tmp_path / "adapter_model.safetensors")
            assert (
                sum(item.numel() for item in held.values())
                < sum(item.numel() for item in LEARNERS[kind]().net.parameters()) / 2
            )

    def test_it_resumes_to_the_bit(
        self, method: str, kind: str, tmp_path: Path
    ) -> None:
        states = list[loop.State]()
        for stop in (12, 5):
            state = loop.start(tuned(method, kind), CONFIG)
            torch.manual_seed(1)
            loop.run(
                state, Texts(), [(stop, lambda state: setattr(state, "finished", True))]
            )
            if stop < 12:
                path = checkpoint.save(state, tmp_path, keep=1)
                state = loop.start(tuned(method, kind), CONFIG)
                checkpoint.restore(state, path)
                state.finished = False
                loop.run(state, Texts(), [])
            states.append(state)
        whole, resumed = (values(state.objective) for state in states)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_lora_is_what_its_equation_says() -> None:
    """y = x Wᵀ + (α/r) x Aᵀ Bᵀ in every linear layer but the head; rslora scales by α/√r."""
    for method, scale in (("lora", 32 / 4), ("rslora", 32 / 2)):
        learner = tuned(method, "causal", lora_rank=4, lora_alpha=32.0)
        layer = learner.net.get_submodule("base_model.model.model.layers.1.mlp.up_proj")
        torch.manual_seed(2)
        a, b, x = torch.randn(4, 32), torch.randn(48, 4), torch.randn(5, 32)
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
        torch.testing.assert_close(
            layer(x), x @ layer.base_layer.weight.T + scale * x @ a.T @ b.T
        )
        assert sum("lora_A" in name for name in values(learner.net)) == 3 * 7, (
            "seven matrices a layer, and not the head"
        )


def test_adalora_takes_ranks_away_and_keeps_its_budget() -> None:
    """Twelve ranks a matrix at first, at the end eight on average."""
    learner = tuned("adalora", "causal", lora_rank=8)
    trained(learner)
    masks = {
        name: value
        for name, value in learner.callbacks[0].named_buffers()
        if name.startswith("kept")
    }
    assert len(masks) == 21
    assert sum(int(value.sum()) for value in masks.values()) == 21 * 8
    assert all(len(value) == 12 for value in masks.values())
    zeros = sum(
        int((value == 0).sum())
        for name, value in values(learner.net).items()
        if "lora_E" in name
    )
    assert zeros == 21 * 4


def test_adalora_pays_for_what_is_not_orthogonal() -> None:
    learner = tuned("adalora", "causal", lora_rank=8)
    batch = Texts().batch("train", 0, 4, 0)
    plain, whole = learner.loss(batch), learner.penalised_loss(batch)
    gaps = [
        torch.linalg.matrix_norm(gram - torch.eye(len(gram)))
        for name, item in learner.net.named_parameters()
        if "lora_A" in name or "lora_B" in name
        for gram in [item @ item.T if "lora_A" in name else item.T @ item]
    ]
    torch.testing.assert_close(
        whole.total, plain.total + plain.count * 0.5 * torch.stack(gaps).mean()
    )
    assert learner.validate(batch).total == plain.total, (
        "validation tells the task's own loss"
    )


def test_a_lora_checkpoint_holds_the_lora_only(tmp_path: Path) -> None:
    learner = tuned("lora", "causal")
    path = checkpoint.save(trained(learner), tmp_path, keep=1)
    held = load_file(path / "tensors.safetensors")
    own = sum(item.numel() for item in learner.net.parameters() if item.requires_grad)
    assert (
        sum(
            item.numel() for name, item in held.items() if name.startswith("objective.")
        )
        == own
    )
    assert (
        sum(
            item.numel() for name, item in held.items() if name.startswith("optimizer.")
        )
        <= 2 * own + 100
    )


def test_targets_choose_layers_and_a_pattern_without_any_is_refused() -> None:
    learner = tuned("lora", "causal", targets=r"(q|v)_proj")
    assert {
        name.split(".")[-4] for name in values(learner.net) if "lora_A" in name
    } == {"q_proj", "v_proj"}
    with pytest.raises(BadInput, match="self_attn"):
        tuned("lora", "causal", targets="nothing_such")


def test_a_picture_net_without_linear_layers_gets_its_loras_on_points() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3),
                torch.nn.Conv2d(8, 8, 1),
                torch.nn.BatchNorm2d(8),
                torch.nn.Conv2d(8, 8, 3, groups=8),
            )
            self.classifier = torch.nn.Linear(8, 2)

    class Pictures(Causal):
        adapter_kind, fresh = None, ("classifier",)

    learner = Pictures(Net())
    methods.apply(learner, TuneConfig("lora", lora_rank=2))
    assert [name for name in values(learner.net) if "lora_A" in name] == [
        "base_model.model.body.1.lora_A.default.weight"
    ]
    assert [
        name
        for name, item in learner.net.named_parameters()
        if item.requires_grad and "modules_to_save" in name
    ]
    learner.train()
    learner.before_step()
    assert not learner.net.get_submodule("base_model.model.body.2").training, (
        "a frozen norm keeps its statistics"
    )
    with pytest.raises(Unsupported):
        methods.apply(Pictures(Net()), TuneConfig("prompt"))


def test_a_prompt_before_a_decoder_that_classifies_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    learner = classifier()
    learner.net = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=48,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_labels=3,
            pad_token_id=0,
        )
    )
    with pytest.raises(Unsupported, match="lora"):
        methods.apply(learner, TuneConfig("prompt"))
    methods.apply(learner, TuneConfig("prefix"))
    assert answers(learner).shape == (4, 3)


@pytest.mark.parametrize(("method", "kind"), sorted(NOWHERE))
def test_what_does_not_go_is_refused_with_a_remedy(method: str, kind: str) -> None:
    with pytest.raises(MiaobiError) as caught:
        tuned(method, kind)
    assert "lora" in caught.value.remedy


def test_answers_come_without_those_of_learned_tokens() -> None:
    learner = tuned("prompt", "causal", virtual_tokens=5)
    assert answers(learner).shape == (4, 12, 48)
    assert learner.virtual_tokens == 5


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"method": "lorra"}, "lora"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"targets": "("}, "targets"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"freeze_layers": 3}, "frozen"),
        ({"method": "full", "quantise": "int8"}, "lora"),
        ({"neftune_alpha": -1.0}, "neftune_alpha"),
        ({"method": "frozen", "gradual_unfreezing": 2.0}, "gradual"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], what: str) -> None:
    with pytest.raises(BadInput, match=what):
        config.make(TuneConfig, settings)


def test_an_adapter_is_marked_as_one() -> None:
    assert tuned("lora", "causal").adapter
    assert not tuned("full", "causal").adapter
    assert causal().adapter is False
