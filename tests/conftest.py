"""Every test has its own MIAOBI_HOME; fetched packs are kept between runs under
~/.cache/miaobi-tests.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MIAOBI_LANG"] = "en"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # threads that wait by spinning starve whatever runs beside the tests

SHARED = Path("~/.cache/miaobi-tests").expanduser()

settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.load_profile("fixed")
"""Property tests draw the same examples in every run, so that a change is judged by what
it changed. `make test-slow` draws others (--hypothesis-profile=random).
"""

LONGEST_FILES = (
    "tests/studio/test_rooms.py",
    "tests/verbs/test_search.py",
    "tests/surface/test_docs.py",
    "tests/verbs/test_train.py",
    "tests/serve/jobs/test_kills.py",
    "tests/clients/test_clients.py",
    "tests/serve/jobs/test_training.py",
    "tests/verbs/test_finetune.py",
    "tests/models/test_openvino_rows.py",
    "tests/serve/jobs/test_worker.py",
    "tests/upgrade/test_upgrade.py",
    "tests/parity/test_quantised.py",
    "tests/train/test_loop.py",
)
"""They begin first, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    ranks = {file: rank for rank, file in enumerate(LONGEST_FILES)}
    items.sort(
        key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(LONGEST_FILES))
    )


@pytest.fixture(autouse=True)
def miaobi_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty home whose packs, and what engines made of them, are the shared ones."""
    home = tmp_path_factory.mktemp("home")
    for name in ("packs", "converted"):
        (SHARED / name).mkdir(parents=True, exist_ok=True)
        (home / name).symlink_to(SHARED / name)
    monkeypatch.setenv("MIAOBI_HOME", str(home))
    return home


@pytest.fixture(autouse=True, scope="module")
def same_beginning() -> None:
    """What a file of tests draws at random does not hang on the files before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def whole_numbers() -> Iterator[None]:
    """Training sets the smallest numbers to zero in its whole process; the next test
    has them back.
    """
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def pack() -> Callable[[str], Path]:
    """pack(name): the path of a starter pack, fetched once."""
    from miaobi.data import packs

    def path(name: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MIAOBI_HOME", str(SHARED))
            return packs.path(name)

    return path


@pytest.fixture(scope="session")
def smollm2(pack: Callable[[str], Path]) -> Path:
    """The packaged chat model, a GGUF file."""
    return pack("smollm2")
