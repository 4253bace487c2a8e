"""A server without weights: models that answer at once, in the same shapes as real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from miaobi.core.artifacts import Facts, Image, TokenLogprob
from miaobi.core.engine import Abilities, Chunk, Weights, accepted
from miaobi.core.errors import NotFound
from miaobi.core.requests import ImageRequest, Request, TextRequest
from miaobi.engines.model import Model
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.pool import Pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

CONTROLS = frozenset(TextRequest.__dataclass_fields__)


class Echo:
    """Says the last message again, word by word; `pause` seconds between words. Counts
    who is being answered and who left early.
    """

    takes = TextRequest
    chats = True
    context_length = 4096
    abilities = Abilities(CONTROLS)

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.running = 0
        self.left_early = 0
        self.closed = False
        self.requests: list[TextRequest] = []
        self.breaks_after: int | None = None
        """So many words, then an error that nobody foresaw."""

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = accepted(request, TextRequest, self.abilities, "echo")
        said = (
            request.prompt
            if request.messages is None
            else str(request.messages[-1]["content"])
        )
        pieces = (said or "").split(" ")
        self.requests.append(request)
        self.running += 1
        done = False
        try:
            yield Chunk(prompt_tokens=len(pieces))
            for index in range(request.n):
                for at, word in enumerate(pieces[: request.max_new_tokens]):
                    await asyncio.sleep(self.pause)
                    if at == self.breaks_after:
                        raise RuntimeError(f"toy broke at {self!r}")
                    token = (" " if at else "") + word
                    logprobs = (
                        ()
                        if request.logprobs is None
                        else (
                            TokenLogprob(
                                token,
                                -0.5,
                                (TokenLogprob("z", -1.0),) * request.logprobs,
                            ),
                        )
                    )
                    yield Chunk(index, token, logprobs, 1)
                yield Chunk(
                    index,
                    finish="length" if len(pieces) > request.max_new_tokens else "stop",
                )
            done = True
        finally:
            self.running -= 1
            self.left_early += not done

    def close(self) -> None:
        self.closed = True


class Grey:
    """Paints one grey, the seed's."""

    takes = ImageRequest
    abilities = Abilities(frozenset(ImageRequest.__dataclass_fields__))

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        request = accepted(request, ImageRequest, self.abilities, "grey")
        for index in range(request.n):
            pixels = np.full(
                (request.height or 16, request.width or 16, 3),
                ((request.seed or 0) + index) % 256,
                np.uint8,
            )
            yield Chunk(
                index, finish="stop", artifact=Image(pixels, Facts(model="grey"))
            )

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))


def toy_pool(settings: Settings, **engines: object) -> Pool:
    """A pool of these engines by name."""

    def find(name: str) -> Weights:
        if name not in engines:
            raise NotFound(f"There is no model named {name!r}.")
        return Weights(
            "bundle", f"/nowhere/{name}", name, modality=engines[name].takes.makes
        )  # type: ignore[attr-defined]

    return Pool(
        settings,
        find,
        lambda: sorted(engines),
        lambda weights: Model(weights, "toy", engines[weights.name]),
    )  # type: ignore[arg-type]


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def services(echo: Echo) -> Services:
    settings = Settings(
        hosts=("testserver",), workers=0
    )  # what Starlette's TestClient calls it; jobs stay in the queue
    return Services(
        settings, toy_pool(settings, echo=echo, grey=Grey()), Admission(settings)
    )


@pytest.fixture
def app(services: Services) -> FastAPI:
    return create_app(services)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client
