"""OpenVINO's pipeline in a process of its own: what happens when either side of the
door goes away.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.engines.small import small_gguf

from miaobi.core.engine import Weights
from miaobi.core.errors import Unsupported
from miaobi.core.requests import TextRequest
from miaobi.engines import openvino

pytest.importorskip("openvino_genai")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[openvino.OpenVinoEngine]:
    engine = openvino.open_engine(Weights("gguf", str(small_gguf(tmp_path)), "small"))
    yield engine
    engine.close()


def ask(engine: openvino.OpenVinoEngine, **controls: int | float) -> str:
    async def answer() -> str:
        request = TextRequest(
            prompt="春江", **{"max_new_tokens": 8, "temperature": 0} | controls
        )  # type: ignore[arg-type]
        return "".join([chunk.text async for chunk in engine.generate(request)])

    return asyncio.run(answer())


def test_a_death_fails_what_runs_and_nothing_after(
    engine: openvino.OpenVinoEngine,
) -> None:
    before = ask(engine)

    async def killed() -> None:
        async for chunk in engine.generate(
            TextRequest(prompt="春江", max_new_tokens=200, min_new_tokens=200)
        ):
            if chunk.text:
                os.kill(engine.process_id, signal.SIGKILL)

    with pytest.raises(RuntimeError, match="ended \\(-9\\)"):
        asyncio.run(killed())
    assert ask(engine) == before


def test_a_death_between_answers_is_not_noticed(
    engine: openvino.OpenVinoEngine,
) -> None:
    before = ask(engine)
    os.kill(engine.process_id, signal.SIGKILL)
    while not engine._process.ended:
        time.sleep(0.01)
    assert ask(engine) == before


def test_what_the_pipeline_refuses_ends_that_answer_only(
    engine: openvino.OpenVinoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as wrong:
        wrong.setattr(
            engine,
            "_config",
            lambda request, index: {
                "max_new_tokens": 4,
                "temperature": -1.0,
                "do_sample": True,
            },
        )
        with pytest.raises(RuntimeError, match="temperature"):
            ask(engine)
    assert ask(engine)


def test_it_ends_with_whoever_opened_it(tmp_path: Path) -> None:
    code = (
        f"from miaobi.core.engine import Weights; from miaobi.engines import openvino; import os, signal\n"
        f"engine = openvino.open_engine(Weights('gguf', {str(small_gguf(tmp_path))!r}, 'small'))\n"
        f"print(engine.process_id, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    number = int(told.stdout)
    deadline = time.monotonic() + 10
    while (
        psutil.pid_exists(number)
        and psutil.Process(number).status() != psutil.STATUS_ZOMBIE
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert (
        not psutil.pid_exists(number)
        or psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    )


def test_a_file_it_cannot_load_is_told_with_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    with pytest.raises(Unsupported, match="OpenVINO cannot load"):
        openvino.open_engine(Weights("openvino", str(tmp_path), "broken"))
