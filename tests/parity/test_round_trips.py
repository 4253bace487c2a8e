"""A family's saved weights (safetensors) give the same outputs as the trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engines.small import small_bundle, small_tokenizer, trained

from miaobi.data.image.prepared import PictureSpec
from miaobi.families import families
from miaobi.nn.graphs import graphs_of

SPEC = PictureSpec(1, 12, 12, ("a", "b", "c"), source_channels=2)
PICTURES = [
    ("vae", {"conditional": True}),
    ("gan", {}),
    ("gan", {"generator": "style"}),
    ("vq", {}),
    ("vq", {"quantiser": "vq"}),
    ("pix2pix", {}),
]


@pytest.mark.parametrize(("name", "config"), PICTURES)
def test_pixels_are_the_same(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = families.get(name)
    objective: Any = family.build(family.Config(width=8, **config), SPEC).eval()
    net = objective.generator if name == "gan" else objective.net
    (tmp_path / "model").mkdir()
    family.save(objective, tmp_path / "model")
    loaded = family.load(tmp_path / "model").eval()
    for ours, theirs in zip(graphs_of(net), graphs_of(loaded), strict=True):
        with torch.no_grad():
            before = ours.function(*ours.inputs.values())
            after = theirs.function(*ours.inputs.values())
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_tokens_are_the_same(name: str, tmp_path: Path) -> None:
    """A gpt is read back by Transformers' own Llama, which adds in another order."""
    objective: Any = trained(name)
    loaded: Any = families.get(name).load(small_bundle(tmp_path / "model", name))
    ids = torch.tensor([small_tokenizer().encode(["春江潮水连海平"])])
    with torch.no_grad():
        before = objective.net(ids)
        after = loaded(ids)
    after = after if name == "lstm" else after.logits
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.equal(before.argmax(-1), after.argmax(-1))
