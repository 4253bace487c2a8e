"""What the experiments of `miaobi latent` share: the opened model, pictures to work on,
points of the latent space, and the labelled sheet they write.
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
from miaobi.data.image import prepared
from miaobi.data.image.files import ENDINGS, read_picture
from miaobi.data.image.listing import visible
from miaobi.data.progress import bar
from miaobi.engines.load import load
from miaobi.engines.model import Model
from miaobi.models.weights import find
from miaobi.nn.image import Conditions, Encodes, HasLatents, from_planes, to_pixels
from miaobi.nn.latents import Projection, activity, effect, encoded, project
from miaobi.provenance.publish import check_ending, is_folder, publish
from miaobi.provenance.sheet import animation, sheet
from miaobi.verbs.latent.experiment import EXPERIMENTS, Experiment

if TYPE_CHECKING:
    from miaobi.engines.families.engine import PicturesEngine

FRAMES_PER_SECOND = 10
STARTS = 8
"""Points from which a picture is searched, in experiments about something else."""
STEPS = 300
"""Of that search."""
ACTIVITY_PICTURES = 1000
"""Held-out pictures from which the activity of dimensions is measured."""
ACTIVITY_DRAWS = 32
"""Draws from which it is measured where the model cannot encode."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures to work on."""

    pixels: Tensor
    """[N, C, H, W] in [-1, 1]."""
    names: list[str]
    label: Tensor | None = None
    """Class numbers [N]; None where the classes are unknown."""

    def __len__(self) -> int:
        return len(self.names)


def supports(net: Any, experiment: str) -> bool:
    """Return whether a network has what an experiment needs."""
    if experiment == "truncate":
        return "truncation" in net.controls
    if not isinstance(net, HasLatents):
        return False
    needs_encoder = experiment in ("reconstruct", "arithmetic")
    return isinstance(net, Encodes) or not needs_encoder


@contextmanager
def open_lab(
    model: str,
    experiment: str,
    label: str | None,
    seed: int,
    out: Path | None,
    animated: bool = False,
) -> Iterator[Lab]:
    """Open a model for an experiment.

    Args:
        model: a name in the store, or a folder
        experiment: one of EXPERIMENTS
        label: the class that was named, or None
        seed: of every draw
        out: the file to write; None for the default
        animated: whether the experiment can write an animation

    Raises:
        BadInput: `out` is no picture file
        Unsupported: the model cannot do it; the remedy lists what it can do
    """
    if out is not None:
        _check_out(out, experiment, animated)
    weights = find(model)
    if (weights.format, weights.modality) != ("bundle", "image"):
        raise Unsupported(
            say(
                f"{weights.name} is no picture model that was trained here.",
                f"{weights.name} 不是在此训练的图像模型。",
            ),
            say(
                "Train one: miaobi train recipes/image/digits_vae.yaml. A model of sentences takes --prompt and --to.",
                "可训练一个：miaobi train recipes/image/digits_vae.yaml。句子模型请用 --prompt 与 --to。",
            ),
        )
    with load(weights) as opened:
        lab = Lab(opened, experiment, seed, out, animated)
        if not supports(lab.net, experiment):
            raise _unsupported(lab)
        lab.choose_class(label)
        yield lab


def _check_out(out: Path, experiment: str, animated: bool) -> None:
    if is_folder(out, Image):
        raise BadInput(
            say(f"--out {out} names no picture file.", f"--out {out} 不是图片文件。"),
            say("End it in .png, .jpg or .webp.", "请以 .png、.jpg 或 .webp 结尾。"),
        )
    check_ending(out, Image)
    if out.suffix.lower() == ".gif" and not animated:
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


def _unsupported(lab: Lab) -> Unsupported:
    supported = [f"latent {name}" for name in EXPERIMENTS if supports(lab.net, name)]
    supported = supported or ["generate image"]
    name, family = lab.model.name, lab.model.weights.family
    return Unsupported(
        say(
            f"{name} ({family}) cannot {lab.experiment}.",
            f"{name}（{family}）不支持 {lab.experiment}。",
        ),
        say(
            f"It can: {', '.join(supported)}.",
            f"它支持：{'、'.join(supported)}。",
        ),
    )


class Lab:
    """An opened model with what an experiment asks of it."""

    def __init__(
        self,
        model: Model,
        experiment: str,
        seed: int,
        out: Path | None,
        animated: bool,
    ) -> None:
        self.model = model
        self.experiment = experiment
        self.seed = seed
        self.engine = cast("PicturesEngine", model.engine)
        self.net: Any = self.engine.net
        self.device = self.engine.device
        self.spec = self.net.spec
        default = f"{Path(model.name).name}-{experiment}.png"
        self.out = out or Path("runs") / "latent" / default
        self.is_animation = animated and self.out.suffix.lower() in (".gif", ".webp")
        self.class_number: int | None = None
        """Of the class that --label names."""

    @property
    def is_conditional(self) -> bool:
        return "label" in self.net.controls

    def choose_class(self, label: str | None) -> None:
        """Choose a class by its name or number; None for no class."""
        self.class_number = None if label is None else self.engine.number(label)

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def drawn(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Return the points and classes from which `generate image --seed` paints."""
        return self.engine.points(seeds, self.class_number)

    def labels(self, count: int, own: Tensor | None) -> Tensor | None:
        """Return the classes [count] that a conditional model is given; None for others.

        Args:
            count: number of pictures
            own: the pictures' own classes, used where --label names none
        """
        if not self.is_conditional:
            return None
        if self.class_number is not None:
            return torch.full((count,), self.class_number, device=self.device)
        if own is None:
            raise BadInput(
                say(
                    f"{self.model.name} needs the class of the pictures.",
                    f"{self.model.name} 需要知道图片的类别。",
                ),
                say(
                    f"Set --label, one of {', '.join(self.spec.classes[:12])}.",
                    f"请给出 --label，可选：{'、'.join(self.spec.classes[:12])}。",
                ),
            )
        return own

    def labels_of(self, pictures: PictureSet) -> Tensor | None:
        """Return the classes that a conditional model is given with these pictures."""
        return self.labels(len(pictures), pictures.label)

    def refuse_label(self) -> None:
        """Raise Unsupported for a --label that would change nothing."""
        if self.class_number is not None and not self.is_conditional:
            raise Unsupported(
                say(
                    f"{self.model.name} takes no label.",
                    f"{self.model.name} 不支持 label。",
                ),
                say("Leave --label out.", "请去掉 --label。"),
            )

    # Pictures.

    @cached_property
    def own(self) -> prepared.Pictures | None:
        """The prepared data that the model was trained on, where it is still here."""
        return prepared.of_bundle(self.model.weights.manifest)

    def pictures(self, path: Path | None, count: int) -> PictureSet:
        """Return at most `count` pictures of a file or folder, or held-out ones.

        Held-out pictures are of the model's own data, and of the class of --label.
        """
        if path is not None:
            return self.read(path, count)
        if self.own is None:
            raise NotFound(
                say(
                    f"The pictures {self.model.name} was trained on are no longer here.",
                    f"{self.model.name} 的训练图片已不在本机。",
                ),
                say("Name some: --images FOLDER.", "请给出图片：--images 文件夹。"),
            )
        return self.of_class(
            self.own, held_out_split(self.own), self.class_number, count
        )

    def of_class(
        self, own: prepared.Pictures, split: str, number: int | None, count: int
    ) -> PictureSet:
        """Return at most `count` pictures of a split, drawn by the seed.

        Args:
            own: the model's own data
            split: train, validation or test
            number: of the class; None for all classes
            count: how many at most
        """
        labels = own.labels(split)
        rows = np.arange(len(labels))
        if number is not None:
            rows = np.flatnonzero(labels == number)
        shuffled = np.random.Generator(np.random.PCG64(self.seed)).permutation(rows)
        rows = np.sort(shuffled[:count])
        if not len(rows):
            raise NotFound(
                say(
                    f"The {split} pictures hold none of that class.",
                    f"{split} 图片中没有该类别。",
                ),
                say("Set --images.", "请给出 --images。"),
            )
        planes = torch.from_numpy(own.pixels(split)[rows])
        pixels = from_planes(planes).to(self.device)
        if not self.spec.classes:
            return PictureSet(pixels, [""] * len(rows))
        names = [self.spec.classes[label] for label in labels[rows]]
        return PictureSet(pixels, names, torch.from_numpy(labels[rows]).to(self.device))

    def read(self, path: Path, count: int) -> PictureSet:
        """Return picture files at the model's size, fitted as its training pictures were."""
        from PIL import Image as Pillow

        files = [path]
        if path.is_dir():
            files = [item for item in visible(path) if item.suffix.lower() in ENDINGS]
        if not files:
            raise NotFound(
                say(f"There are no pictures in {path}.", f"{path} 中没有图片。"),
                say("Name a folder with pictures.", "请给出含图片的文件夹。"),
            )
        files = files[:count]
        planes = [
            self.engine.planes(Pillow.fromarray(read_picture(file)), self.spec.channels)
            for file in files
        ]
        return PictureSet(torch.cat(planes), [file.stem for file in files])

    def examples(self, name: str, count: int) -> PictureSet:
        """Return pictures of a folder or file, or of a class of the model's own data.

        Args:
            name: a path, or a class by its name or number
            count: how many at most
        """
        if Path(name).exists() and name not in self.spec.classes:
            return self.read(Path(name), count)
        if self.own is None or not self.spec.classes:
            raise NotFound(
                say(
                    f"There is no folder {name}, and no class of that name.",
                    f"找不到文件夹 {name}，也没有同名类别可用。",
                ),
                nearest(name, self.spec.classes)
                or say("Name a folder with pictures.", "请给出含图片的文件夹。"),
            )
        return self.of_class(self.own, "train", self.engine.number(name), count)

    # Points.

    def points(self, pictures: PictureSet) -> tuple[Tensor, Tensor | None]:
        """Return the points of pictures and their classes.

        A model that encodes encodes them; another searches for them.
        """
        if isinstance(self.net, Encodes):
            label = self.labels_of(pictures)
            return encoded(self.net, pictures.pixels, label), label
        projection = self.projected(pictures, STARTS, STEPS)
        return projection.latent, projection.label

    def projected(self, pictures: PictureSet, starts: int, steps: int) -> Projection:
        """Search the latent space for pictures (see nn/latents.py)."""
        classes = len(self.spec.classes) if self.is_conditional else 0
        label = None
        if classes:
            label = pictures.label
            if self.class_number is not None:
                label = self.labels_of(pictures)
        with bar() as show:
            return project(
                self.net,
                pictures.pixels,
                label,
                classes,
                starts=starts,
                steps=steps,
                generator=self.generator(self.seed),
                progress=lambda share: show(say("searching", "搜索中"), share, 1),
            )

    def end_point(self, end: str) -> tuple[Tensor, Tensor | None]:
        """Return the point [1, *latent_shape] of a picture file or a seed, and its class."""
        if end.isdecimal() and not Path(end).exists():
            return self.drawn([int(end)])
        return self.points(self.read(Path(end), 1))

    def start_point(self, image: Path | None) -> tuple[Tensor, Tensor | None]:
        """Return the point [1, *latent_shape] where a traversal starts, and its class.

        It is of the picture, else of a held-out picture, else a draw.
        """
        has_pictures = self.own is not None and isinstance(self.net, Encodes)
        if image is None and not has_pictures:
            return self.drawn([self.seed])
        return self.points(self.pictures(image, 1))

    def activity(self) -> tuple[Tensor, str]:
        """Return how active each latent dimension is [D], and how that was measured."""
        if isinstance(self.net, Encodes) and self.own is not None:
            split = held_out_split(self.own)
            pictures = self.of_class(
                self.own, split, self.class_number, ACTIVITY_PICTURES
            )
            points = encoded(self.net, pictures.pixels, self.labels_of(pictures))
            return activity(points), say("variance of the encodings", "编码的方差")
        points, label = self.drawn(range(self.seed, self.seed + ACTIVITY_DRAWS))
        change = effect(self.net, points, label)
        return change, say("change of the picture", "图片的变化")

    def truncated(self, seed: int, truncation: float) -> Tensor:
        """Return the picture [1, C, H, W] of `generate image --seed --truncation`."""
        generator = self.generator(seed)
        own = None
        if self.is_conditional and self.class_number is None:
            own = torch.randint(
                len(self.spec.classes), (1,), generator=generator, device=self.device
            )
        picture: Tensor = self.net.paint(
            1, Conditions(self.labels(1, own), truncation=truncation), generator
        )
        return picture

    # Results.

    def grid(self, pictures: Tensor, rows: list[str], columns: list[str]) -> np.ndarray:
        """Return a sheet of pictures [rows, columns, C, H, W] with its labels.

        In an animation the columns follow each other, there and back.
        """
        if not self.is_animation:
            return sheet(
                sheet_pixels(pictures.flatten(0, 1)),
                rows_labels=rows,
                columns_labels=columns,
            )
        order = there_and_back(len(columns))
        return animation(
            [sheet_pixels(pictures[:, column]) for column in order],
            captions=rows,
            titles=[columns[column] for column in order],
        )

    def publish(
        self,
        pixels: np.ndarray,
        summary: str,
        measured: Mapping[str, Any],
        **settings: Any,
    ) -> Experiment:
        """Write a sheet or an animation, labelled with the facts of the experiment.

        Args:
            pixels: uint8 [H, W, 3], or [T, H, W, 3] for an animation
            summary: a sentence for people
            measured: the results, JSON-able
            settings: of the experiment, recorded in the file
        """
        recorded_settings = {
            name: recorded(value)
            for name, value in settings.items()
            if value is not None
        }
        parameters = {"experiment": f"latent {self.experiment}", **recorded_settings}
        facts = replace(
            self.model.facts(ImageRequest(seed=self.seed)), parameters=parameters
        )
        if pixels.ndim == 4:
            publish(Video(pixels, FRAMES_PER_SECOND, facts), self.out)
        else:
            publish(Image(pixels, facts), self.out)
        return Experiment(self.model.name, self.experiment, self.out, summary, measured)


def held_out_split(own: prepared.Pictures) -> str:
    """Return "test", or "validation" where there is no test split."""
    return "test" if own.count("test") else "validation"


def there_and_back(count: int) -> list[int]:
    """Return the frames 0 … count - 1 … 1 of an animation that repeats without a stop."""
    return [*range(count), *range(count - 2, 0, -1)]


def sheet_pixels(pictures: Tensor) -> np.ndarray:
    """Return pictures [N, C, H, W] in [-1, 1] as uint8 [N, H, W, C]."""
    return to_pixels(pictures).numpy()
