"""What the experiments of `miaobi latent` share: the opened model, pictures to work on,
and the labelled sheet they leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from miaobi.core.artifacts import Image, Video
from miaobi.core.errors import BadInput, NotFound, Unsupported, nearest
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, recorded
from miaobi.data.image import prepared as data
from miaobi.data.image.files import ENDINGS, read_picture
from miaobi.data.image.folders import visible
from miaobi.engines.load import Model, load
from miaobi.models.weights import find
from miaobi.nn.image import Encodes, HasLatents, from_planes, to_pixels
from miaobi.nn.latents import Projection, encoded, project
from miaobi.provenance.image import format_of, is_folder
from miaobi.provenance.publish import publish
from miaobi.verbs.latent import Experiment

if TYPE_CHECKING:
    from miaobi.engines.families.engine import PicturesEngine

FRAMES_A_SECOND = 10
STARTS, STEPS = 8, 300
"""Of a projection, where the experiment is about something else."""


@dataclass(frozen=True)
class Given:
    """Pictures to work on: pixels [N, C, H, W] in [-1, 1], names, and class numbers [N]
    where they are known.
    """

    pixels: Tensor
    names: list[str]
    label: Tensor | None = None


def can(net: Any, experiment: str) -> bool:
    if experiment == "truncate":
        return "truncation" in net.controls
    return isinstance(net, HasLatents) and (
        isinstance(net, Encodes) or experiment not in ("reconstruct", "arithmetic")
    )


EXPERIMENTS = (
    "reconstruct",
    "interpolate",
    "arithmetic",
    "traverse",
    "project",
    "truncate",
)


@contextmanager
def lab(
    model: str,
    experiment: str,
    label: str | None,
    seed: int,
    out: Path | None,
    moving: bool = False,
) -> Iterator[Lab]:
    """Open `model` for an experiment. Raises Unsupported, with what it can do instead,
    for a model that lacks the ability.
    """
    if out is not None and is_folder(out):
        raise BadInput(
            say(f"--out {out} names no picture file.", f"--out {out} 不是图片文件。"),
            say("End it in .png, .jpg or .webp.", "请以 .png、.jpg 或 .webp 结尾。"),
        )
    if out is not None and format_of(out) == "GIF" and not moving:
        raise Unsupported(
            say(
                f"latent {experiment} makes a sheet, not an animation ({out}).",
                f"latent {experiment} 生成的是拼图，不是动画（{out}）。",
            ),
            say(
                "End --out in .png, .jpg or .webp.",
                "请让 --out 以 .png、.jpg 或 .webp 结尾。",
            ),
        )
    weights = find(model)
    if (weights.format, weights.modality) != ("bundle", "image"):
        raise Unsupported(
            say(
                f"{weights.name} is no picture model that was trained here.",
                f"{weights.name} 不是在此训练的图像模型。",
            ),
            say(
                "Train one: miaobi train recipes/image/digits_vae.yaml.",
                "可训练一个：miaobi train recipes/image/digits_vae.yaml。",
            ),
        )
    with load(model) as opened:
        bench = Lab(opened, experiment, seed, out, moving)
        if not can(bench.net, experiment):
            able = [
                f"latent {name}" for name in EXPERIMENTS if can(bench.net, name)
            ] or ["generate image"]
            raise Unsupported(
                say(
                    f"{opened.name} ({opened.weights.family}) cannot {experiment}.",
                    f"{opened.name}（{opened.weights.family}）不支持 {experiment}。",
                ),
                say(f"It can: {', '.join(able)}.", f"它支持：{'、'.join(able)}。"),
            )
        bench.asked = None if label is None else bench.engine.number(label)
        yield bench


class Lab:
    def __init__(
        self, model: Model, experiment: str, seed: int, out: Path | None, moving: bool
    ) -> None:
        self.model, self.experiment, self.seed = model, experiment, seed
        self.engine = cast("PicturesEngine", model.engine)
        self.net: Any = self.engine.net
        self.device, self.spec = self.engine.device, self.net.spec
        self.out = (
            out or Path("runs") / "latent" / f"{Path(model.name).name}-{experiment}.png"
        )
        self.moves = moving and self.out.suffix.lower() in (".gif", ".webp")
        self.asked: int | None = None
        """The number of the class that --label asked for."""

    @property
    def conditional(self) -> bool:
        return "label" in self.net.controls

    def generator(self, seed: int | None = None) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(
            self.seed if seed is None else seed
        )

    def drawn(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The points and classes of which `generate image --seed` makes its pictures."""
        return self.engine.points(seeds, self.asked)

    def labels(self, count: int, known: Tensor | None) -> Tensor | None:
        """What a conditional model is told: the class that was asked for, or else the
        pictures' own. None for other models.
        """
        if not self.conditional:
            return None
        if self.asked is not None:
            return torch.full((count,), self.asked, device=self.device)
        if known is None:
            raise BadInput(
                say(
                    f"{self.model.name} wants to know the class of the pictures.",
                    f"{self.model.name} 需要知道图片的类别。",
                ),
                say(
                    f"Give --label, one of {', '.join(self.spec.classes[:12])}.",
                    f"请给出 --label，可选：{'、'.join(self.spec.classes[:12])}。",
                ),
            )
        return known

    def refuse_label(self) -> None:
        """Raise for a --label that would change nothing."""
        if self.asked is not None and not self.conditional:
            raise Unsupported(
                say(
                    f"{self.model.name} takes no label.",
                    f"{self.model.name} 不支持 label。",
                ),
                say("Leave --label out.", "请去掉 --label。"),
            )

    @cached_property
    def own(self) -> data.Pictures | None:
        """The prepared data that the model was trained on, where it is still here."""
        return data.of_bundle(self.model.weights.path)

    def pictures(self, path: Path | None, count: int) -> Given:
        """At most `count` pictures of a file or folder, or held-out ones of the model's
        own data, of the class asked for.
        """
        if path is not None:
            return self.read(path, count)
        if self.own is None:
            raise NotFound(
                say(
                    f"The pictures {self.model.name} was trained on are no longer here.",
                    f"{self.model.name} 的训练图片已不在本机。",
                ),
                say("Give some: --images FOLDER.", "请给出图片：--images 文件夹。"),
            )
        return self.of_class(
            self.own,
            "test" if self.own.count("test") else "validation",
            self.asked,
            count,
        )

    def of_class(
        self, own: data.Pictures, split: str, number: int | None, count: int
    ) -> Given:
        """Pictures of a split, drawn by the seed."""
        labels = own.labels(split)
        rows = (
            np.flatnonzero(labels == number)
            if number is not None
            else np.arange(len(labels))
        )
        rows = np.sort(
            np.random.Generator(np.random.PCG64(self.seed)).permutation(rows)[:count]
        )
        if not len(rows):
            raise NotFound(
                say(
                    f"The {split} pictures hold none of that class.",
                    f"{split} 图片中没有该类别。",
                ),
                say("Give --images.", "请给出 --images。"),
            )
        pixels = from_planes(torch.from_numpy(own.pixels(split)[rows]))
        names = (
            [self.spec.classes[label] for label in labels[rows]]
            if self.spec.classes
            else [""] * len(rows)
        )
        return Given(
            pixels.to(self.device),
            names,
            torch.from_numpy(labels[rows]).to(self.device)
            if self.spec.classes
            else None,
        )

    def read(self, path: Path, count: int) -> Given:
        """Picture files at the model's size, fitted as its training pictures were."""
        from PIL import Image as Pillow

        files = (
            [path]
            if not path.is_dir()
            else [item for item in visible(path) if item.suffix.lower() in ENDINGS]
        )
        if not files:
            raise NotFound(
                say(f"There are no pictures in {path}.", f"{path} 中没有图片。"),
                say("Name a folder with pictures.", "请给出含图片的文件夹。"),
            )
        read = [
            self.engine.planes(Pillow.fromarray(read_picture(file)), self.spec.channels)
            for file in files[:count]
        ]
        return Given(torch.cat(read), [file.stem for file in files[:count]])

    def examples(self, given: str, count: int) -> Given:
        """Pictures of a folder or file, or of a class of the model's own data by its
        name or number.
        """
        if Path(given).exists() and given not in self.spec.classes:
            return self.read(Path(given), count)
        if self.own is None or not self.spec.classes:
            raise NotFound(
                say(
                    f"There is no folder {given}, and no class of that name at hand.",
                    f"找不到文件夹 {given}，也没有同名类别可用。",
                ),
                nearest(given, self.spec.classes)
                or say("Name a folder with pictures.", "请给出含图片的文件夹。"),
            )
        return self.of_class(self.own, "train", self.engine.number(given), count)

    def points(
        self, given: Given, starts: int = STARTS, steps: int = STEPS
    ) -> tuple[Tensor, Tensor | None]:
        """The points of pictures: encoded, or sought by a model that cannot encode."""
        if isinstance(self.net, Encodes):
            label = self.labels(len(given.pixels), given.label)
            return encoded(self.net, given.pixels, label), label
        found = self.projected(given, starts, steps)
        return found.latent, found.label

    def projected(self, given: Given, starts: int, steps: int) -> Projection:
        from miaobi.data.progress import bar

        classes = len(self.spec.classes) if self.conditional else 0
        label = (
            None
            if not classes
            else self.labels(len(given.pixels), given.label)
            if self.asked is not None
            else given.label
        )
        with bar() as show:
            return project(
                self.net,
                given.pixels,
                label,
                classes,
                starts=starts,
                steps=steps,
                generator=self.generator(),
                progress=lambda share: show(say("seeking", "搜索中"), share, 1),
            )

    def publish(
        self,
        made: np.ndarray,
        summary: str,
        measured: Mapping[str, Any],
        **settings: Any,
    ) -> Experiment:
        """Write a sheet [H, W, 3] or an animation [T, H, W, 3] with the facts of the experiment."""
        asked = {
            name: recorded(value)
            for name, value in settings.items()
            if value is not None
        }
        facts = replace(
            self.model.facts(ImageRequest(seed=self.seed)),
            parameters={"experiment": f"latent {self.experiment}", **asked},
        )
        publish(
            Video(made, FRAMES_A_SECOND, facts)
            if made.ndim == 4
            else Image(made, facts),
            self.out,
        )
        return Experiment(self.model.name, self.experiment, self.out, summary, measured)


def shown(pictures: Tensor) -> np.ndarray:
    """Pictures [N, C, H, W] in [-1, 1] as a sheet takes them, uint8 [N, H, W, C]."""
    return to_pixels(pictures).numpy()
