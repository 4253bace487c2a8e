"""A file that one key sent or was shown is not there for another, even by its path, and
no answer says where files lie.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from tests.studio.conftest import Site, serving, until

PAGE = "/studio/en/rooms"
KEYS = ("mb-first", "mb-second")
Visitors = list[httpx.Client]
UPLOAD = f"{PAGE}/gradio_api/upload"


@pytest.fixture(scope="module")
def visitors(home: Path) -> Iterator[list[httpx.Client]]:
    """One visitor for each of a server's two keys."""
    pytest.importorskip("gradio", reason="pip install 'miaobi[studio]'")
    with serving(home, *KEYS) as site, ExitStack() as stack:
        clients = [stack.enter_context(visitor(site, key)) for key in KEYS]
        until(lambda: clients[0].get(f"{PAGE}/").status_code == 200)
        yield clients


def visitor(site: Site, key: str) -> httpx.Client:
    answer = httpx.post(f"{site.url}/studio/login", data={"key": key})
    return httpx.Client(base_url=site.url, cookies=answer.cookies, timeout=30)


@pytest.mark.parametrize("name", ["secret.txt", "秘密 a+b.txt"])
def test_a_file_belongs_to_who_sent_it(
    visitors: Visitors, home: Path, name: str
) -> None:
    first, second = visitors
    sent = {"files": (name, b"the budget of next year")}
    [path] = first.post(UPLOAD, files=sent).json()
    assert str(home) not in path
    assert first.get(f"{PAGE}/gradio_api/file={path}").text.startswith("the budget")
    assert second.get(f"{PAGE}/gradio_api/file={path}").status_code == 404
    [real] = (home / "server" / "studio").rglob(Path(path).name)
    for client in visitors:
        answer = client.get(f"{PAGE}/gradio_api/file={real}")
        assert answer.status_code == 404


def test_another_keys_file_is_no_input_either(visitors: Visitors, home: Path) -> None:
    first, second = visitors
    [path] = first.post(UPLOAD, files={"files": ("mine.txt", b"mine")}).json()
    [real] = (home / "server" / "studio").rglob("mine.txt")
    for name in (path, str(real)):
        data = {"data": [{"path": name, "meta": {"_type": "gradio.FileData"}}]}
        answer = second.post(f"{PAGE}/gradio_api/queue/join", json=data)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "file_not_found"


def test_no_answer_says_where_things_lie(visitors: Visitors, home: Path) -> None:
    client = visitors[0]
    for path in ("/", "/config", "/gradio_api/info", "/theme.css"):
        text = client.get(f"{PAGE}{path}").text
        for place in (str(home), sys.prefix, tempfile.gettempdir() + "/"):
            assert place not in text, (path, place)
