"""Pictures of a flow through the engine: seeds, steps, guidance, what a mask keeps.

What people complain of in other programs is asked for here: pictures of a batch that
cannot be made alone, steps that do not run, a strength that is none, kept pixels that
change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import miaobi
from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.core.errors import BadInput, Unsupported
from miaobi.data.image.prepared import PictureSpec
from miaobi.engines.model import Model
from miaobi.families import flow

SPEC = PictureSpec(3, 16, 16, ("left", "right"))


def flow_bundle(folder: Path, conditional: bool = True) -> Path:
    torch.manual_seed(0)
    config = flow.Config(conditional=conditional, width=8, prediction="velocity")
    objective = flow.build(config, SPEC)
    for parameter in objective.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    manifest = Manifest("flow", "image", controls=tuple(sorted(objective.controls)))
    return bundle.write(
        folder / "flow", manifest, lambda draft: flow.save(objective, draft)
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with miaobi.load(flow_bundle(tmp_path_factory.mktemp("flow"))) as opened:
        yield opened


@pytest.fixture
def source() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("scheduler", ["heun", "dpm++ 2m", "ddpm"])
def test_picture_i_of_seed_s_is_that_of_seed_s_plus_i(
    model: Model, scheduler: str
) -> None:
    for image in model.generate(n=3, seed=5, scheduler=scheduler):
        (alone,) = model.generate(seed=image.facts.seed, scheduler=scheduler)
        difference = np.abs(alone.pixels.astype(int) - image.pixels)
        assert difference.max() <= 1, "a batch may round otherwise"


@pytest.mark.parametrize(
    ("scheduler", "scale", "evaluations"),
    [("euler", 1, 5), ("heun", 1, 9), ("dpm++ 2m", 1, 5), ("euler", 2, 10)],
)
def test_the_steps_that_are_asked_for_run(
    model: Model,
    scheduler: str,
    scale: float,
    evaluations: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = list[int]()
    own = model.engine.net.net.forward

    def counted(*inputs: torch.Tensor) -> torch.Tensor:
        asked.append(len(inputs[0]))
        return own(*inputs)

    monkeypatch.setattr(model.engine.net.net, "forward", counted)
    controls = {"scheduler": scheduler, "guidance_scale": scale}
    model.generate(n=2, label="left", num_inference_steps=5, **controls)
    assert asked == [2] * evaluations


def test_strength_goes_from_the_input_to_a_new_picture(
    model: Model, source: np.ndarray
) -> None:
    (kept,) = model.generate(image=source, strength=0, label="left")
    assert (kept.pixels == source).all()
    (new,) = model.generate(image=source, strength=1, label="left", seed=3)
    (drawn,) = model.generate(label="left", seed=3)
    assert (new.pixels == drawn.pixels).all()
    near, far = (
        model.generate(image=source, strength=strength, label="left", seed=3)[0]
        for strength in (0.1, 0.9)
    )
    errors = [np.abs(item.pixels.astype(int) - source).mean() for item in (near, far)]
    assert 0 < errors[0] < errors[1]


@pytest.mark.parametrize("steps", [2, 8])
@pytest.mark.parametrize("grey", [1, 128, 255])
def test_outside_the_mask_every_byte_stays(
    model: Model, source: np.ndarray, steps: int, grey: int
) -> None:
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[4:9, 5:12] = grey
    images = model.generate(
        image=source, mask=mask, n=2, label="right", num_inference_steps=steps
    )
    outside = mask[..., 0] == 0
    for image in images:
        assert (image.pixels[outside] == source[outside]).all()
        assert (image.pixels[~outside] != source[~outside]).any()


def test_what_makes_no_sense_is_refused(model: Model, source: np.ndarray) -> None:
    with pytest.raises(BadInput, match="20 × 20 pixels and the image 16 × 16"):
        model.generate(image=source, mask=np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(BadInput, match="no image"):
        model.generate(mask=np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(BadInput, match="no sampler 'heum'") as caught:
        model.generate(scheduler="heum")
    assert "heun" in caught.value.remedy
    with pytest.raises(BadInput, match="num_inference_steps"):
        model.generate(num_inference_steps=0)


def test_without_classes_there_is_nothing_to_guide(tmp_path: Path) -> None:
    with miaobi.load(flow_bundle(tmp_path, conditional=False)) as model:
        assert model.generate(n=2)[0].pixels.shape == (16, 16, 3)
        with pytest.raises(Unsupported, match="guidance_scale"):
            model.generate(guidance_scale=2.0)


@pytest.mark.parametrize("width", [1, 4, 6, 20])
def test_any_width_does(width: int) -> None:
    objective = flow.build(flow.Config(width=width), SPEC)
    pixels = torch.zeros(2, 3, 16, 16)
    batch = {"pixels": pixels, "label": torch.zeros(2, dtype=torch.int64)}
    objective.loss(batch).total.backward()


def test_noise_needs_a_path_that_ends_before_all_is_noise() -> None:
    with pytest.raises(BadInput, match="epsilon"):
        flow.Config(prediction="epsilon")
