"""Diffusers' schedulers, by the names people use.

One for each request: they keep state while they run.
"""

from __future__ import annotations

import re
from typing import Any

from miaobi.core.errors import BadInput, Unsupported, nearest
from miaobi.core.language import say

KARRAS = {"use_karras_sigmas": True}
NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler karras": ("EulerDiscreteScheduler", KARRAS),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++ 2m karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", **KARRAS},
    ),
    "dpm++ 2m sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    "dpm++ 2m sde karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", **KARRAS},
    ),
    "dpm++ 2s": ("DPMSolverSinglestepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
"""Short names, as in the table of Diffusers' documentation (api/schedulers/overview)."""
FLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "euler karras": ("FlowMatchEulerDiscreteScheduler", KARRAS),
    "unipc": (
        "UniPCMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    ),
    "lcm": ("FlowMatchLCMScheduler", {}),
}
"""The same for models that learned a flow (Stable Diffusion 3, FLUX), whose noise levels
are others.
"""


def make(base: Any, name: str | None) -> Any:
    """Return a fresh scheduler with the settings of `base`, the model's own.

    None is the model's own kind. Raises BadInput for an unknown name with the nearest
    ones, Unsupported for one that this model's noise does not allow.
    """
    if name is None:
        return type(base).from_config(base.config)
    import diffusers

    flow = "Flow" in type(base).__name__ or bool(base.config.get("use_flow_sigmas"))
    names = FLOW if flow else NAMES
    short_name = _short(name)
    class_name, settings = names.get(short_name, (name, {}))
    allowed = {type(base).__name__, *(kind for kind, _ in names.values())}
    if class_name in allowed:
        return getattr(diffusers, class_name).from_config(base.config, **settings)
    choices = [*names, *allowed]
    if short_name in NAMES or isinstance(getattr(diffusers, name, None), type):
        raise Unsupported(
            say(
                f"The scheduler {name!r} does not fit this model, which was made for {type(base).__name__}.",
                f"调度器 {name!r} 不适合此模型（其自带调度器为 {type(base).__name__}）。",
            ),
            say(
                f"These do: {', '.join(choices)}.", f"可用的有：{'、'.join(choices)}。"
            ),
        )
    raise BadInput(
        say(f"There is no scheduler {name!r}.", f"没有名为 {name!r} 的调度器。"),
        nearest(name if "Scheduler" in name else short_name, choices),
    )


def _short(name: str) -> str:
    """Return "DPM++_2M-Karras" as "dpm++ 2m karras"."""
    return re.sub(r"[\s_-]+", " ", name.strip().lower())
