"""One suite over every registered engine that speaks: what `core/engine.py` promises,
each of them keeps. Each runs its packaged model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from miaobi.core.artifacts import Audio
from miaobi.core.engine import Chunk, Weights
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.requests import ImageRequest, SpeechRequest
from miaobi.engines import engines
from miaobi.engines.load import load
from miaobi.engines.model import Model

SPEECH_ENGINES = [
    name for name in engines.names() if engines.get(name).TAKES is SpeechRequest
]
CASES = {"voices": (("kokoro", "kokoro"), ("joe", "piper"))}
"""By engine: its packs and their formats."""
TEXT = "Good morning to all of you. The weather is fine today, so let us go for a walk."


@pytest.mark.parametrize("name", SPEECH_ENGINES)
def test_every_engine_has_a_case(name: str) -> None:
    assert name in CASES, f"name a pack that {name} reads in CASES"


@pytest.fixture(
    scope="module",
    params=[(name, *case) for name in CASES for case in CASES[name]],
    ids=lambda case: f"{case[0]}-{case[1]}",
)
def model(
    request: pytest.FixtureRequest, pack: Callable[[str], Path]
) -> Iterator[Model]:
    engine, name, format = request.param
    if format == "piper":
        pytest.importorskip("espeakng_loader", reason='pip install "miaobi[espeak]"')
    weights = Weights(format, str(pack(name)), name, modality=SpeechRequest.makes)
    with load(weights, engine=engine, streams=2) as opened:
        yield opened


def test_declares_itself(model: Model) -> None:
    module = engines.get(model.engine_name)
    assert model.weights.format in module.FORMATS
    assert module.installed() is None and module.reads(model.weights)
    assert not module.reads(Weights("gguf", "x.gguf", "x"))
    assert model.engine.takes is SpeechRequest
    assert {"voice", "speed"} <= model.engine.abilities.controls


def test_only_the_last_chunk_ends(model: Model) -> None:
    chunks = list(model.stream(TEXT))
    assert len(chunks) == 2
    assert [chunk.finish for chunk in chunks] == [None, "stop"]
    assert chunks[0].progress == 0.5
    for chunk in chunks:
        piece = chunk.piece
        assert isinstance(piece, Audio)
        assert piece.samples.dtype == np.float32 and piece.samples.ndim == 1
        assert np.abs(piece.samples).max() <= 1
    (whole,) = model.generate(TEXT)
    pieces = [cast(Audio, chunk.piece) for chunk in chunks]
    assert np.array_equal(whole.samples, Audio.join(pieces).samples)
    assert whole.facts.parameters["prompt"] == TEXT
    assert whole.facts.parameters["voice"]


def test_requests_at_once_are_answered_as_alone(model: Model) -> None:
    texts = ["Yes, of course.", "No, thank you.", "Maybe tomorrow."]
    alone = [model.generate(text)[0] for text in texts]

    async def at_once() -> list[Any]:
        return await asyncio.gather(*(model.agenerate(text) for text in texts))

    for (sound,), expected in zip(asyncio.run(at_once()), alone, strict=True):
        assert np.array_equal(sound.samples, expected.samples)


def test_leaving_early_frees_the_engine(model: Model) -> None:
    async def first() -> Chunk:
        request = model.request(f"{TEXT} " * 30)
        chunks = cast(AsyncGenerator[Chunk, None], model.engine.generate(request))
        chunk = await anext(chunks)
        await chunks.aclose()
        return chunk

    assert asyncio.run(first()).piece is not None
    assert model.generate("Yes.")[0].seconds > 0.2


def test_what_it_does_not_offer_is_refused(model: Model) -> None:
    async def answer(request: Any) -> None:
        async for _ in model.engine.generate(request):
            pass

    with pytest.raises(Unsupported, match="ImageRequest"):
        asyncio.run(answer(ImageRequest()))
    with pytest.raises(Unsupported) as caught:
        asyncio.run(answer(replace(model.request("Hello."), n=2)))
    assert caught.value.field == "n"
    with pytest.raises(BadInput) as refused:
        model.generate("")
    assert refused.value.field == "prompt"
    with pytest.raises(BadInput) as refused:
        model.generate("Hello.", voice="nobody")
    assert refused.value.field == "voice"
