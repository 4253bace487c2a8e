"""Schedulers by name."""

from __future__ import annotations

import pytest
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from miaobi.core.errors import BadInput, Unsupported
from miaobi.engines.diffusers import schedulers

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
BASE = PNDMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
)


@pytest.mark.parametrize("name", schedulers.NAMES)
def test_short_names_keep_the_models_own_noise(name: str) -> None:
    scheduler = schedulers.make(BASE, name)
    kind, settings = schedulers.NAMES[name]
    assert type(scheduler).__name__ == kind
    assert scheduler.config.beta_start == 0.00085
    assert scheduler.config.beta_schedule == "scaled_linear"
    for key, value in settings.items():
        assert scheduler.config[key] == value


def test_spellings() -> None:
    for name in ("DPM++ 2M Karras", "dpm++_2m-karras", " dpm++ 2m  karras "):
        scheduler = schedulers.make(BASE, name)
        assert isinstance(scheduler, DPMSolverMultistepScheduler)
        assert scheduler.config.use_karras_sigmas
    assert isinstance(
        schedulers.make(BASE, "EulerDiscreteScheduler"), EulerDiscreteScheduler
    )
    assert type(schedulers.make(BASE, None)) is PNDMScheduler
    assert schedulers.make(BASE, None) is not BASE, (
        "a scheduler keeps state: each request has its own"
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("eulr", "euler"),
        ("dpm++2m", "dpm++ 2m"),
        ("EulerDiscretScheduler", "EulerDiscreteScheduler"),
    ],
)
def test_unknown_names(name: str, near: str) -> None:
    with pytest.raises(BadInput, match=name.replace("+", r"\+")) as caught:
        schedulers.make(BASE, name)
    assert near in caught.value.remedy


def test_a_flow_has_its_own() -> None:
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert schedulers.make(flow, "euler").config.shift == 3.0
    for name in ("ddim", "DDIMScheduler"):
        with pytest.raises(Unsupported, match="FlowMatchEuler"):
            schedulers.make(flow, name)
    with pytest.raises(Unsupported, match="PNDMScheduler"):
        schedulers.make(BASE, "FlowMatchEulerDiscreteScheduler")
