"""The latent lab on models whose answers are encoded, and as a person uses it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tests.verbs import toy_pictures
from tests.verbs.toy_pictures import LATENT, WEIGHT, toy_bundle, toy_data

from miaobi import cli
from miaobi.core.errors import BadInput, MiaobiError, NotFound, Unsupported
from miaobi.provenance.image import read_record
from miaobi.verbs import latent


@pytest.fixture(scope="module", autouse=True)
def family() -> object:
    with pytest.MonkeyPatch.context() as patch:
        toy_pictures.register(patch)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Models by kind, their data's folder, and the vector that tells its two classes apart."""
    root = tmp_path_factory.mktemp("latent")
    own, difference = toy_data(root / "pictures", root / "cache")
    return {
        "difference": difference,
        "pictures": root / "pictures",
        **{
            kind: str(toy_bundle(root / kind, kind, own))
            for kind in ("encodes", "draws", "paints")
        },
        "conditional": str(
            toy_bundle(root / "conditional", "encodes", own, conditional=True)
        ),
        "seeker": str(toy_bundle(root / "seeker", "draws", own, conditional=True)),
        "orphan": str(toy_bundle(root / "orphan", "encodes")),
    }


def size(path: Path) -> tuple[int, int]:
    with Pillow.open(path) as picture:
        return picture.size


def test_reconstruct_shows_held_out_pictures_with_their_errors(
    models: dict[str, str], tmp_path: Path
) -> None:
    result = latent.reconstruct(model=models["encodes"], n=5, out=tmp_path / "a.png")
    errors = result.measured["errors"]
    assert len(errors) == 5
    assert max(errors) < 0.01, "rounding to 256 values is all that is lost"
    assert result.measured["mean_error"] == pytest.approx(sum(errors) / 5)
    assert set(result.measured["names"]) <= {"plain", "marked"}
    record = read_record(tmp_path / "a.png")
    assert record["parameters"]["experiment"] == "latent reconstruct"
    assert "AI-generated" in record["notice"]
    again = latent.reconstruct(
        model=models["encodes"], n=5, seed=0, out=tmp_path / "b.png"
    )
    assert again.measured == result.measured
    marked = latent.reconstruct(
        model=models["encodes"], n=5, label="marked", out=tmp_path / "c.png"
    )
    assert set(marked.measured["names"]) == {"marked"}


def test_reconstruct_takes_files_of_any_size(
    models: dict[str, str], tmp_path: Path
) -> None:
    Pillow.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    result = latent.reconstruct(
        model=models["orphan"], images=tmp_path / "white.png", out=tmp_path / "a.webp"
    )
    span = torch.linalg.pinv(WEIGHT) @ WEIGHT
    lost = torch.ones(64) - torch.ones(64) @ span
    assert result.measured["errors"] == pytest.approx(
        [float(lost.square().mean().sqrt()) / 2], abs=1e-4
    )
    assert result.measured["names"] == ["white"]


def test_interpolate_by_seeds_keeps_to_the_sphere_and_meets_the_pictures_of_the_seeds(
    models: dict[str, str], tmp_path: Path
) -> None:
    result = latent.interpolate(
        model=models["draws"], start="3", end="4", frames=9, out=tmp_path / "a.png"
    )
    lengths = [
        torch.randn(1, LATENT, generator=torch.Generator().manual_seed(seed)).norm()
        for seed in (3, 4)
    ]
    assert result.measured["lengths"] == pytest.approx(
        np.linspace(float(lengths[0]), float(lengths[1]), 9).tolist(), rel=1e-4
    )
    straight = latent.interpolate(
        model=models["draws"],
        start="3",
        end="4",
        path="linear",
        frames=9,
        out=tmp_path / "b.png",
    )
    assert straight.measured["lengths"][4] < 0.9 * result.measured["lengths"][4], (
        "a straight way leaves the sphere"
    )
    a, b = (
        torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 4)
    )
    assert result.measured["angle"] == pytest.approx(
        math.degrees(math.acos(float(a @ b / a.norm() / b.norm()))), abs=0.1
    )


def test_interpolate_moves(models: dict[str, str], tmp_path: Path) -> None:
    for ending in (".gif", ".webp"):
        out = tmp_path / f"a{ending}"
        latent.interpolate(model=models["encodes"], frames=5, out=out)
        with Pillow.open(out) as picture:
            assert picture.n_frames == 8, (
                "there and back, without stopping at the lengths"
            )
        assert read_record(out)["parameters"]["experiment"] == "latent interpolate"


def test_interpolate_between_pictures_with_and_without_an_encoder(
    models: dict[str, object], tmp_path: Path
) -> None:
    a, b = sorted((models["pictures"] / "plain").iterdir())[:2]  # type: ignore[operator]
    encoded = latent.interpolate(
        model=models["encodes"],
        start=str(a),
        end=str(b),
        frames=3,
        out=tmp_path / "a.png",
    )  # type: ignore[arg-type]
    searched = latent.interpolate(
        model=models["draws"],
        start=str(a),
        end=str(b),
        frames=3,
        out=tmp_path / "b.png",
    )  # type: ignore[arg-type]
    assert searched.measured["lengths"] == pytest.approx(
        encoded.measured["lengths"], rel=0.02
    )


def test_arithmetic_finds_the_vector_between_classes(
    models: dict[str, object], tmp_path: Path
) -> None:
    result = latent.arithmetic(
        model=models["encodes"],
        with_="marked",
        without="plain",
        n=3,
        out=tmp_path / "a.png",
    )  # type: ignore[arg-type]
    error = torch.tensor(result.measured["direction"]) - models["difference"]  # type: ignore[operator]
    assert error.norm() < 0.25, (
        "means of about 48 points on each side, with a spread of 0.3 in each of 4 dimensions"
    )
    folders = latent.arithmetic(
        model=models["orphan"],
        with_=str(models["pictures"] / "marked"),
        without=str(models["pictures"] / "plain"),  # type: ignore[operator,arg-type]
        images=models["pictures"] / "plain",
        strengths=(0, 1),
        out=tmp_path / "b.png",
    )  # type: ignore[operator]
    assert folders.measured["examples"] == [60, 60]
    with pytest.raises(NotFound, match="nowhere"):
        latent.arithmetic(
            model=models["orphan"],
            with_="nowhere",
            without="plain",
            out=tmp_path / "c.png",
        )  # type: ignore[arg-type]


def test_arithmetic_is_exact_for_what_differs_by_one_vector(
    models: dict[str, object], tmp_path: Path
) -> None:
    """The same points with and without the vector: the direction is that vector, and
    strength 0 gives the picture back.
    """
    points, step = (
        0.3 * torch.randn(12, LATENT, generator=torch.Generator().manual_seed(5)),
        torch.tensor([0.5, 0, 0, -0.5]),
    )
    for name, group in (("with", points + step), ("without", points)):
        (tmp_path / name).mkdir()
        for at, pixels in enumerate((group @ WEIGHT).view(-1, 8, 8)):
            Pillow.fromarray(
                ((pixels + 1) * 127.5).round().to(torch.uint8).numpy()
            ).save(tmp_path / name / f"{at}.png")
    result = latent.arithmetic(
        model=models["orphan"],
        with_=str(tmp_path / "with"),
        without=str(tmp_path / "without"),
        images=tmp_path / "without",  # type: ignore[arg-type]
        n=2,
        strengths=(0, 1),
        out=tmp_path / "a.png",
    )
    assert torch.allclose(torch.tensor(result.measured["direction"]), step, atol=0.01)
    assert result.measured["length"] == pytest.approx(float(step.norm()), abs=0.01)


def test_traverse_chooses_the_dimensions_that_vary_most(
    models: dict[str, object], tmp_path: Path
) -> None:
    result = latent.traverse(model=models["encodes"], rows=2, out=tmp_path / "a.png")  # type: ignore[arg-type]
    assert result.measured["dims"] == [1, 3], "those in which the two classes differ"
    assert len(result.measured["activity"]) == LATENT
    blind = latent.traverse(
        model=models["draws"], dims=(2, 0), steps=3, out=tmp_path / "b.gif"
    )  # type: ignore[arg-type]
    assert blind.measured["dims"] == [2, 0]
    assert blind.measured["activity"] == pytest.approx(
        WEIGHT.square().mean(1).tolist(), rel=1e-3
    )
    with Pillow.open(tmp_path / "b.gif") as picture:
        assert picture.n_frames == 4


def test_project_finds_the_very_point(models: dict[str, str], tmp_path: Path) -> None:
    z = 0.5 * torch.randn(1, LATENT, generator=torch.Generator().manual_seed(11))
    pixels = ((z @ WEIGHT + 1) * 127.5).round().to(torch.uint8).view(8, 8).numpy()
    Pillow.fromarray(pixels).save(tmp_path / "target.png")
    result = latent.project(
        model=models["draws"],
        images=tmp_path / "target.png",
        starts=3,
        out=tmp_path / "a.png",
    )
    assert torch.allclose(torch.tensor(result.measured["latents"]), z, atol=0.03)
    assert result.measured["errors"][0] < 0.01


def test_project_finds_the_class_of_a_conditional_model(
    models: dict[str, str], tmp_path: Path
) -> None:
    z = 0.3 * torch.randn(1, LATENT, generator=torch.Generator().manual_seed(11))
    pixels = ((z @ WEIGHT + 0.2 + 1) * 127.5).round().to(torch.uint8).view(8, 8).numpy()
    Pillow.fromarray(pixels).save(tmp_path / "target.png")
    classes = [
        "marked",
        "plain",
    ]  # in the order of the folders; shades are -0.2 and +0.2
    result = latent.project(
        model=models["seeker"], images=tmp_path / "target.png", out=tmp_path / "a.png"
    )
    assert result.measured["classes"] == [classes[1]]
    labelled = latent.project(
        model=models["seeker"],
        images=tmp_path / "target.png",
        label=classes[0],
        out=tmp_path / "b.png",
    )
    assert labelled.measured["classes"] == [classes[0]]
    assert labelled.measured["errors"][0] > 5 * result.measured["errors"][0]


def test_truncate_goes_from_alike_to_varied_in_proportion(
    models: dict[str, str], tmp_path: Path
) -> None:
    result = latent.truncate(
        model=models["encodes"], n=4, values=(0, 0.5, 1), out=tmp_path / "a.png"
    )
    variety = result.measured["variety"]
    assert variety["0"] == 0
    assert variety["0.5"] == pytest.approx(variety["1"] / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "experiment", "able"),
    [
        ("paints", "interpolate", "generate image"),
        ("paints", "truncate", "generate image"),
        ("draws", "reconstruct", "latent interpolate"),
        ("draws", "arithmetic", "latent project"),
        ("draws", "truncate", "latent traverse"),
    ],
)
def test_an_unsupported_experiment_lists_the_supported_ones(
    models: dict[str, str], kind: str, experiment: str, able: str
) -> None:
    more = {"with_": "a", "without": "b"} if experiment == "arithmetic" else {}
    with pytest.raises(Unsupported, match=f"cannot {experiment}") as caught:
        getattr(latent, experiment)(model=models[kind], **more)
    assert able in caught.value.remedy


def test_conditional_models_need_the_class(
    models: dict[str, object], tmp_path: Path
) -> None:
    picture = next((models["pictures"] / "plain").iterdir())  # type: ignore[operator]
    with pytest.raises(BadInput, match="needs the class"):
        latent.reconstruct(
            model=models["conditional"], images=picture, out=tmp_path / "a.png"
        )  # type: ignore[arg-type]
    latent.reconstruct(
        model=models["conditional"],
        images=picture,
        label="plain",
        out=tmp_path / "a.png",
    )  # type: ignore[arg-type]
    latent.reconstruct(model=models["conditional"], out=tmp_path / "a.png")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no class 'plane'") as caught:
        latent.traverse(model=models["conditional"], label="plane")  # type: ignore[arg-type]
    assert "plain" in caught.value.remedy
    with pytest.raises(Unsupported, match="takes no label"):
        latent.traverse(model=models["encodes"], label="plain")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("reconstruct", "--n", "0"), "n is 0"),
        (("reconstruct", "--out", "a.gif"), "not an animation"),
        (("reconstruct", "--out", "folder"), "no picture file"),
        (("interpolate", "--start", "nothing.png"), "nothing.png"),
        (("interpolate", "--frames", "1"), "frames is 1"),
        (("interpolate", "--path", "curved"), "path"),
        (("traverse", "--dims", "9"), "dims is 9"),
        (("truncate", "--values", "1.5"), "values is 1.5"),
        (("project",), "--images"),
        (("project", "--images", "."), "no pictures"),
        (("arithmetic", "--with", "marked"), "--without"),
        (("reconstruct", "--label", "plane"), "plane"),
        (("reconstruct", "--out", "a.bmp"), ".bmp"),
    ],
)
def test_mistakes_are_named(
    models: dict[str, str],
    argv: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["latent", argv[0], "--model", models["encodes"], *argv[1:]]) != 0
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out
    assert not list(tmp_path.iterdir())


def test_lost_data_is_named(models: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="no longer here"):
        latent.reconstruct(model=models["orphan"])


def test_the_command_line(
    models: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(
            [
                "latent",
                "arithmetic",
                "--model",
                models["encodes"],
                "--with",
                "marked",
                "--without",
                "plain",
                "--strengths",
                "[0, 1]",
                "--json",
            ]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["out"] == "runs/latent/encodes-arithmetic.png"
    assert len(result["measured"]["direction"]) == LATENT
    assert cli.main(["latent", "truncate", "--model", models["encodes"]]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1] == "runs/latent/encodes-truncate.png"
    )
    assert size(tmp_path / "runs/latent/encodes-truncate.png")[0] > 300


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    from tests.engines.small import small_bundle

    with pytest.raises(Unsupported, match="no picture model"):
        latent.traverse(model=str(small_bundle(tmp_path / "poet")))
    with pytest.raises(MiaobiError):
        latent.traverse(model="nobody")
