"""OpenAI's JavaScript client against `miaobi serve` in a process of its own, with real
voices. The Python client is in tests/serve/test_speech.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.clients.server import serving
from tests.clients.test_clients import HERE, OPENAI_JS, installed, run


@pytest.fixture(scope="module")
def url(
    pack: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    pack("kokoro")
    with serving(tmp_path_factory.mktemp("served"), "kokoro") as url:
        yield url


@pytest.mark.slow
def test_the_javascript_client_speaks(url: str) -> None:
    folder = installed(OPENAI_JS, "openai")
    shutil.copy(HERE / "sound.mjs", folder)
    assert len(run("node", "sound.mjs", url, cwd=folder)) == 4
