"""The packaged voices, opened once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from miaobi.core.engine import Weights
from miaobi.engines.load import load
from miaobi.engines.model import Model


@pytest.fixture(scope="session")
def kokoro(pack: Callable[[str], Path]) -> Iterator[Model]:
    weights = Weights("kokoro", str(pack("kokoro")), "kokoro", modality="audio")
    with load(weights) as model:
        yield model


@pytest.fixture(scope="session")
def joe(pack: Callable[[str], Path]) -> Iterator[Model]:
    pytest.importorskip("espeakng_loader", reason='pip install "miaobi[espeak]"')
    weights = Weights("piper", str(pack("joe")), "joe", modality="audio")
    with load(weights) as model:
        yield model
