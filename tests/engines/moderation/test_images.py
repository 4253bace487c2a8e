"""Unsafe images are replaced; without the packaged model nothing is generated, and the
error says how to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import miaobi
from miaobi.core.errors import BadInput, NotFound
from miaobi.data import packs
from miaobi.engines.diffusers.engine import DiffusersEngine
from miaobi.engines.moderation.images import Checker, open_checker

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.mark.parametrize(
    ("probability", "finish"),
    [(0.4999, "stop"), (0.5, "content_filter"), (0.9, "content_filter")],
)
def test_images_turn_grey_from_the_threshold_on(
    probability: float, finish: str
) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    verdict = Checker(lambda _: probability, threshold=0.5)(pixels)
    assert verdict.finish == finish
    assert verdict.probability == probability
    assert (verdict.pixels == (pixels if finish == "stop" else 128)).all()
    assert verdict.pixels.shape == pixels.shape


def test_flagged_images_leave_grey_with_the_probability_in_their_facts(
    checkpoint: Callable[[str], Path],
) -> None:
    checked: list[np.ndarray] = []

    def score(pixels: np.ndarray) -> float:
        checked.append(pixels)
        return 0.93 if len(checked) == 2 else 0.1

    with miaobi.load(checkpoint("sd15"), safety_checker=False) as model:
        assert isinstance(model.engine, DiffusersEngine)
        model.engine.checker = Checker(score)
        first, second = model.generate("a fox", n=2, num_inference_steps=2, seed=1)
    assert first.finish == "stop"
    assert first.facts.parameters["unsafe_probability"] == 0.1
    assert (first.pixels == checked[0]).all()
    assert second.finish == "content_filter"
    assert second.facts.parameters["unsafe_probability"] == 0.93
    assert (second.pixels == 128).all()
    assert second.pixels.shape == (32, 32, 3)
    assert checked[1].std() > 10, "what was scored is the image itself"


def test_the_packaged_model_checks_by_default(
    checkpoint: Callable[[str], Path], pack: Callable[[str], Path]
) -> None:
    pack("opennsfw")
    with miaobi.load(checkpoint("sd15")) as model:
        image = model.generate("a fox", num_inference_steps=2, seed=1)[0]
    assert image.finish == "stop"
    assert 0 <= image.facts.parameters["unsafe_probability"] < 0.6


def test_without_the_pack_nothing_is_generated(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str, fetch: bool = True) -> Path:
        raise packs.Unreachable(f"pip could not bring {name}", "Check the network.")

    monkeypatch.setattr(packs, "path", unreachable)
    with pytest.raises(packs.Unreachable, match="could not bring opennsfw") as caught:
        miaobi.load(checkpoint("sd15"))
    assert "safety_checker=False" in caught.value.remedy
    with miaobi.load(checkpoint("sd15"), safety_checker=False) as model:
        image = model.generate(num_inference_steps=1)[0]
    assert "unsafe_probability" not in image.facts.parameters


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_thresholds_are_probabilities(threshold: float) -> None:
    with pytest.raises(BadInput, match="safety_threshold"):
        open_checker(threshold)


def test_parts_are_not_models_to_load() -> None:
    with pytest.raises(Exception, match="generates nothing"):
        miaobi.load("opennsfw")
    with pytest.raises(NotFound, match="opennsfw|no model"):
        miaobi.load("opennsfww")
