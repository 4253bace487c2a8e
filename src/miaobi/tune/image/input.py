"""From a picture to what a pretrained picture model takes, by the settings that came
with it (preprocessor_config.json).

    x = (resize(picture) / 255 - mean) / std,    float32 [B, 3, H, W]

The same arithmetic as Transformers' image processors; those need torchvision or a copy
of every picture in float32. Kept as uint8 until the batch is on its device, so that
changes (augmentations) and normalisation cost no memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.image import augment
from miaobi.data.image.files import open_picture, quiet
from miaobi.data.text.shapes import Unusable
from miaobi.models import efficientnet
from miaobi.models.base import Base

FILE = "preprocessor_config.json"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDE = 224
MOST = 512
"""Pixels of a side that nets without a size of their own (detectors, segmenters) get
unless told otherwise: a CPU is slow beyond.
"""


@dataclass(frozen=True)
class Preparation:
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    edge: int = 0
    """The shorter side that a picture is brought to before its middle is cut out; 0: it
    is stretched to height × width.
    """
    resample: int = 2
    """Pillow's number: 2 bilinear, 3 bicubic."""

    def pixels(
        self, content: Path | str | bytes | np.ndarray, name: str = ""
    ) -> np.ndarray:
        """uint8 [3, height, width]. Raises BadInput for what is no picture."""
        picture = open_rgb(content, name)
        if not self.edge:
            return np.asarray(
                picture.resize((self.width, self.height), self.resample)
            ).transpose(2, 0, 1)
        short = min(picture.size)
        size = [
            self.edge if side == short else int(self.edge * side / short)
            for side in picture.size
        ]
        picture = picture.resize((size[0], size[1]), self.resample)
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        return np.asarray(
            picture.crop((left, top, left + self.width, top + self.height))
        ).transpose(2, 0, 1)

    def scaled(self, pixels: Tensor) -> Tensor:
        """uint8, or float [0, 255], [B, 3, H, W] -> normalised float32."""
        mean, std = (
            torch.tensor(values, device=pixels.device).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return ((pixels.float() / 255 - mean) / std).contiguous(
            memory_format=torch.channels_last
        )

    def save(self, folder: Path, base: Path) -> None:
        """In Transformers' layout, keeping what the base's file says beside."""
        known = (
            json.loads((base / FILE).read_text(encoding="utf-8"))
            if (base / FILE).is_file()
            else {
                "image_processor_type": "CLIPImageProcessor"
                if self.edge
                else "ViTImageProcessor",
                "do_convert_rgb": True,
            }
        )
        size = (
            {"shortest_edge": self.edge}
            if self.edge
            else {"height": self.height, "width": self.width}
        )
        known.pop("crop_pct", None)
        known |= {
            "do_resize": True,
            "size": size,
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_center_crop": bool(self.edge),
        }
        known |= (
            {"crop_size": {"height": self.height, "width": self.width}}
            if self.edge
            else {}
        )
        (folder / FILE).write_text(json.dumps(known, indent=1), encoding="utf-8")


def open_rgb(content: Path | str | bytes | np.ndarray, name: str = "") -> Any:
    """A Pillow picture of mode RGB, upright, on white where it was transparent. Raises BadInput."""
    content = Path(content) if isinstance(content, str) else content
    try:
        with quiet():
            return open_picture(content).pixels.convert("RGB")
    except Unusable as error:
        shown = name or (
            str(content) if isinstance(content, Path) else say("the picture", "图片")
        )
        raise BadInput(
            say(f"{shown}: {error.what}", f"{shown}：{error.what}"), error.remedy
        ) from None


def preparation(base: Base, image_size: int, seen: int, stretch: bool) -> Preparation:
    """How pictures are prepared for this base.

    image_size: the side that was asked for, 0 for the base's own. seen: the longer side
        of the median training picture: the packaged part, which takes any size, looks
        at small ones at 112. stretch: never cut anything off (boxes and masks are to
        stay whole). Raises BadInput for a size the base cannot take.
    """
    if base.weights.format == "part":
        side = image_size or (
            efficientnet.SMALL_SIDE if seen <= efficientnet.SMALL else efficientnet.SIDE
        )
        mean, std = (value / 255 for value in (efficientnet.MEAN, efficientnet.SCALE))
        return Preparation(
            side, side, (mean,) * 3, (std,) * 3, 0 if stretch else side, 3
        )
    known: dict[str, Any] = (
        json.loads((base.folder / FILE).read_text(encoding="utf-8"))
        if (base.folder / FILE).exists()
        else {}
    )
    inner = base.config.get("vision_config") or base.config.get("encoder") or {}
    fixed = base.config.get("image_size", inner.get("image_size"))
    if image_size and isinstance(fixed, int) and image_size != fixed:
        raise BadInput(
            say(
                f"head.image_size is {image_size}; {base.name} takes {fixed}.",
                f"head.image_size 为 {image_size}；{base.name} 的输入为 {fixed}。",
            ),
            say("Leave head.image_size out.", "请去掉 head.image_size。"),
        )
    height, width, edge = _sizes(known, fixed)
    if image_size:
        height, width, edge = image_size, image_size, round(edge * image_size / height)
    if stretch and edge and not image_size:
        height = width = min(max(height, width), MOST)
    mean, std = (
        tuple(known.get(key, default))
        for key, default in zip(("image_mean", "image_std"), IMAGENET)
    )
    mean, std = (
        (mean, std) if known.get("do_normalize", True) else ((0.0,) * 3, (1.0,) * 3)
    )
    return Preparation(
        height, width, mean, std, 0 if stretch else edge, int(known.get("resample", 2))
    )


def _sizes(known: dict[str, Any], fixed: Any) -> tuple[int, int, int]:
    """(height, width, edge) by the ways in which preprocessor_config.json says them."""
    size = known.get("size", fixed or SIDE)
    if isinstance(size, dict) and "height" in size:
        return size["height"], size["width"], 0
    if not isinstance(size, dict):
        height, width = (size, size) if isinstance(size, int) else size
        return height, width, 0
    edge = size.get("shortest_edge", SIDE)
    crop = known.get("crop_size", edge)
    height, width = (
        (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
    )
    share = known.get("crop_pct")
    if share and edge < 384:  # ConvNeXt's way of saying it
        return edge, edge, int(edge / share)
    return (
        height,
        width,
        edge
        if known.get("do_center_crop", False) or "longest_edge" in size
        else max(height, width),
    )


def augment_pixels(
    names: list[str], pixels: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Training pictures uint8 [B, 3, H, W] changed by name (data/image/augment.py), as float
    in [0, 255]; masks [B, H, W] moved along.

    Drawn from PyTorch's random state, which a checkpoint holds: a resumed run draws
    what it would have drawn.
    """
    if not names:
        return pixels, mask
    draw = np.random.default_rng(int(torch.randint(2**31, ())))
    batch = {"pixels": pixels.float() / 127.5 - 1}
    for name in names:
        if mask is not None and augment.AUGMENTATIONS[name].moves:
            batch["pixels"], mask = _together(name, batch["pixels"], mask, draw)
        else:
            batch = augment.apply([name], batch, draw)
    return (batch["pixels"] + 1) * 127.5, mask


def _together(
    name: str, pixels: Tensor, mask: Tensor, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Each class of the mask is moved as a plane of its own; a pixel then has the class
    with the most of it.
    """
    present = mask.unique()
    planes = (mask[:, None] == present.view(1, -1, 1, 1)).float() * 2 - 1
    both = augment.AUGMENTATIONS[name].change(torch.cat([pixels, planes], 1), draw)
    return both[:, :3], present[both[:, 3:].argmax(1)]


def check_augmentations(
    names: list[str], allowed: tuple[str, ...] = tuple(augment.AUGMENTATIONS)
) -> None:
    """Raise NotFound for a name that is none, BadInput for one that would put boxes wrong."""
    augment.check(names)
    for name in names:
        if name not in allowed:
            raise BadInput(
                say(
                    f"head.augment has {name}, which would leave the boxes where they are.",
                    f"head.augment 中的 {name} 会使标注框错位。",
                ),
                say(
                    f"These can be had here: {', '.join(allowed)}.",
                    f"此处可用：{'、'.join(allowed)}。",
                ),
            )
