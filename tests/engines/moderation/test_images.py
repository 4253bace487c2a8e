"""Unsafe pictures are replaced; without the packaged model nothing is painted, and the
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
from miaobi.engines.moderation import images as safety
from miaobi.engines.moderation.images import Checker

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


def test_the_threshold_is_where_pictures_turn_grey() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for probability, finish in (
        (0.4999, "stop"),
        (0.5, "content_filter"),
        (0.9, "content_filter"),
    ):
        verdict = Checker(lambda _: probability, threshold=0.5)(pixels)  # noqa: B023
        assert (verdict.finish, verdict.probability) == (finish, probability)
        assert (verdict.pixels == (pixels if finish == "stop" else 128)).all()
        assert verdict.pixels.shape == pixels.shape


def test_flagged_pictures_leave_grey_with_the_probability_in_their_facts(
    checkpoint: Callable[[str], Path],
) -> None:
    seen: list[np.ndarray] = []

    def judge(pixels: np.ndarray) -> float:
        seen.append(pixels)
        return 0.93 if len(seen) == 2 else 0.1

    with miaobi.load(checkpoint("sd15"), safety_checker=False) as model:
        assert isinstance(model.engine, DiffusersEngine)
        model.engine.checker = Checker(judge)
        first, second = model.generate("a fox", n=2, num_inference_steps=2, seed=1)
    assert (first.finish, first.facts.parameters["unsafe_probability"]) == ("stop", 0.1)
    assert (first.pixels == seen[0]).all()
    assert (second.finish, second.facts.parameters["unsafe_probability"]) == (
        "content_filter",
        0.93,
    )
    assert (second.pixels == 128).all() and second.pixels.shape == (32, 32, 3)
    assert seen[1].std() > 10, "what was judged is the picture itself"


def test_the_packaged_model_judges_by_default(
    checkpoint: Callable[[str], Path], pack: Callable[[str], Path]
) -> None:
    pack("opennsfw")
    with miaobi.load(checkpoint("sd15")) as model:
        picture = model.generate("a fox", num_inference_steps=2, seed=1)[0]
    assert picture.finish == "stop"
    assert 0 <= picture.facts.parameters["unsafe_probability"] < 0.6


def test_without_the_pack_nothing_is_painted(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str, fetch: bool = True) -> Path:
        raise packs.Unreachable(f"pip could not bring {name}", "Check the network.")

    monkeypatch.setattr(packs, "path", unreachable)
    with pytest.raises(
        packs.Unreachable, match="pip could not bring opennsfw"
    ) as caught:
        miaobi.load(checkpoint("sd15"))
    assert "safety_checker=False" in caught.value.remedy
    with miaobi.load(checkpoint("sd15"), safety_checker=False) as model:
        assert (
            "unsafe_probability"
            not in model.generate(num_inference_steps=1)[0].facts.parameters
        )


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_thresholds_are_probabilities(threshold: float) -> None:
    with pytest.raises(BadInput, match="safety_threshold"):
        safety.open_checker(threshold)


def test_parts_are_not_models_to_load() -> None:
    with pytest.raises(Exception, match="judges"):
        miaobi.load("opennsfw")
    with pytest.raises(NotFound, match="opennsfw|no model"):
        miaobi.load("opennsfww")
