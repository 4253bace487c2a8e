"""Merging: exact sums, TIES as PEFT computes it, the best low rank, and refusals of
what does not add up.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engines.small import small_bundle
from tests.tune.tuned import tuned, tuned_net
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.store import Store
from miaobi.models import merging
from miaobi.models.tuned import Tuned, open_tuned
from miaobi.models.weights import find

IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("base") / "poet", chat=True)


@pytest.fixture(scope="module")
def pair(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Tuned]:
    """Two adapters of unlike rank, scale and targets; the second is rank-stabilised."""
    parent = tmp_path_factory.mktemp("pair")
    folders = [
        tuned(parent / "one", base, 1, 0.2, lora_rank=4),
        tuned(
            parent / "two",
            base,
            2,
            0.2,
            method="rslora",
            lora_rank=8,
            lora_alpha=8.0,
            targets="q_proj|v_proj",
        ),
    ]
    return [opened(folder) for folder in folders]


def opened(folder: Path) -> Tuned:
    return open_tuned(find(str(folder)))


def net_of(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype="float32").eval()


def logits(net: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = net(input_ids=IDS).logits
    return logits


def deltas(tuned: Tuned) -> dict[str, torch.Tensor]:
    return {
        name: (up @ down).double()
        for name, (up, down) in merging.read_update(tuned).factors.items()
    }


def combined(
    pair: list[Tuned],
    target: Path,
    weights: tuple[float, ...],
    method: Any,
    **settings: Any,
) -> Path:
    target.mkdir()
    merging.combine(pair, weights, method, target, **settings)
    return target


def test_a_merged_folder_is_a_plain_model_that_answers_alike(
    base: Path, tmp_path: Path
) -> None:
    folder, net = tuned_net(tmp_path / "helpdesk", base, 3, 0.2)
    out = merging.merge(opened(folder), tmp_path / "merged")
    assert not (out / "adapter_config.json").exists()
    assert (out / "tokenizer.json").exists()
    assert (out / "chat_template.jinja").exists()
    plain = LlamaForCausalLM.from_pretrained(out).eval()
    torch.testing.assert_close(logits(plain), logits(net), atol=1e-5, rtol=1e-4)
    before = net_of(base).state_dict()
    updates = deltas(opened(folder))
    for name, value in plain.state_dict().items():
        update = updates.get(module_of(name), torch.zeros(()))
        torch.testing.assert_close(
            value.double(),
            before[name].double() + update,
            atol=1e-6,
            rtol=1e-6,
        )


def module_of(weight: str) -> str:
    """Return PEFT's name of the module with this weight."""
    return "base_model.model." + weight.removesuffix(".weight")


def test_linear_is_the_exact_sum(base: Path, pair: list[Tuned], tmp_path: Path) -> None:
    out = combined(pair, tmp_path / "both", (0.7, -0.4), "linear")
    net: Any = merging.merge_adapter(net_of(base), out)
    before = net_of(base).state_dict()
    first, second = map(deltas, pair)
    for name, value in net.state_dict().items():
        module = module_of(name)
        update = 0.7 * first.get(module, 0) - 0.4 * second.get(module, 0)
        torch.testing.assert_close(
            value.double(),
            before[name].double() + update,
            atol=1e-5,
            rtol=1e-5,
        )
    assert set(first) > set(second)
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["r"] == 12


@pytest.mark.parametrize(("ours", "theirs"), [("svd", "svd"), ("ties", "ties_svd")])
def test_low_rank_sums_equal_pefts(
    base: Path, pair: list[Tuned], tmp_path: Path, ours: str, theirs: str
) -> None:
    """PEFT's add_weighted_adapter scales the result of rank-stabilised adapters once more,
    so neither is marked as one.
    """
    peft = merging.with_adapter(net_of(base), pair[0].folder, "one")
    peft.load_adapter(str(pair[1].folder), "two")
    peft.peft_config["one"].use_rslora = peft.peft_config["two"].use_rslora = False
    rank = 6 if ours == "svd" else 64
    peft.add_weighted_adapter(
        ["one", "two"],
        [0.7, 0.3],
        "both",
        combination_type=theirs,
        svd_rank=rank,
        density=0.4,
    )
    out = combined(
        pair,
        tmp_path / "both",
        (0.7, 0.3),
        ours,
        density=0.4,
        rank=rank,
    )
    for name, update in deltas_of(out).items():
        layer = peft.get_submodule(name)
        torch.testing.assert_close(
            update,
            layer.get_delta_weight("both").double(),
            atol=2e-5,
            rtol=1e-3,
        )


def deltas_of(folder: Path) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "adapter_model.safetensors")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["r"] == settings["lora_alpha"]
    assert not settings["use_rslora"]
    updates = {}
    for key, down in weights.items():
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            up = weights[f"{name}.lora_B.weight"]
            updates[name] = (up @ down).double()
    return updates


def test_ties_of_small_updates() -> None:
    """Trimmed to half: [1, 0, -4, 0] and [3, 2, 0, 0]; elected signs + + - +; means
    over those that agree: (1 + 3) / 2, 2, -4, nothing.
    """
    first = torch.tensor([[1.0, 0.5, -4.0, 0.1]])
    second = torch.tensor([[3.0, 2.0, 1.0, -0.2]])
    one = torch.ones(1, 1)
    assert merging.trimmed(first, 0.5).tolist() == [[1.0, 0.0, -4.0, 0.0]]
    equal = [(1.0, one, first), (1.0, one, second)]
    assert merging._ties(equal, 0.5).tolist() == [[2.0, 2.0, -4.0, 0.0]]
    unequal = [(0.5, one, first), (2.0, one, second)]
    (row,) = merging._ties(unequal, 1.0).tolist()
    assert row == pytest.approx([3.25, 2.125, -2.0, -0.4])


def test_the_low_rank_is_the_nearest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for shape in ((20, 9), (9, 20)):
        matrix = torch.randn(shape)
        up, down = merging._low_rank(matrix, 4)
        assert (up.shape, down.shape) == ((shape[0], 4), (4, shape[1]))
        error = torch.linalg.matrix_norm(matrix - up @ down)
        rest = torch.linalg.svdvals(matrix)[4:]
        least = math.sqrt(float(rest.square().sum()))
        assert error.item() == pytest.approx(least, rel=1e-4)


def test_the_verb_makes_a_model_of_both(base: Path, pair: list[Tuned]) -> None:
    import miaobi
    from miaobi import cli

    for name, one in zip(("a", "b"), pair, strict=True):
        Store().add(one.folder, name)
    done = cli.call(
        "models merge",
        ["a", "b", "--weights", "0.5", "0.5", "--method", "ties", "--name", "both"],
    )
    assert done.models == ("both@1",)
    assert "0.5 × a@1 + 0.5 × b@1 (ties)" in str(done)
    both = open_tuned(find("both"))
    assert both.manifest.parents == ("a@1", "b@1")
    assert both.manifest.recipe["merged"] == {
        "models": ["a@1", "b@1"],
        "weights": [0.5, 0.5],
        "method": "ties",
        "density": 0.5,
    }
    with miaobi.load("both") as model:
        assert model.generate("春", max_new_tokens=4)[0].text


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "dora"}, "DoRA"),
        ({"method": "ia3"}, "IA3"),
        ({"method": "full"}, "whole weights"),
        ({"method": "bottleneck"}, "BOTTLENECK"),
    ],
)
def test_what_does_not_add_up_is_refused(
    base: Path, pair: list[Tuned], tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    other = opened(tuned(tmp_path / "other", base, 5, **settings))
    with pytest.raises(Unsupported, match=reason):
        merging.combine([pair[0], other], (0.5, 0.5), "linear", tmp_path)


def test_mistakes(base: Path, pair: list[Tuned], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to be merged"):
        merging.combine(pair[:1], (1.0,), "linear", tmp_path)
    for numbers in ((1.0,), (1.0, math.nan)):
        with pytest.raises(BadInput, match="2 adapters"):
            merging.combine(pair, numbers, "linear", tmp_path)
    with pytest.raises(BadInput, match="density is 1.5"):
        merging.combine(pair, (1.0, 1.0), "ties", tmp_path, density=1.5)
    elsewhere = small_bundle(tmp_path / "elsewhere", chat=True)
    file = elsewhere / "model.safetensors"
    weights = {key: value * 1.01 for key, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    other = opened(tuned(tmp_path / "other", elsewhere))
    with pytest.raises(BadInput, match="fits the weights it was tuned on"):
        merging.combine([pair[0], other], (1.0, 1.0), "linear", tmp_path)


def test_what_cannot_be_merged(base: Path, tmp_path: Path) -> None:
    whole = opened(tuned(tmp_path / "whole", base, method="full"))
    with pytest.raises(BadInput, match="no adapter to merge"):
        merging.merge(whole, tmp_path / "out")
    prompt = opened(tuned(tmp_path / "prompt", base, method="prompt"))
    with pytest.raises(Unsupported, match="PROMPT_TUNING"):
        merging.merge(prompt, tmp_path / "out")
