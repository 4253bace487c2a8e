"""Every registered picture family: builds, learns, resumes to the bit, saves without
pickle, loads back the same, keeps its promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from miaobi.core.artifacts import Image
from miaobi.core.errors import BadInput, MiaobiError
from miaobi.core.requests import ImageRequest
from miaobi.data.image.prepared import PictureSpec
from miaobi.families import families
from miaobi.nn.image import (
    CONDITIONS,
    Conditions,
    Encodes,
    HasBound,
    HasLatents,
    Paints,
    from_pixels,
    offered,
    to_pixels,
)
from miaobi.nn.objective import Objective
from miaobi.provenance.sheet import INK, LETTERS
from miaobi.train import checkpoint, loop
from miaobi.train.config import TrainConfig

SPEC = PictureSpec(3, 16, 16, ("left", "right"), source_channels=1)
PICTURES = [name for name in families.names() if families.get(name).DATA == "pictures"]
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "vae": [{}, {"likelihood": "bernoulli", "conditional": True, "free_bits": 0.1}],
    "vq": [{"adversary_begins": 0.5}, {"quantiser": "vq", "adversary": 0.0}],
    "gan": [
        {"augment": ["colour", "translation", "cutout"]},
        {"generator": "style", "conditional": True},
        {"loss": "non_saturating", "conditional": True, "gamma": 0.0},
    ],
    "pix2pix": [{}, {"loss": "non_saturating"}],
    "flow": [
        {},
        {"prediction": "velocity", "conditional": True},
        {"prediction": "epsilon", "schedule": "cosine"},
    ],
}
EVERY = [(name, variant) for name in PICTURES for variant in VARIANTS.get(name, [{}])]


class Halves:
    """A bright half on a dark ground, left or right by the class, at a height the source tells."""

    spec, fingerprint, folder = SPEC, "halves", Path()

    def batch(self, split: str, index: int, size: int, seed: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(index)
        label = torch.randint(2, (size,), generator=draw)
        top = torch.randint(0, 8, (size, 1), generator=draw)
        rows = (torch.arange(16) >= top) & (torch.arange(16) < top + 8)
        columns = (torch.arange(16) >= 8) == label[:, None].bool()
        inside = (rows[:, :, None] & columns[:, None])[:, None]
        return {
            "pixels": (inside.float() * 1.6 - 0.8).expand(-1, 3, -1, -1).contiguous(),
            "label": label,
            "source": inside.float() * 2 - 1,
        }

    def batches(self, split: str, size: int) -> Iterator[dict[str, Tensor]]:
        return iter([self.batch(split, 10**6, 64, 0)])

    def save(self, folder: Path) -> None:
        """Nothing to keep."""


def initial_state(name: str, variant: dict[str, Any], **train: Any) -> loop.State:
    family = families.get(name)
    torch.manual_seed(0)
    objective: Objective = family.build(
        family.Config(**({"width": 8, "patch": 2} | variant)), SPEC
    )
    return loop.start(
        objective,
        TrainConfig(
            **{
                "max_steps": 30,
                "batch_size": 16,
                "learning_rate": 2e-3,
                "betas": (0.5, 0.99),
                "device": "cpu",
                "weight_decay": 0.0,
            }
            | train
        ),
    )


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_learns_saves_and_loads(
    name: str, variant: dict[str, Any], tmp_path: Path
) -> None:
    family = families.get(name)
    max_steps = 120 if name == "gan" else 30
    state = initial_state(name, variant, max_steps=max_steps, ema=0.05)
    untrained = loop.validate(state, Halves())
    loop.run(state, Halves(), [])
    assert loop.validate(state, Halves()) < 0.9 * untrained
    family.save(state.objective, tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    assert (tmp_path / "config.json").exists()
    weights = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    net = family.load(tmp_path)
    batch = Halves().batch("validation", 3, 4, 0)

    def painted(model: Any) -> Tensor:
        model.eval()
        return model.paint(
            4,
            Conditions(
                label=batch["label"] if "label" in model.controls else None,
                source=source(model, batch),
            ),
            torch.Generator().manual_seed(7),
        )

    own = next(
        module for module in state.objective.modules() if isinstance(module, type(net))
    )
    with torch.no_grad():
        torch.testing.assert_close(painted(net), painted(own))


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_samples_are_one_sheet(name: str, variant: dict[str, Any]) -> None:
    family = families.get(name)
    objective = initial_state(name, variant).objective.eval()
    (sample,) = family.sample(objective, Halves(), family.Sample(pictures=16))
    assert isinstance(sample, Image)
    assert sample.pixels.dtype == np.uint8
    assert sample.pixels.shape[1] > 8 * 16
    beside_pictures = sample.pixels[:, : 3 * LETTERS]
    assert (beside_pictures == INK).all(2).any(), "rows have titles"


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_declares_what_requests_it_can_answer(
    name: str, variant: dict[str, Any]
) -> None:
    objective = initial_state(name, variant).objective
    net = next(module for module in objective.modules() if isinstance(module, Paints))
    assert net.controls <= CONDITIONS.keys()
    assert objective.controls == offered(net)
    assert offered(net) <= {item.name for item in fields(ImageRequest)}
    if variant.get("conditional"):
        assert "label" in offered(net)


def source(net: Any, batch: dict[str, Tensor]) -> Tensor | None:
    """Return the source picture that a model needs, or None.

    A model that restores takes pictures of its own kind, one that translates partners.
    """
    if "image" not in net.controls:
        return None
    return batch["pixels"] if isinstance(net, Encodes) else batch["source"]


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_implements_its_protocols(name: str, variant: dict[str, Any]) -> None:
    net = next(
        module
        for module in initial_state(name, variant).objective.modules()
        if isinstance(module, Paints)
    )
    net.eval()
    batch = Halves().batch("validation", 3, 4, 0)
    label = batch["label"] if "label" in net.controls else None
    with torch.no_grad():
        first, again = (
            net.paint(
                4,
                Conditions(label=label, source=source(net, batch)),
                torch.Generator().manual_seed(1),
            )
            for _ in range(2)
        )
        torch.testing.assert_close(first, again)
        assert first.shape == (4, 3, 16, 16)
        if isinstance(net, HasLatents):
            latent = net.draw(4, torch.Generator().manual_seed(2))
            assert latent.shape == (4, *net.latent_shape)
            assert net.decode(latent, label).shape == (4, 3, 16, 16)
        if isinstance(net, Encodes):
            assert net.encode(batch["pixels"], label).shape == (4, *net.latent_shape)
        if isinstance(net, HasBound):
            loose, tight = (
                net.bound(
                    batch["pixels"], label, samples, torch.Generator().manual_seed(3)
                )
                for samples in (1, 30)
            )
            assert loose.shape == (4,)
            assert tight.mean() > loose.mean(), "more draws, a tighter bound"
        if "truncation" in net.controls:
            spreads = [
                net.paint(
                    4,
                    Conditions(
                        label=None if label is None else torch.zeros_like(label),
                        truncation=psi,
                    ),
                    torch.Generator().manual_seed(4),
                )
                .std(0)
                .mean()
                for psi in (1e-4, 0.5, 1.0)
            ]
            assert spreads[0] < 1e-3, "the average"
            assert spreads[1] < spreads[2]
        if "image" in net.controls:
            with pytest.raises(BadInput, match="--image"):
                net.paint(1)


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_resumes_to_the_bit(name: str, variant: dict[str, Any], tmp_path: Path) -> None:
    config = {"max_steps": 8, "ema": 0.1}
    whole = initial_state(name, variant, **config)
    torch.manual_seed(5)

    def save_once(state: loop.State) -> None:
        if state.step == 4:
            checkpoint.save(state, tmp_path, 3)

    loop.run(whole, Halves(), [(4, save_once)])
    other = initial_state(name, variant, **config)
    checkpoint.restore(other, checkpoint.list_checkpoints(tmp_path)[0])
    assert other.step == 4
    loop.run(other, Halves(), [])
    for (key, value), (_, resumed) in zip(
        whole.objective.state_dict().items(),
        other.objective.state_dict().items(),
        strict=True,
    ):
        assert torch.equal(value, resumed), key


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_a_size_that_does_not_divide_is_refused_with_one_that_does(
    name: str, variant: dict[str, Any]
) -> None:
    family = families.get(name)
    with pytest.raises(BadInput, match="image_size 48"):
        family.build(
            family.Config(**variant),
            PictureSpec(3, 50, 50, ("a", "b"), source_channels=3),
        )


@pytest.mark.parametrize(
    ("name", "variant", "spec"),
    [
        ("vae", {"conditional": True}, PictureSpec(1, 16, 16)),
        ("gan", {"conditional": True}, PictureSpec(1, 16, 16)),
        ("pix2pix", {}, PictureSpec(3, 16, 16)),
        ("gan", {"augment": ["colours"]}, PictureSpec(3, 16, 16)),
    ],
)
def test_what_the_data_lacks_is_named(
    name: str, variant: dict[str, Any], spec: PictureSpec
) -> None:
    family = families.get(name)
    with pytest.raises(MiaobiError, match="classes|partners|colour"):
        family.build(family.Config(**variant), spec)


@pytest.mark.parametrize("name", PICTURES)
def test_several_shapes_are_refused_by_families_of_one(name: str) -> None:
    with pytest.raises(BadInput, match="buckets"):
        families.get(name).build(
            families.get(name).Config(),
            PictureSpec(3, 16, 16, ("a", "b"), source_channels=3, buckets=4),
        )


def test_pixels_survive_the_way_there_and_back() -> None:
    pixels = (
        torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3)
    )
    assert torch.equal(to_pixels(from_pixels(pixels)), pixels)
