"""Experiments with the latent space of a picture model, or of a model of sentences. Each
writes one labelled sheet, animation or text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from miaobi.core.config import checked
from miaobi.core.errors import BadInput
from miaobi.core.language import in_each, say
from miaobi.verbs.latent.experiment import Experiment

if TYPE_CHECKING:
    from torch import Tensor

MAX_PICTURES = 64
"""In a row or a column of a sheet."""
MAX_FRAMES = 500
MAX_EXAMPLES = 100_000
MAX_STARTS = 256
MAX_STEPS = 100_000
SHEET_COLUMNS = 8
NAME_CHARACTERS = 16
"""Longest name in a sheet's margin."""


@checked
def reconstruct(
    *,
    model: str,
    images: Path | None = None,
    prompt: str | None = None,
    label: str | None = None,
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 8,
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0,
    out: Path | None = None,
) -> Experiment:
    """Encode pictures and decode them again: the difference is what the latent space does not hold.

    Args:
        model: A model that encodes (vae, vq; text_vae), by its name in the store or its folder.
        prompt: For a model of sentences: the sentence, instead of pictures.
        images: A picture or a folder of pictures; held-out pictures of the model's own
            data by default.
        label: Only pictures of this class; for conditional models also the class to condition on.
        n: Number of pictures.
        seed: Seed of the choice of held-out pictures.
        out: File of the sheet (.png, .jpg, .webp); runs/latent/NAME-reconstruct.png
            by default, replaced each time.
    """
    if prompt is not None:
        from miaobi.verbs.latent import sentences

        return sentences.reconstruct(model, prompt, out)

    from miaobi.nn.latents import decoded, encoded, rms
    from miaobi.provenance.sheet import sheet
    from miaobi.verbs.latent.lab import open_lab, sheet_pixels

    with open_lab(model, "reconstruct", label, seed, out) as lab:
        pictures = lab.pictures(images, n)
        classes = lab.labels_of(pictures)
        latent = encoded(lab.net, pictures.pixels, classes)
        reconstructions = decoded(lab.net, latent, classes)
        errors = rms(pictures.pixels, reconstructions).tolist()
        pixels = sheet(
            [*sheet_pixels(pictures.pixels), *sheet_pixels(reconstructions)],
            len(errors),
            [say("original", "原图"), say("reconstruction", "重建")],
            captions=[*pictures.names, *(f"{error:.3f}" for error in errors)],
        )
        mean = sum(errors) / len(errors)
        return lab.publish(
            pixels,
            _mean_error(mean, len(errors)),
            {"errors": errors, "mean_error": mean, "names": pictures.names},
            images=images,
            label=label,
            n=n,
        )


@checked
def interpolate(
    *,
    model: str,
    start: str = "1",
    end: str = "2",
    prompt: str | None = None,
    to: str | None = None,
    path: Literal["spherical", "linear"] = "spherical",
    frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 16,
    label: str | None = None,
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0,
    out: Path | None = None,
) -> Experiment:
    """Interpolate between two pictures, between the pictures of two seeds, or between
    two sentences.

    Args:
        model: A model with a latent space (vae, vq, gan; text_vae for sentences).
        start: A picture file, or a seed as of `generate image --seed`. A model that
            cannot encode searches for the picture first.
        end: The same for the other end.
        prompt: For a model of sentences: the sentence to start from.
        to: For a model of sentences: the sentence to end at.
        path: spherical keeps to the shell where draws of a normal distribution lie
            (White 2016, arXiv:1609.04468); linear is the straight line.
        frames: Number of pictures or sentences, both ends included.
        label: The class of all of them, for conditional models.
        seed: Seed of the search for pictures.
        out: A sheet (.png, .jpg) or an animation there and back (.gif, .webp);
            runs/latent/NAME-interpolate.png by default. A text (.txt, .md, .json) for
            sentences.
    """
    if prompt is not None or to is not None:
        if prompt is None or to is None:
            raise BadInput(
                say(
                    "prompt and to go together: two sentences.",
                    "prompt 与 to 须同时给出：两个句子。",
                ),
                say(
                    'Give both: --prompt "..." --to "...".',
                    '请同时给出：--prompt "..." --to "..."。',
                ),
            )
        from miaobi.verbs.latent import sentences

        return sentences.interpolate(model, prompt, to, path, frames, out)

    import torch

    from miaobi.nn.latents import PATHS, decoded
    from miaobi.provenance.sheet import animation, sheet
    from miaobi.verbs.latent.lab import open_lab, sheet_pixels, there_and_back

    with open_lab(model, "interpolate", label, seed, out, animated=True) as lab:
        lab.refuse_label()
        a, classes = lab.end_point(start)
        b, _ = lab.end_point(end)
        t = torch.linspace(0, 1, frames, device=lab.device)
        points = PATHS[path](a[0], b[0], t)
        if classes is not None:
            classes = classes.expand(frames)
        pictures = sheet_pixels(decoded(lab.net, points, classes))
        if lab.is_animation:
            pixels = animation([[pictures[at]] for at in there_and_back(frames)])
        else:
            captions = [f"{float(share):.2f}" for share in t]
            pixels = sheet(pictures, min(frames, SHEET_COLUMNS), captions=captions)
        lengths = points.flatten(1).norm(dim=1).tolist()
        angle = _angle(a, b)
        first, last = f"{lengths[0]:.2f}", f"{lengths[-1]:.2f}"
        return lab.publish(
            pixels,
            say(
                f"{frames} pictures from {start} to {end}, {path}; {angle:.0f}° apart, lengths {first} and {last}.",
                f"从 {start} 到 {end} 共 {frames} 张（{path}）；夹角 {angle:.0f}°，长度 {first} 与 {last}。",
            ),
            {"angle": angle, "lengths": lengths},
            start=start,
            end=end,
            path=path,
            frames=frames,
            label=label,
        )


@checked
def arithmetic(
    *,
    model: str,
    with_: str,
    without: str,
    images: Path | None = None,
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 6,
    strengths: Annotated[
        tuple[float, ...], Field(min_length=1, max_length=MAX_PICTURES)
    ] = (0, 0.5, 1, 1.5, 2),
    examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES)] = 200,
    label: str | None = None,
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0,
    out: Path | None = None,
) -> Experiment:
    """Add the difference of two groups of examples to pictures: smile = with - without
    (Larsen et al. 2016, arXiv:1512.09300).

    Args:
        model: A picture model that encodes (vae, vq).
        with_: A folder (or picture) of examples that have it, or a class of the model's
            own data by name.
        without: The same for examples that lack it.
        images: A picture or a folder to change; held-out pictures by default, of the
            class `without` where that is a class.
        n: Number of pictures to change.
        strengths: How much of the difference is added; one column each.
        examples: At most so many examples of each group.
        label: The class of all these pictures, for conditional models.
        seed: Seed of the choice of examples and held-out pictures.
        out: A sheet (.png, .jpg) or an animation over the strengths (.gif, .webp);
            runs/latent/NAME-arithmetic.png by default.
    """
    import torch

    from miaobi.nn.latents import decoded, encoded
    from miaobi.verbs.latent.lab import open_lab

    with open_lab(model, "arithmetic", label, seed, out, animated=True) as lab:
        groups = [lab.examples(name, examples) for name in (with_, without)]
        means = [
            encoded(lab.net, group.pixels, lab.labels_of(group)).mean(0)
            for group in groups
        ]
        if images is None and without in lab.spec.classes and label is None:
            lab.choose_class(without)
        pictures = lab.pictures(images, n)
        lab.choose_class(label)
        classes = lab.labels_of(pictures)
        points = encoded(lab.net, pictures.pixels, classes)
        direction = means[0] - means[1]
        columns = [pictures.pixels]
        for strength in strengths:
            columns.append(decoded(lab.net, points + strength * direction, classes))
        pixels = lab.grid(
            torch.stack(columns, 1),
            [_shortened(name) for name in pictures.names],
            [say("original", "原图"), *map(_signed, strengths)],
        )
        counts = [len(group) for group in groups]
        length = float(direction.norm())
        return lab.publish(
            pixels,
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


@checked
def traverse(
    *,
    model: str,
    dims: tuple[Annotated[int, Field(ge=0)], ...] = (),
    rows: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 8,
    steps: Annotated[int, Field(ge=2, le=MAX_PICTURES)] = 7,
    span: Annotated[float, Field(gt=0, le=MAX_PICTURES)] = 3.0,
    image: Path | None = None,
    label: str | None = None,
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0,
    out: Path | None = None,
) -> Experiment:
    """Change single latent dimensions: each row changes one and leaves the others.

    Args:
        model: A picture model with a latent space (vae, vq, gan).
        dims: Numbers of dimensions; by default the most active: those whose encodings
            of held-out pictures vary most (active units,
            Burda et al. 2016, arXiv:1509.00519), or for a model that cannot encode
            those that change the picture most.
        rows: How many of the most active.
        steps: Number of values in each row.
        span: Values go from minus this to plus this.
        image: Start from this picture; by default from a held-out picture of the model's
            own data, or, for a model that cannot encode, from a draw.
        label: The class, for conditional models.
        seed: Seed of the held-out picture or of the draw.
        out: A sheet (.png, .jpg) or an animation over the values (.gif, .webp);
            runs/latent/NAME-traverse.png by default.
    """
    import torch

    from miaobi.nn.latents import decoded
    from miaobi.verbs.latent.lab import open_lab

    with open_lab(model, "traverse", label, seed, out, animated=True) as lab:
        lab.refuse_label()
        point, classes = lab.start_point(image)
        activity, measure = lab.activity()
        for dim in dims:
            _check("dims", dim, 0, len(activity) - 1)
        chosen = list(dims) or activity.argsort(descending=True)[:rows].tolist()
        values = torch.linspace(-span, span, steps, device=lab.device)
        points = point.flatten(1).repeat(len(chosen) * steps, 1)
        for row, dim in enumerate(chosen):
            points[row * steps : (row + 1) * steps, dim] = values
        if classes is not None:
            classes = classes.expand(len(points))
        pictures = decoded(lab.net, points.view(-1, *point.shape[1:]), classes)
        pixels = lab.grid(
            pictures.view(len(chosen), steps, *pictures.shape[1:]),
            [f"z{dim} ({float(activity[dim]):.2g})" for dim in chosen],
            [_signed(float(value)) for value in values],
        )
        return lab.publish(
            pixels,
            in_each(
                lambda: say(
                    f"Dimensions {', '.join(map(str, chosen))} of {len(activity)}; in brackets the {measure}.",
                    f"共 {len(activity)} 维，所示为 {'、'.join(map(str, chosen))}；括号内为{measure}。",
                )
            ),
            {"dims": chosen, "activity": activity.tolist()},
            dims=dims or None,
            span=span,
            image=image,
            label=label,
        )


@checked
def project(
    *,
    model: str,
    images: Path,
    label: str | None = None,
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 6,
    starts: Annotated[int, Field(ge=1, le=MAX_STARTS)] = 8,
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 300,
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0,
    out: Path | None = None,
) -> Experiment:
    """Search the latent space for pictures: the nearest ones that the model can generate
    (Abdal et al. 2019, arXiv:1904.03189).

    Args:
        model: A picture model with a latent space (gan, vae, vq).
        images: A picture or a folder of pictures.
        label: The class, for conditional models; searched too when left out.
        n: At most so many pictures.
        starts: Number of points from which each picture is searched.
        steps: Steps of Adam.
        seed: Seed of the starting points.
        out: File of the sheet (.png, .jpg, .webp); runs/latent/NAME-project.png by
            default, replaced each time.
    """
    from miaobi.provenance.sheet import sheet
    from miaobi.verbs.latent.lab import open_lab, sheet_pixels

    with open_lab(model, "project", label, seed, out) as lab:
        lab.refuse_label()
        pictures = lab.read(images, n)
        projection = lab.projected(pictures, starts, steps)
        errors = projection.error.tolist()
        captions = [f"{error:.3f}" for error in errors]
        classes = list[str]()
        if projection.label is not None:
            classes = [lab.spec.classes[number] for number in projection.label.tolist()]
            captions = [
                f"{caption} · {name}" if name else caption
                for caption, name in zip(captions, classes, strict=True)
            ]
        pixels = sheet(
            [*sheet_pixels(pictures.pixels), *sheet_pixels(projection.pictures)],
            len(errors),
            [say("target", "目标"), say("nearest", "最接近")],
            captions=[*pictures.names, *captions],
        )
        mean = sum(errors) / len(errors)
        return lab.publish(
            pixels,
            _mean_error(mean, len(errors)),
            {
                "errors": errors,
                "mean_error": mean,
                "names": pictures.names,
                "classes": classes,
                "latents": projection.latent.flatten(1).tolist(),
            },
            images=images,
            label=label,
            starts=starts,
            steps=steps,
        )


@checked
def truncate(
    *,
    model: str,
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 6,
    values: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...],
        Field(min_length=1, max_length=MAX_PICTURES),
    ] = (0, 0.25, 0.5, 0.75, 1),
    label: str | None = None,
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0,
    out: Path | None = None,
) -> Experiment:
    """Generate the same seeds with different truncation ψ, from the average picture to
    the full variety (Karras et al. 2019, arXiv:1812.04948).

    Args:
        model: A picture model that can truncate (gan).
        n: Number of seeds, one row each.
        values: ψ from 0 (all alike) to 1 (as trained), one column each.
        label: The class, for conditional models.
        seed: The first seed; the others follow it.
        out: A sheet (.png, .jpg) or an animation over ψ (.gif, .webp);
            runs/latent/NAME-truncate.png by default.
    """
    import torch

    from miaobi.verbs.latent.lab import open_lab

    with open_lab(model, "truncate", label, seed, out, animated=True) as lab:
        lab.refuse_label()
        seeds = range(seed, seed + n)
        rows = list[torch.Tensor]()
        with torch.no_grad():
            for row_seed in seeds:
                row = [lab.truncated(row_seed, value) for value in values]
                rows.append(torch.cat(row))
        pictures = torch.stack(rows)
        pixels = lab.grid(
            pictures,
            [say(f"seed {number}", f"种子 {number}") for number in seeds],
            [f"ψ = {value:g}" for value in values],
        )
        variety = {
            f"{value:g}": _variety(pictures[:, column])
            for column, value in enumerate(values)
        }
        listed = ", ".join(
            f"ψ {value}: {spread:.3f}" for value, spread in variety.items()
        )
        return lab.publish(
            pixels,
            say(
                f"Mean difference between the {n} pictures: {listed}.",
                f"{n} 张图片之间的平均差异：{listed}。",
            ),
            {"variety": variety},
            values=values,
            label=label,
        )


def _variety(pictures: Tensor) -> float:
    """Return the mean of the root mean squared differences of all pairs.

    Black to white is 1; the variety of one picture is 0.
    """
    import torch

    flat = pictures.flatten(1) / 2
    pairs = torch.pdist(flat) / flat.shape[1] ** 0.5
    return float(pairs.mean()) if len(pairs) else 0.0


def _angle(a: Tensor, b: Tensor) -> float:
    """Return the angle of two points [1, *latent_shape] at the origin, in degrees."""
    from torch.nn import functional as F

    cosine = F.cosine_similarity(a.flatten(1), b.flatten(1))
    return float(cosine.clamp(-1, 1).arccos().rad2deg())


def _mean_error(mean: float, count: int) -> str:
    return say(
        f"Mean error {mean:.4f} over {count} pictures (root mean square; black to white is 1).",
        f"{count} 张图片的平均误差为 {mean:.4f}（均方根，黑到白为 1）。",
    )


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if abs(value) > 1e-6 else "0"


def _shortened(name: str) -> str:
    if len(name) <= NAME_CHARACTERS:
        return name
    return name[: NAME_CHARACTERS - 1] + "…"


def _check(name: str, value: float, low: float, high: float) -> None:
    """Raise BadInput for a value outside low to high."""
    if not low <= value <= high:
        raise BadInput(
            say(
                f"{name} is {value:g}, outside {low:g} to {high:g}.",
                f"{name} 为 {value:g}，应在 {low:g} 与 {high:g} 之间。",
            ),
            say("Use a value within the range.", "请给出范围内的值。"),
        )
