"""Picture models whose answers are known: x = z W, with orthogonal rows of W. Three
kinds: one that encodes and truncates, one that only draws, one that only paints. A
family as any other: `load(folder)`.
"""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from miaobi.core import bundle
from miaobi.data.image import prepared as pictures
from miaobi.data.image.prepared import PictureSpec
from miaobi.families import families
from miaobi.nn.image import UNCONDITIONAL, Conditions

SIDE, LATENT = 8, 4
WEIGHT = (
    torch.linalg.qr(
        torch.randn(SIDE * SIDE, LATENT, generator=torch.Generator().manual_seed(0))
    )[0].T
    * 1.2
)


class Paints(nn.Module):
    def __init__(self, spec: PictureSpec, conditional: bool = False) -> None:
        super().__init__()
        self.spec, self.controls = spec, frozenset({"label"} if conditional else ())

    def points(self, count: int, generator: torch.Generator | None) -> Tensor:
        return torch.randn(count, LATENT, generator=generator)

    def picture(self, points: Tensor, label: Tensor | None) -> Tensor:
        shade = 0 if label is None else 0.4 * label[:, None] - 0.2
        return (
            (points @ WEIGHT + shade)
            .view(-1, 1, SIDE, SIDE)
            .expand(-1, self.spec.channels, -1, -1)
        )

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self.picture(
            conditions.truncation * self.points(count, generator), conditions.label
        )


class Draws(Paints):
    latent_shape = (LATENT,)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return self.points(count, generator)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self.picture(latent, label)


class Encodes(Draws):
    def __init__(self, spec: PictureSpec, conditional: bool = False) -> None:
        super().__init__(spec, conditional)
        self.controls |= {"truncation"}

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        return pixels[:, 0].flatten(1) @ torch.linalg.pinv(WEIGHT)


KINDS = {"paints": Paints, "draws": Draws, "encodes": Encodes}


def load(folder: Path) -> nn.Module:
    content = json.loads((folder / "toy.json").read_text())
    return KINDS[content["kind"]](
        PictureSpec(content["channels"], SIDE, SIDE, tuple(content["classes"])),
        content["conditional"],
    )


def register(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(
        families._entries, "toy", EntryPoint("toy", __name__, "miaobi.families")
    )


def toy_bundle(
    folder: Path,
    kind: str,
    own: pictures.Pictures | None = None,
    conditional: bool = False,
    channels: int = 1,
) -> Path:
    classes = own.spec.classes if own else ("dark", "light") if conditional else ()

    def save(draft: Path) -> None:
        (draft / "toy.json").write_text(
            json.dumps(
                {
                    "kind": kind,
                    "classes": classes,
                    "conditional": conditional,
                    "channels": channels,
                }
            )
        )

    return bundle.write(
        folder,
        bundle.Manifest(
            "toy", "image", data={"folder": str(own.folder)} if own else {}
        ),
        save,
    )


def toy_data(folder: Path, cache: Path) -> tuple[pictures.Pictures, Tensor]:
    """Two classes that differ by one known vector of the latent space, which is returned too."""
    difference = torch.tensor([0.0, 1.0, 0.0, -0.6])
    points = 0.3 * torch.randn(120, LATENT, generator=torch.Generator().manual_seed(1))
    for at, point in enumerate(points):
        name = ("plain", "marked")[at % 2]
        pixels = ((point + (at % 2) * difference) @ WEIGHT).view(SIDE, SIDE)
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(
            ((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).numpy()
        ).save(folder / name / f"{at}.png")
    config = pictures.Config(
        path=str(folder), near_duplicates="keep", validation=0.2, test=0
    )
    return pictures.prepare(config, cache=cache, progress=False), difference
