"""The latent lab: what a picture model has learned, seen by walking about in its space.
Each experiment leaves one labelled sheet or animation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from miaobi.core.errors import BadInput
from miaobi.core.language import say

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from miaobi.verbs.latent.lab import Lab

MOST = 64
"""Pictures on one sheet."""


@dataclass(frozen=True)
class Experiment:
    """What an experiment found; the sheet or animation is at `out`."""

    model: str
    experiment: str
    out: Path
    summary: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.summary}\n{self.out}"


def reconstruct(
    *,
    model: str,
    images: Path | None = None,
    label: str | None = None,
    n: int = 8,
    seed: int = 0,
    out: Path | None = None,
) -> Experiment:
    """Pictures beside what the model makes of them after encoding: what gets lost is
    what the latent space has no room for.

    Args:
        model: A picture model that encodes (vae, vq), by its name in the store or its folder.
        images: A picture or a folder of pictures; held-out ones of the model's own data
            when left out.
        label: Only pictures of this class; for conditional models the class they are told.
        n: How many pictures.
        seed: Which of the held-out pictures.
        out: Where the sheet goes (.png, .jpg, .webp); runs/latent/NAME-reconstruct.png
            by default, replaced each time.
    """
    from miaobi.nn.latents import decoded, encoded, rms
    from miaobi.provenance.sheet import sheet
    from miaobi.verbs.latent.lab import lab, shown

    _check("n", n, 1, MOST)
    with lab(model, "reconstruct", label, seed, out) as bench:
        given = bench.pictures(images, n)
        told = bench.labels(len(given.pixels), given.label)
        again = decoded(bench.net, encoded(bench.net, given.pixels, told), told)
        errors = rms(given.pixels, again).tolist()
        mean = sum(errors) / len(errors)
        made = sheet(
            [*shown(given.pixels), *shown(again)],
            len(errors),
            [say("original", "原图"), say("reconstruction", "重建")],
            captions=[*given.names, *(f"{error:.3f}" for error in errors)],
        )
        return bench.publish(
            made,
            say(
                f"Mean error {mean:.4f} over {len(errors)} pictures (root mean square; black to white is 1).",
                f"{len(errors)} 张图片的平均误差为 {mean:.4f}（均方根，黑到白为 1）。",
            ),
            {"errors": errors, "mean_error": mean, "names": given.names},
            images=images,
            label=label,
            n=n,
        )


def interpolate(
    *,
    model: str,
    start: str = "1",
    end: str = "2",
    path: Literal["spherical", "linear"] = "spherical",
    frames: int = 16,
    label: str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Experiment:
    """The way between two pictures, or between the pictures of two seeds.

    Args:
        model: A picture model with a latent space (vae, vq, gan).
        start: A picture file, or a seed as of `generate image --seed`. A model that
            cannot encode searches for the picture first.
        end: Likewise.
        path: spherical keeps to the shell where draws of a normal distribution lie
            (White 2016, arXiv:1609.04468); linear cuts across.
        frames: Pictures on the way, both ends included.
        label: The class all along, for conditional models.
        seed: Of the search for pictures.
        out: A sheet (.png, .jpg) or an animation there and back (.gif, .webp);
            runs/latent/NAME-interpolate.png by default.
    """
    import torch

    from miaobi.nn.latents import PATHS, decoded
    from miaobi.provenance.sheet import animation, sheet
    from miaobi.verbs.latent.lab import lab, shown

    _check("frames", frames, 2, 500)
    with lab(model, "interpolate", label, seed, out, moving=True) as bench:
        bench.refuse_label()
        (a, told), (b, _) = (_end(bench, given) for given in (start, end))
        t = torch.linspace(0, 1, frames, device=bench.device)
        way = PATHS[path](a[0], b[0], t)
        pictures = shown(
            decoded(bench.net, way, None if told is None else told.expand(frames))
        )
        if bench.moves:
            made = animation([[picture] for picture in [*pictures, *pictures[-2:0:-1]]])
        else:
            made = sheet(
                pictures,
                min(frames, 8),
                captions=[f"{float(share):.2f}" for share in t],
            )
        lengths, angle = way.flatten(1).norm(dim=1).tolist(), _angle(a, b)
        return bench.publish(
            made,
            say(
                f"{frames} pictures from {start} to {end}, {path}; "
                f"{angle:.0f}° apart, lengths {lengths[0]:.2f} and "
                f"{lengths[-1]:.2f}.",
                f"从 {start} 到 {end} 共 {frames} 张（{path}）；夹角 "
                f"{angle:.0f}°，长度 {lengths[0]:.2f} 与 {lengths[-1]:.2f}。",
            ),
            {"angle": angle, "lengths": lengths},
            start=start,
            end=end,
            path=path,
            frames=frames,
            label=label,
        )


def arithmetic(
    *,
    model: str,
    with_: str,
    without: str,
    images: Path | None = None,
    n: int = 6,
    strengths: tuple[float, ...] = (0, 0.5, 1, 1.5, 2),
    examples: int = 200,
    label: str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Experiment:
    """Add to pictures what tells two groups of examples apart: smile = with - without
    (Larsen et al. 2016, arXiv:1512.09300).

    Args:
        model: A picture model that encodes (vae, vq).
        with_: A folder (or picture) of examples that have it, or a class of the model's
            own data by name.
        without: The same for examples that lack it.
        images: A picture or a folder to change; held-out pictures when left out, of the
            class `without` where that is one.
        n: How many pictures to change.
        strengths: How much of the difference is added; one column each.
        examples: At most so many of each group.
        label: The class of all these pictures, for conditional models.
        seed: Which examples and held-out pictures.
        out: A sheet (.png, .jpg) or an animation over the strengths (.gif, .webp);
            runs/latent/NAME-arithmetic.png by default.
    """
    import torch

    from miaobi.nn.latents import decoded, encoded
    from miaobi.verbs.latent.lab import lab

    _check("n", n, 1, MOST)
    _check("examples", examples, 1, 100_000)
    _check("strengths", len(strengths), 1, MOST)
    with lab(model, "arithmetic", label, seed, out, moving=True) as bench:
        groups = [bench.examples(name, examples) for name in (with_, without)]
        means = [
            encoded(
                bench.net, group.pixels, bench.labels(len(group.pixels), group.label)
            ).mean(0)
            for group in groups
        ]
        if images is None and without in bench.spec.classes and label is None:
            bench.asked = bench.engine.number(without)
        given = bench.pictures(images, n)
        bench.asked = None if label is None else bench.engine.number(label)
        told = bench.labels(len(given.pixels), given.label)
        points, direction = encoded(bench.net, given.pixels, told), means[0] - means[1]
        rows = [
            decoded(bench.net, points + strength * direction, told)
            for strength in strengths
        ]
        made = _grid(
            bench,
            torch.stack([given.pixels, *rows], 1),
            [_short(name) for name in given.names],
            [say("original", "原图"), *map(_signed, strengths)],
        )
        counts, length = (
            [len(group.pixels) for group in groups],
            float(direction.norm()),
        )
        return bench.publish(
            made,
            say(
                f"{with_} - {without}: from {counts[0]} and {counts[1]} "
                f"examples; the direction has length {length:.2f}.",
                f"{with_} - {without}：样例 {counts[0]} 与 {counts[1]} 个；方向长度 {length:.2f}。",
            ),
            {
                "examples": counts,
                "length": length,
                "direction": direction.flatten().tolist(),
            },
            with_=with_,
            without=without,
            images=images,
            strengths=strengths,
            label=label,
        )


def traverse(
    *,
    model: str,
    dims: tuple[int, ...] = (),
    rows: int = 8,
    steps: int = 7,
    span: float = 3.0,
    image: Path | None = None,
    label: str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Experiment:
    """What single latent dimensions do: each row changes one and leaves the others.

    Args:
        model: A picture model with a latent space (vae, vq, gan).
        dims: Numbers of dimensions; by default the most active: those whose encodings
            of held-out pictures vary most (active units,
            Burda et al. 2016, arXiv:1509.00519), or for a model that cannot encode
            those that change the picture most.
        rows: How many of the most active.
        steps: Values in each row.
        span: From minus this to plus this.
        image: Start from this picture; when left out from a held-out one of the model's
            own data, or, for a model that cannot encode,
            from a draw.
        label: The class, for conditional models.
        seed: Which held-out picture, or which draw.
        out: A sheet (.png, .jpg) or an animation over the values (.gif, .webp);
            runs/latent/NAME-traverse.png by default.
    """
    import torch

    from miaobi.nn.latents import decoded
    from miaobi.verbs.latent.lab import lab

    for name, value, low in (
        ("rows", rows, 1),
        ("steps", steps, 2),
        ("span", span, 1e-6),
    ):
        _check(name, value, low, MOST)
    with lab(model, "traverse", label, seed, out, moving=True) as bench:
        bench.refuse_label()
        point, told = _beginning(bench, image)
        active, how = _activity(bench)
        for dim in dims:
            _check("dims", dim, 0, len(active) - 1)
        chosen = list(dims) or active.argsort(descending=True)[:rows].tolist()
        values = torch.linspace(-span, span, steps, device=bench.device)
        walks = point.flatten(1).repeat(len(chosen) * steps, 1)
        for row, dim in enumerate(chosen):
            walks[row * steps : (row + 1) * steps, dim] = values
        pictures = decoded(
            bench.net,
            walks.view(-1, *point.shape[1:]),
            None if told is None else told.expand(len(walks)),
        )
        made = _grid(
            bench,
            pictures.unflatten(0, (len(chosen), steps)),
            [f"z{dim} ({float(active[dim]):.2g})" for dim in chosen],
            [_signed(float(value)) for value in values],
        )
        return bench.publish(
            made,
            say(
                f"Dimensions {', '.join(map(str, chosen))} of {len(active)}; in brackets the {how}.",
                f"共 {len(active)} 维，所示为 {'、'.join(map(str, chosen))}；括号内为{how}。",
            ),
            {"dims": chosen, "activity": active.tolist()},
            dims=dims or None,
            span=span,
            image=image,
            label=label,
        )


def project(
    *,
    model: str,
    images: Path,
    label: str | None = None,
    n: int = 6,
    starts: int = 8,
    steps: int = 300,
    seed: int = 0,
    out: Path | None = None,
) -> Experiment:
    """Search the latent space for given pictures: the nearest that the model can paint
    (Abdal et al. 2019, arXiv:1904.03189).

    Args:
        model: A picture model with a latent space (gan, vae, vq).
        images: A picture or a folder of pictures.
        label: The class, for conditional models; searched too when left out.
        n: At most so many pictures.
        starts: Points from which each picture is sought.
        steps: Steps of Adam.
        seed: Of the starting points.
        out: Where the sheet goes (.png, .jpg, .webp); runs/latent/NAME-project.png by
            default, replaced each time.
    """
    from miaobi.provenance.sheet import sheet
    from miaobi.verbs.latent.lab import lab, shown

    for name, value, high in (
        ("n", n, MOST),
        ("starts", starts, 256),
        ("steps", steps, 100_000),
    ):
        _check(name, value, 1, high)
    with lab(model, "project", label, seed, out) as bench:
        bench.refuse_label()
        given = bench.read(images, n)
        found = bench.projected(given, starts, steps)
        errors = found.error.tolist()
        classes = (
            []
            if found.label is None
            else [bench.spec.classes[number] for number in found.label.tolist()]
        )
        captions = [
            f"{error:.3f}{f' · {name}' if name else ''}"
            for error, name in zip(errors, classes or [""] * len(errors), strict=True)
        ]
        made = sheet(
            [*shown(given.pixels), *shown(found.pictures)],
            len(errors),
            [say("target", "目标"), say("found", "找到")],
            captions=[*given.names, *captions],
        )
        mean = sum(errors) / len(errors)
        return bench.publish(
            made,
            say(
                f"Mean error {mean:.4f} over {len(errors)} pictures (root mean square; black to white is 1).",
                f"{len(errors)} 张图片的平均误差为 {mean:.4f}（均方根，黑到白为 1）。",
            ),
            {
                "errors": errors,
                "mean_error": mean,
                "names": given.names,
                "classes": classes,
                "latents": found.latent.flatten(1).tolist(),
            },
            images=images,
            label=label,
            starts=starts,
            steps=steps,
        )


def truncate(
    *,
    model: str,
    n: int = 6,
    values: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1),
    label: str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Experiment:
    """The same seeds from the average picture to the full variety: truncation ψ (Karras
    et al. 2019, arXiv:1812.04948).

    Args:
        model: A picture model that can truncate (gan).
        n: How many seeds, one row each.
        values: ψ from 0 (all alike) to 1 (as trained), one column each.
        label: The class, for conditional models.
        seed: The first seed; the others follow it.
        out: A sheet (.png, .jpg) or an animation over ψ (.gif, .webp);
            runs/latent/NAME-truncate.png by default.
    """
    import torch

    from miaobi.verbs.latent.lab import lab

    _check("n", n, 1, MOST)
    _check("values", len(values), 1, MOST)
    for value in values:
        _check("values", value, 0, 1)
    with lab(model, "truncate", label, seed, out, moving=True) as bench:
        bench.refuse_label()
        seeds = range(seed, seed + n)
        with torch.no_grad():
            pictures = torch.stack(
                [
                    torch.cat([_truncated(bench, one, value) for value in values])
                    for one in seeds
                ]
            )
        made = _grid(
            bench,
            pictures,
            [say(f"seed {one}", f"种子 {one}") for one in seeds],
            [f"ψ = {value:g}" for value in values],
        )
        variety = {
            f"{value:g}": _variety(pictures[:, at]) for at, value in enumerate(values)
        }
        told = ", ".join(
            f"ψ {value}: {spread:.3f}" for value, spread in variety.items()
        )
        return bench.publish(
            made,
            say(
                f"Mean difference between the {n} pictures: {told}.",
                f"{n} 张图片之间的平均差异：{told}。",
            ),
            {"variety": variety},
            values=values,
            label=label,
        )


def _truncated(bench: Lab, seed: int, value: float) -> Tensor:
    """The picture of `generate image --seed` with this truncation, [1, C, H, W]."""
    import torch

    generator = bench.generator(seed)
    label = bench.labels(
        1,
        torch.randint(
            len(bench.spec.classes), (1,), generator=generator, device=bench.device
        )
        if bench.conditional and bench.asked is None
        else None,
    )
    painted: Tensor = bench.net.paint(
        1, label=label, truncation=value, generator=generator
    )
    return painted


def _variety(pictures: Tensor) -> float:
    """Mean root mean squared difference of all pairs, black to white being 1; 0 for one picture."""
    import torch

    flat = pictures.flatten(1) / 2
    pairs = torch.pdist(flat) / flat.shape[1] ** 0.5
    return float(pairs.mean()) if len(pairs) else 0.0


def _end(bench: Lab, given: str) -> tuple[Tensor, Tensor | None]:
    """A point [1, *latent_shape] and its class, of a picture file or a seed."""
    if given.isdecimal() and not Path(given).exists():
        return bench.drawn([int(given)])
    return bench.points(bench.read(Path(given), 1))


def _beginning(bench: Lab, image: Path | None) -> tuple[Tensor, Tensor | None]:
    """Where a traversal starts: a point [1, *latent_shape] and its class."""
    from miaobi.nn.image import Encodes

    if image is None and (bench.own is None or not isinstance(bench.net, Encodes)):
        return bench.drawn([bench.seed])
    return bench.points(bench.pictures(image, 1))


def _angle(a: Tensor, b: Tensor) -> float:
    """Between two points as seen from the origin, in degrees."""
    from torch.nn import functional as F

    return float(
        F.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1).arccos().rad2deg()
    )


def _activity(bench: Lab) -> tuple[Tensor, str]:
    """How active each latent dimension is, [D], and by what."""
    from miaobi.nn.image import Encodes
    from miaobi.nn.latents import activity, effect, encoded

    if isinstance(bench.net, Encodes) and bench.own is not None:
        split = "test" if bench.own.count("test") else "validation"
        given = bench.of_class(bench.own, split, bench.asked, 1000)
        points = encoded(
            bench.net, given.pixels, bench.labels(len(given.pixels), given.label)
        )
        return activity(points), say("variance of the encodings", "编码的方差")
    points, told = bench.drawn(range(bench.seed, bench.seed + 32))
    return effect(bench.net, points, told), say("change of the picture", "图片的变化")


def _grid(
    bench: Lab, pictures: Tensor, rows: list[str], columns: list[str]
) -> np.ndarray:
    """A sheet of [rows, columns, C, H, W]; for an animation its columns follow each
    other, there and back.
    """
    from miaobi.provenance.sheet import animation, sheet
    from miaobi.verbs.latent.lab import shown

    if not bench.moves:
        return sheet(
            shown(pictures.flatten(0, 1)), rows_labels=rows, columns_labels=columns
        )
    order = [*range(len(columns)), *range(len(columns) - 2, 0, -1)]
    return animation(
        [shown(pictures[:, at]) for at in order],
        captions=rows,
        titles=[columns[at] for at in order],
    )


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if abs(value) > 1e-6 else "0"


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise BadInput(
            say(
                f"{name} is {value:g}, outside {low:g} to {high:g}.",
                f"{name} 为 {value:g}，应在 {low:g} 与 {high:g} 之间。",
            ),
            say("Give a value within the range.", "请给出范围内的值。"),
        )
