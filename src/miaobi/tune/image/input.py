"""From a picture to what a pretrained picture model takes, by the settings that came
with it (preprocessor_config.json).

    x = (resize(picture) / 255 - mean) / std,    float32 [B, 3, H, W]

The same arithmetic as Transformers' image processors; those need torchvision or a copy
of every picture in float32. Pictures are uint8 until the batch is on its device, so that
augmentations and normalisation cost no memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEFAULT_SIDE = 224
MAX_DEFAULT_SIDE = 512
"""Pixels of a side that nets without a size of their own (detectors, segmenters) get
where image_size is left open: a CPU is slow beyond.
"""
CROPPED_BELOW = 384
"""ConvNeXt cuts pictures for smaller sides than this only."""


@dataclass(frozen=True)
class Preparation:
    """How pictures are brought to a model's size and range."""

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
        """Return uint8 [3, height, width]. Raises BadInput for what is no picture."""
        picture = open_rgb(content, name)
        sized = self._cut_middle(picture) if self.edge else self._stretch(picture)
        return np.asarray(sized).transpose(2, 0, 1)

    def _stretch(self, picture: Any) -> Any:
        return picture.resize((self.width, self.height), self.resample)

    def _cut_middle(self, picture: Any) -> Any:
        short = min(picture.size)
        width, height = (
            self.edge if side == short else int(self.edge * side / short)
            for side in picture.size
        )
        scaled = picture.resize((width, height), self.resample)
        left = (width - self.width) // 2
        top = (height - self.height) // 2
        return scaled.crop((left, top, left + self.width, top + self.height))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return normalised float32 of uint8, or float [0, 255], [B, 3, H, W]."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        normalised = (pixels.float() / 255 - mean) / std
        return normalised.contiguous(memory_format=torch.channels_last)

    def save(self, folder: Path, base: Path) -> None:
        """Write the settings in Transformers' layout.

        Other settings of the base's file stay as they are.

        Args:
            folder: of the tuned model.
            base: the folder of the base.
        """
        settings = self._settings_of(base)
        settings.pop("crop_pct", None)
        size = {"height": self.height, "width": self.width}
        settings |= {
            "do_resize": True,
            "size": {"shortest_edge": self.edge} if self.edge else size,
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_center_crop": bool(self.edge),
        }
        if self.edge:
            settings["crop_size"] = size
        (folder / FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    def _settings_of(self, base: Path) -> dict[str, Any]:
        """Return the base's settings, or what Transformers calls this preparation."""
        if (base / FILE).is_file():
            return _read(base / FILE)
        processor = "CLIPImageProcessor" if self.edge else "ViTImageProcessor"
        return {"image_processor_type": processor, "do_convert_rgb": True}


def _read(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def open_rgb(content: Path | str | bytes | np.ndarray, name: str = "") -> Any:
    """Return a Pillow picture of mode RGB, upright, on white where it was transparent.

    Raises BadInput for what is no picture.

    Args:
        content: a path, or the bytes or pixels of a picture.
        name: of the picture, for the error.
    """
    if isinstance(content, str):
        content = Path(content)
    try:
        with quiet():
            return open_picture(content).pixels.convert("RGB")
    except Unusable as error:
        if not name:
            is_path = isinstance(content, Path)
            name = str(content) if is_path else say("the picture", "图片")
        raise BadInput(error.at(name), error.remedy) from None


def preparation(base: Base, image_size: int, seen: int, stretch: bool) -> Preparation:
    """Return how pictures are prepared for this base.

    Raises BadInput for a size that the base cannot take.

    Args:
        base: the packaged part, or a model of Transformers.
        image_size: pixels of a side, 0 for the base's own.
        seen: the longer side of the median training picture; the packaged part, which
            takes any size, looks at small ones at 112.
        stretch: never cut anything off (boxes and masks are to stay whole).
    """
    if base.weights.format == "part":
        return _packaged_preparation(image_size, seen, stretch)
    path = base.folder / FILE
    settings = _read(path) if path.exists() else {}
    height, width, edge = _size(settings, _fixed_side(base, image_size))
    if image_size:
        edge = round(edge * image_size / height)
        height = width = image_size
    elif stretch and edge:
        height = width = min(max(height, width), MAX_DEFAULT_SIDE)
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if settings.get("do_normalize", True):
        mean = tuple(settings.get("image_mean", IMAGENET_MEAN))
        std = tuple(settings.get("image_std", IMAGENET_STD))
    return Preparation(
        height,
        width,
        mean,
        std,
        edge=0 if stretch else edge,
        resample=int(settings.get("resample", 2)),
    )


def _packaged_preparation(image_size: int, seen: int, stretch: bool) -> Preparation:
    side = image_size
    if not side:
        is_small = seen <= efficientnet.SMALL
        side = efficientnet.SMALL_SIDE if is_small else efficientnet.SIDE
    return Preparation(
        side,
        side,
        (efficientnet.MEAN / 255,) * 3,
        (efficientnet.SCALE / 255,) * 3,
        edge=0 if stretch else side,
        resample=3,
    )


def _fixed_side(base: Base, image_size: int) -> Any:
    """Return the base's own side, as its config has it; None for a base without one.

    Raises BadInput for another `image_size`.
    """
    inner = base.config.get("vision_config") or base.config.get("encoder") or {}
    side = base.config.get("image_size", inner.get("image_size"))
    if image_size and isinstance(side, int) and image_size != side:
        raise BadInput(
            say(
                f"head.image_size is {image_size}; {base.name} takes {side}.",
                f"head.image_size 为 {image_size}；{base.name} 的输入为 {side}。",
            ),
            say("Leave head.image_size out.", "请去掉 head.image_size。"),
        )
    return side


def _size(settings: Mapping[str, Any], fixed_side: Any) -> tuple[int, int, int]:
    """Return (height, width, edge) of the ways in which the file may say them.

    Args:
        settings: preprocessor_config.json.
        fixed_side: what the model's config says, for a file that says nothing.
    """
    size = settings.get("size", fixed_side or DEFAULT_SIDE)
    if not isinstance(size, dict):
        height, width = (size, size) if isinstance(size, int) else size
        return height, width, 0
    if "height" in size:
        return size["height"], size["width"], 0
    edge = size.get("shortest_edge", DEFAULT_SIDE)
    share = settings.get("crop_pct")
    if share and edge < CROPPED_BELOW:  # ConvNeXt's way of saying it
        return edge, edge, int(edge / share)
    crop = settings.get("crop_size", edge)
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    height, width = crop["height"], crop["width"]
    if settings.get("do_center_crop", False) or "longest_edge" in size:
        return height, width, edge
    return height, width, max(height, width)


def augment_pixels(
    names: list[str], pixels: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return training pictures changed, float in [0, 255], and masks moved along.

    Drawn from PyTorch's random state, which a checkpoint holds: a resumed run draws
    what it would have drawn.

    Args:
        names: of augmentations (data/image/augment.py).
        pixels: uint8 [B, 3, H, W].
        mask: the class of each pixel, [B, H, W].
    """
    if not names:
        return pixels, mask
    draw = np.random.default_rng(int(torch.randint(2**31, ())))
    changed = pixels.float() / 127.5 - 1
    for name in names:
        if mask is not None and augment.AUGMENTATIONS[name].moves:
            changed, mask = _move_together(name, changed, mask, draw)
        else:
            changed = augment.apply([name], {"pixels": changed}, draw)["pixels"]
    return (changed + 1) * 127.5, mask


def _move_together(
    name: str, pixels: Tensor, mask: Tensor, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return pictures and masks moved by one augmentation.

    Each class of the mask is moved as a plane of its own; a pixel then has the class
    with the most of it.
    """
    unique: Callable[[Tensor], Tensor] = torch.unique
    classes = unique(mask)
    planes = (mask[:, None] == classes.view(1, -1, 1, 1)).float() * 2 - 1
    moved = augment.AUGMENTATIONS[name].change(torch.cat([pixels, planes], 1), draw)
    return moved[:, :3], classes[moved[:, 3:].argmax(1)]


def check_augmentations(
    names: list[str], allowed: tuple[str, ...] = tuple(augment.AUGMENTATIONS)
) -> None:
    """Raise NotFound for an unknown name, BadInput for one that would put boxes wrong."""
    augment.check(names)
    for name in names:
        if name not in allowed:
            raise BadInput(
                say(
                    f"head.augment has {name}, which would leave the boxes where they are.",
                    f"head.augment 中的 {name} 会使标注框错位。",
                ),
                say(
                    f"Supported here: {', '.join(allowed)}.",
                    f"此处可用：{'、'.join(allowed)}。",
                ),
            )
