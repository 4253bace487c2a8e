"""Image models that were trained here: bundles of the image families (vae, vq, gan,
pix2pix and those of other packages).

This module imports no torch; engine.py does what runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import ImageRequest
from miaobi.models.tuned import FAMILY

if TYPE_CHECKING:
    from miaobi.engines.families.engine import PicturesEngine

FORMATS = ("bundle",)
TAKES = ImageRequest
BY_MODEL = frozenset(
    {
        "label",
        "image",
        "strength",
        "mask",
        "truncation",
        "prompt",
        "guidance_scale",
        "num_inference_steps",
        "scheduler",
    }
)
ABILITIES = Abilities(
    frozenset({"n", "seed", "width", "height"}) | BY_MODEL, by_model=BY_MODEL
)
"""What image models offer among them; a bundle says what its own does."""


def installed() -> str | None:
    if find_spec("torch") and find_spec("PIL"):
        return None
    return 'pip install "miaobi[train,images]"'


def reads(weights: Weights) -> bool:
    return weights.modality == TAKES.makes and weights.family != FAMILY


def open_engine(
    weights: Weights, *, streams: int = 1, device: str = "auto"
) -> PicturesEngine:
    """Open a bundle. `device`: auto, cpu, cuda, cuda:1."""
    from miaobi.engines import devices
    from miaobi.engines.families.engine import PicturesEngine

    return PicturesEngine(weights, devices.torch_device(device))
