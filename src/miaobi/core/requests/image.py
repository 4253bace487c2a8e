"""Requests for images: from a prompt, a class, or another image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from miaobi.core.artifacts import Image
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests.base import Request, between, one_of, same_fields


@dataclass(frozen=True, kw_only=True)
class ImageRequest(Request):
    """Make a picture of `prompt` or of class `label`, or change the picture `image`.

    Pictures are files, or in Python also their pixels, uint8 [H, W, C]. A field left at
    None is the model's own choice.
    """

    makes: ClassVar[str] = "image"
    client_methods = "images.generate, images.edit"
    answer = Image
    asks = frozenset({"prompt"})

    prompt: str | None = None
    """What the picture shows, in words."""
    negative_prompt: str | None = None
    """What to avoid, in words."""
    label: str | None = None
    """Name or number of a class the model was trained on; drawn at random by default."""
    width: int | None = between(8, 16384, None)
    """Pixels across."""
    height: int | None = between(8, 16384, None)
    """Pixels down."""
    num_inference_steps: int | None = between(1, 1000, None)
    """Steps of denoising: more is slower, and finer up to a point."""
    guidance_scale: float | None = between(0, 100, None)
    """How closely to follow the prompt (classifier-free guidance, Ho and Salimans 2022,
    arXiv:2207.12598).
    """
    image: Path | None = None
    """A picture to start from, translate, restyle or enlarge."""
    mask: Path | None = None
    """Where to repaint `image`: white is repainted, black is kept. Of the same size as `image`."""
    strength: float | None = between(0, 1, None)
    """How far to leave `image` behind: 0 keeps it, 1 ignores it."""
    style: Path | None = None
    """A picture whose style `image` gets, or the number of a built-in style (0 to 25)."""
    upscale: int | None = one_of(2, 3, 4, 8)
    """Enlarge `image` this many times."""
    control_image: Path | None = None
    """Edges, depth or a pose that the picture is to follow, for models opened with a ControlNet."""
    truncation: float | None = between(1e-9, 1, None)
    """Below 1 draws nearer to the average picture: safer, less varied (Karras et al.
    2019, arXiv:1812.04948).
    """
    scheduler: str | None = None
    """The way noise is taken away: "euler", "dpm++ 2m", "ddim", or a class name of Diffusers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image", "mask", "style", "control_image"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, Path(value).expanduser())
        for name in ("mask", "strength", "style", "upscale"):
            if getattr(self, name) is not None and self.image is None:
                raise BadInput(
                    say(
                        f"{name} is about a picture, and there is no image.",
                        f"{name} 针对一张图片，但没有给出 image。",
                    ),
                    say(
                        "Give image as well (--image photo.png).",
                        "请同时给出 image（--image photo.png）。",
                    ),
                )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and same_fields(self, other)

    @classmethod
    def of(cls, ask: Any, model: Any, *, raw: bool = False, **controls: Any) -> Self:
        """Return the request for a prompt, which may be left out."""
        if raw or not isinstance(ask, str | None):
            raise cls.wrong_ask(ask, model.name)
        if ask:
            controls = {"prompt": ask} | controls
        return cls(**controls)

    def parameters(self) -> dict[str, Any]:
        """Return what facts record: the prompt, and the controls."""
        parameters = super().parameters()
        return {"prompt": self.prompt} | parameters if self.prompt else parameters
