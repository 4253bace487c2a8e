"""Periodic work runs from the server's start to its end, whatever becomes of one run."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from tests.serve.conftest import Echo, toy_pool

from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.periodic import Runner, periodic
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

pytestmark = pytest.mark.anyio


@dataclass
class Toy:
    """Counts its runs; the second one fails."""

    seconds: float = 0.001
    runs: int = 0
    third: asyncio.Event = field(default_factory=asyncio.Event)
    last: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the test: what runs then ends."""

    async def run(self, services: Services) -> None:
        self.runs += 1
        if self.runs == 2:
            raise RuntimeError("the second run")
        if self.runs == 3:
            self.third.set()
            await self.last.wait()
            self.runs = 100


toy = Toy()


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Services:
    monkeypatch.setattr(f"{__name__}.toy", Toy())
    monkeypatch.setitem(
        periodic._entries, "toy", EntryPoint("toy", f"{__name__}:toy", periodic.group)
    )
    settings = Settings(studio=False, workers=0)
    return Services(settings, toy_pool(settings, echo=Echo()), Admission(settings))


async def test_it_starts_and_stops_with_the_server(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(services)
    with caplog.at_level(logging.ERROR, "miaobi.serve"):
        async with app.router.lifespan_context(app):
            await toy.third.wait()
            toy.last.set()
    assert "toy failed" in caplog.text and "the second run" in caplog.text
    assert toy.runs >= 100
    runs = toy.runs
    await asyncio.sleep(0.01)
    assert toy.runs == runs


async def test_what_runs_is_waited_for(services: Services) -> None:
    runner = Runner(services)
    runner.start()
    await toy.third.wait()
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    toy.last.set()
    await stopping
    assert toy.runs == 100


async def test_what_does_not_end_is_left(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miaobi.serve.periodic.STOP_SECONDS", 0.01)
    runner = Runner(services)
    runner.start()
    await toy.third.wait()
    await runner.stop()
    assert toy.runs == 3


async def test_what_expired_goes_and_usage_is_written(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server's own work, at a quicker pace."""
    ours = [periodic.get(name) for name in ("files", "temporary_files", "usage")]
    for work in ours:
        monkeypatch.setattr(work, "seconds", 0.01)
    app = create_app(services)
    async with app.router.lifespan_context(app):
        expired = services.temporary_files.folder / "a.png"
        left = services.files.folder / f"file-{'0' * 28}"
        for path in (expired, left):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        services.temporary_files.seconds = -1
        ledger = services.admission.ledger
        ledger.add("key-1", "m", {"prompt_tokens": 1})
        async with asyncio.timeout(30):
            while expired.exists() or left.exists() or ledger._pending:
                await asyncio.sleep(0.01)
