"""OpenVINO's pipeline in a process of its own: what happens when either process goes
away.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.engines.small import small_gguf

from miaobi.core.engine import Weights
from miaobi.core.errors import EngineDied, Unsupported
from miaobi.core.requests import TextRequest
from miaobi.engines import openvino
from miaobi.engines.openvino.engine import OpenVinoEngine

pytest.importorskip("openvino_genai")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[OpenVinoEngine]:
    engine = openvino.open_engine(Weights("gguf", str(small_gguf(tmp_path)), "small"))
    yield engine
    engine.close()


def answer(engine: OpenVinoEngine) -> str:
    async def collect() -> str:
        request = TextRequest(prompt="春江", max_new_tokens=8, temperature=0)
        return "".join([chunk.text async for chunk in engine.generate(request)])

    return asyncio.run(collect())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_death_fails_what_runs_and_nothing_after(engine: OpenVinoEngine) -> None:
    before = answer(engine)

    async def kill_during_an_answer() -> None:
        request = TextRequest(prompt="春江", max_new_tokens=200, min_new_tokens=200)
        async for chunk in engine.generate(request):
            if chunk.text:
                os.kill(engine.process_id, signal.SIGKILL)

    with pytest.raises(EngineDied, match="ended \\(-9\\)"):
        asyncio.run(kill_during_an_answer())
    assert answer(engine) == before


def test_a_death_between_answers_is_not_noticed(engine: OpenVinoEngine) -> None:
    before = answer(engine)
    os.kill(engine.process_id, signal.SIGKILL)
    wait_until(lambda: engine._process.ended)
    assert answer(engine) == before


def test_what_the_pipeline_refuses_fails_that_answer_only(
    engine: OpenVinoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {"max_new_tokens": 4, "temperature": -1.0, "do_sample": True}
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_config", lambda request, index: refused)
        with pytest.raises(RuntimeError, match="temperature"):
            answer(engine)
    assert answer(engine)


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_process_goes_with_the_one_that_started_it(tmp_path: Path) -> None:
    code = f"""
import os, signal
from miaobi.core.engine import Weights
from miaobi.engines import openvino
engine = openvino.open_engine(Weights("gguf", {str(small_gguf(tmp_path))!r}, "small"))
print(engine.process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    process_id = int(run.stdout)
    wait_until(lambda: not is_running(process_id))


def test_a_file_it_cannot_load_is_refused_with_its_own_message(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    with pytest.raises(Unsupported, match="OpenVINO cannot load"):
        openvino.open_engine(Weights("openvino", str(tmp_path), "broken"))
