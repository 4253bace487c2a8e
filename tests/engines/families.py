"""Picture families small enough to see through, registered for a test: `points` draws
from latent numbers, `negative` translates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.data.image.prepared import PictureSpec
from miaobi.families import families
from miaobi.nn.image import UNCONDITIONAL, Conditions

CLASSES = ("crane", "crow", "swan")


class Points(nn.Module):
    """Six latent numbers through a fixed random map; the class shifts the grey level by 0.25."""

    spec, controls, latent_shape = (
        PictureSpec(1, 8, 12, CLASSES),
        frozenset({"label", "truncation"}),
        (6,),
    )

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "map", torch.randn(6, 96, generator=torch.Generator().manual_seed(0)) / 4
        )
        self.batches: list[int] = []

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, 6, generator=generator)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        self.batches.append(len(latent))
        return (latent @ self.map).reshape(-1, 1, 8, 12).clamp(-0.5, 0.5) + 0.25 * (
            label - 1
        ).reshape(-1, 1, 1, 1)

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self.decode(
            conditions.truncation * self.draw(count, generator), conditions.label
        )


class Negative(nn.Module):
    """Turns a grey picture into a colour one: red is its negative."""

    spec, controls = PictureSpec(3, 8, 8, (), 1), frozenset({"image"})

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        source = conditions.source
        assert source is not None and source.shape == (count, 1, 8, 8)
        return torch.cat([-source, source, source], 1)


class Captioned(nn.Module):
    """Paints what it is told: the caption's length, the guidance and the steps as greys."""

    spec = PictureSpec(1, 1, 3)
    controls = frozenset({"prompt", "guidance_scale", "num_inference_steps"})

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        assert conditions.prompt is not None
        assert count == len(conditions.prompt)
        greys = [
            [len(caption), conditions.guidance_scale or 0, conditions.steps or 0]
            for caption in conditions.prompt
        ]
        return torch.tensor(greys).view(count, 1, 1, 3) / 127.5 - 1


def register(patch: pytest.MonkeyPatch) -> None:
    for name, net in (
        ("points", Points),
        ("negative", Negative),
        ("captioned", Captioned),
    ):
        module = ModuleType(f"toy_{name}")
        module.load = lambda folder, net=net: net()  # type: ignore[attr-defined]
        patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(
            families._entries, name, EntryPoint(name, module.__name__, families.group)
        )


def written(
    folder: Path,
    family: str,
    fit: str | None = None,
    controls: Sequence[str] | None = None,
) -> Path:
    def save(draft: Path) -> None:
        if fit:
            (draft / "preprocessor_config.json").write_text(json.dumps({"fit": fit}))

    return bundle.write(folder, Manifest(family, "image", controls=controls), save)
