"""LoRA layers give what PEFT's own code gives, in training's plain state and in every other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from miaobi.tune.methods import low_rank

DEVIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"lora_dropout": 0.5},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
}


def network(**settings: Any) -> PeftModel:
    """Two layers, one with a bias; the adapters' matrices are random, so that they matter."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 10, bias="lora_bias" in settings),
        nn.Tanh(),
        nn.Linear(10, 4, bias=True),
    )
    return get_peft_model(
        net,
        LoraConfig(
            r=3,
            lora_alpha=5.0,
            target_modules=["0", "2"],
            init_lora_weights=False,
            **settings,
        ),
    ).double()


def gradients(net: PeftModel, x: Tensor) -> dict[str, Tensor]:
    """The output, its gradient for x, and that for every adapter."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    y = net(x)
    y.square().sum().backward()
    return {
        "y": y.detach(),
        "x": x.grad,
        **{
            name: parameter.grad
            for name, parameter in net.named_parameters()
            if parameter.grad is not None
        },
    }


@pytest.mark.parametrize("kind", DEVIATIONS)
def test_as_pefts_own(kind: str) -> None:
    net, x = network(**DEVIATIONS[kind]), torch.randn(2, 5, 6, dtype=torch.float64)
    expected = gradients(net, x)
    low_rank.speed_up(net)
    actual = gradients(net, x)
    assert actual.keys() == expected.keys()
    assert sum("lora_" in name for name in actual) >= 4
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=name)


def test_only_the_plain_state_is_sped_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = list[int]()
    apply = low_rank._LowRank.apply
    monkeypatch.setattr(
        low_rank._LowRank, "apply", lambda *args: calls.append(1) or apply(*args)
    )
    x = torch.randn(5, 6, dtype=torch.float64)
    for settings, expected in (
        (DEVIATIONS["plain"], 2),
        (DEVIATIONS["rslora"], 2),
        (DEVIATIONS["dropout"], 0),
        (DEVIATIONS["dora"], 0),
        (DEVIATIONS["lora_bias"], 0),
    ):
        net = network(**settings)
        low_rank.speed_up(net)
        calls.clear()
        net.train()
        net(x)
        assert len(calls) == expected, settings
    net = network()
    low_rank.speed_up(net)
    plain = net(x)
    with net.disable_adapter():
        calls.clear()
        without = net(x)
    net.merge_adapter()
    torch.testing.assert_close(net(x), plain)
    assert not calls
    assert not torch.allclose(without, plain)


def test_saved_as_ever(tmp_path: Any) -> None:
    net, x = network(), torch.randn(5, 6, dtype=torch.float64)
    names = list(net.state_dict())
    low_rank.speed_up(net)
    low_rank.speed_up(net)
    assert list(net.state_dict()) == names
    net.save_pretrained(tmp_path)
    torch.manual_seed(0)
    fresh = nn.Sequential(
        nn.Linear(6, 10, bias=False), nn.Tanh(), nn.Linear(10, 4, bias=True)
    )
    again = PeftModel.from_pretrained(fresh, str(tmp_path)).double()
    torch.testing.assert_close(again(x), net(x))
