"""A real server with toy engines, and a real Chromium that looks at it. Every page is
watched: its console must stay silent, and no request may leave for another host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from miaobi.core import bundle
from miaobi.core.store import Store

ROOT = Path(__file__).parents[2]
CHROMIUM = (
    shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60.0
KEY = "mb-studio-test-key"


class Site:
    """A running server and its address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def toy(self, name: str) -> dict[str, Any]:
        """How many answers an engine is making, and how many were left early; what the
        painter was last given.
        """
        found: dict[str, Any] = self.get("/v1/toys").json()[name]
        return found

    def get(self, path: str, **given: Any) -> httpx.Response:
        """As a program with the key."""
        return httpx.get(
            f"{self.url}{path}", headers={"authorization": f"Bearer {KEY}"}, **given
        )

    def streaming(self, path: str) -> AbstractContextManager[httpx.Response]:
        """An answer as it is sent, compressed."""
        headers = {"authorization": f"Bearer {KEY}", "accept-encoding": "gzip"}
        return httpx.stream("GET", f"{self.url}{path}", headers=headers)

    def sign_in(self) -> httpx.Cookies:
        """A visitor's cookies."""
        answer = httpx.post(f"{self.url}/studio/login", data={"key": KEY})
        assert answer.status_code == 303, answer.text
        return answer.cookies


@contextmanager
def serving(home: Path, *keys: str) -> Iterator[Site]:
    """A server in a process of its own: Gradio leaves loops and sockets behind that
    pytest would hold against us.
    """
    environment = {
        **os.environ,
        "MIAOBI_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)]),
        "MIAOBI_LANG": "en",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.studio.server", *keys],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        try:
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            until(lambda: _answers(url))
            yield Site(url)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def until(done: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def make_model(
    name: str, parents: tuple[str, ...] = (), metrics: dict[str, float] | None = None
) -> None:
    with TemporaryDirectory() as folder:

        def save(draft: Path) -> None:
            (draft / "weights.txt").write_text("weights")

        Store().add(
            bundle.write(
                Path(folder) / name,
                bundle.Manifest("gpt", "text", parents=parents, metrics=metrics or {}),
                save,
            ),
            name,
        )


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("studio")
        patch.setenv("MIAOBI_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def site(home: Path) -> Iterator[Site]:
    make_model("poet", metrics={"loss": 1.9})
    make_model("poet", ("poet@1",), {"loss": 1.7})
    with serving(home, KEY) as found:
        yield found


@pytest.fixture(scope="session")
def rooms(site: Site) -> Site:
    """The site, when its pages that are Gradio's are open."""
    pytest.importorskip("gradio", reason="pip install 'miaobi[studio]'")

    def are_open() -> bool:
        pages = [site.get(f"/studio/{name}/rooms/") for name in ("en", "zh")]
        return all(page.status_code == 200 for page in pages)

    until(are_open)
    return site


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pip install playwright"
    )
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


LEFT = ("AbortError", "errored out", "Unexpected error 404: Not Found")
"""What Gradio's own stream says when a page is left while it opens: it was aborted, or
its session is gone already (404 from gradio.routes, `sse_stream`).
"""


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Callable[..., Any]]:
    """Open a page in a fresh visitor's browser, signed in: visit("/studio/en/chat",
    color_scheme="dark", ...). `expect`: parts of what its console may say.
    """
    contexts = list[Any]()
    told = list[str]()
    hosts = set[str | None]()
    expected = list[str]()

    def open_page(
        path: str, expect: tuple[str, ...] = (), signed_in: bool = True, **options: Any
    ) -> Any:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        contexts.append(context)
        if signed_in:
            cookies = site.sign_in()
            context.add_cookies(
                [
                    {"name": name, "value": value, "url": f"{site.url}/studio"}
                    for name, value in cookies.items()
                ]
            )
        page = context.new_page()
        page.on(
            "console",
            lambda message: message.type == "error" and told.append(message.text),
        )
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith("http")
                and hosts.add(urlsplit(request.url).hostname)
            ),
        )
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"{site.url}{path}")
        expected.extend([*expect, *(LEFT if "/rooms/" in path else ())])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in told if not any(part in line for part in expected)] == []
    assert hosts <= {"127.0.0.1"}


def serious(page: Any) -> list[str]:
    """What axe (bundled with its Python package) calls serious or critical, each with
    where it is.
    """
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{item['id']}: {node['html'][:160]}"
        for item in found
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"]
    ]
