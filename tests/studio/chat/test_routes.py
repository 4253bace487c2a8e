"""The routes of the chat without a browser: whose a conversation is, what is kept, and
what a restart leaves.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response
from PIL import Image
from sqlalchemy import select
from tests.serve.conftest import Echo, toy_pool

from miaobi.core.engine import Abilities
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.conversations import Conversations
from miaobi.serve.records import Conversation
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

CHAT = "/studio/en/chat"


class Person:
    """Somebody with a key and a browser."""

    def __init__(self, client: TestClient, key: str) -> None:
        self.client = client
        self.headers = {"authorization": f"Bearer {key}", "hx-request": "true"}
        page = client.get(CHAT, headers={"authorization": f"Bearer {key}"}).text
        token = re.search(r'"x-token": "(\w+)"', page)
        assert token is not None
        self.headers["x-token"] = token[1]

    def get(self, path: str) -> Response:
        return self.client.get(path, headers=self.headers)

    def post(self, path: str, **data: str) -> Response:
        return self.client.post(path, headers=self.headers, data=data)

    def say(self, text: str, path: str = CHAT, **data: str) -> str:
        """Return the address of the turn."""
        answer = self.post(path, message=text, model="echo", **data)
        assert answer.status_code == 200, answer.text
        return str(answer.headers["hx-push-url"])

    def answered(self, address: str) -> str:
        """The page, once its answer has ended."""
        end = time.monotonic() + 20
        while "aria-busy" in (page := self.get(address).text):
            assert time.monotonic() < end
            time.sleep(0.01)
        return page


@pytest.fixture
def make(echo: Echo) -> Iterator[Callable[..., TestClient]]:
    """A server with two keys."""
    opened = list[TestClient]()

    def make(**settings: Any) -> TestClient:
        chosen = Settings(
            hosts=("testserver",),
            workers=0,
            api_keys=("key-one", "key-two"),
            **settings,
        )
        pool = toy_pool(chosen, echo=echo)
        app: FastAPI = create_app(Services(chosen, pool, Admission(chosen)))
        opened.append(TestClient(app).__enter__())
        return opened[-1]

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def echo() -> Echo:
    return Echo()


def parts(address: str) -> tuple[str, str]:
    """Return the address of a conversation, and of its turn."""
    path, _, turn = address.partition("?turn=")
    return path, f"{path}/{turn}"


def test_nobody_else_reads_streams_stops_or_exports(
    make: Callable[..., TestClient], echo: Echo
) -> None:
    echo.pause = 0.05
    client = make()
    one, two = Person(client, "key-one"), Person(client, "key-two")
    address = one.say("a secret of one, and more words " * 10)
    path, turn = parts(address)
    for other in (
        address,
        f"{path}/export.md",
        f"{path}/export.json",
        f"{turn}/stream",
    ):
        answer = two.get(other)
        assert answer.status_code == 404 and "secret" not in answer.text
    for action in ("stop", "delete", "settings", "rename"):
        answer = two.post(f"{path}/{action}", title="taken")
        assert answer.status_code == 404, action
    for action in ("again", "edit", "go-on", "results", "branch", "thumb", "wording"):
        answer = two.post(f"{turn}/{action}", model="echo", message="x")
        assert answer.status_code == 404, action
    sent = two.post(path, model="echo", message="x")
    assert sent.status_code == 404
    assert "secret" not in two.get(f"{CHAT}/list").text
    assert "secret" not in two.get(f"{CHAT}/export.json").text
    two.post(f"{CHAT}/delete-all")
    assert echo.running == 1
    stopped = one.post(f"{path}/stop")
    assert "Stopped at" in stopped.text and echo.left_early == 1


def test_a_form_without_its_token_is_refused(make: Callable[..., TestClient]) -> None:
    person = Person(make(), "key-one")
    del person.headers["x-token"]
    answer = person.post(CHAT, message="x", model="echo")
    assert answer.status_code == 403


def test_the_stream_grows_and_closes(
    make: Callable[..., TestClient], echo: Echo
) -> None:
    echo.pause = 0.03
    person = Person(make(), "key-one")
    text = "first paragraph\n\nsecond one\n\nthird with several more words in it"
    _, turn = parts(person.say(text))
    events = str(person.get(f"{turn}/stream").text)
    kinds = re.findall(r"^event: (\w+)$", events, re.MULTILINE)
    assert kinds[0] == "answer" and kinds[-2:] == ["done", "end"]
    assert {"said", "tail"} <= set(kinds)
    assert events.count("<p>first paragraph</p>") <= 3
    late = str(person.get(f"{turn}/stream").text)
    assert re.findall(r"^event: (\w+)$", late, re.MULTILINE) == ["done", "end"]


def test_the_stream_stops_with_the_server(
    make: Callable[..., TestClient], echo: Echo
) -> None:
    echo.pause = 0.05
    client = make()
    person = Person(client, "key-one")
    path, turn = parts(person.say("some words " * 30))
    client.app.state.services.admission.drain()
    events = person.get(f"{turn}/stream").text
    assert "event: answer" in events and "event: end" not in events
    assert echo.running == 1
    person.post(f"{path}/stop")


def test_a_restart_leaves_what_was_stored(
    make: Callable[..., TestClient], echo: Echo
) -> None:
    client = make()
    person = Person(client, "key-one")
    address = person.say("hello there")
    person.answered(address)
    conversations = client.app.state.services.conversations
    turn_id = address.partition("turn=")[2]
    [key_id] = {row.key_id for row in _rows(conversations)}
    turn = conversations.turn(key_id, turn_id)
    details = {**turn.details, "status": "running"}
    conversations.answer(key_id, turn_id, turn.output, "echo", details)
    page = person.answered(address)
    assert "The server stopped in the middle" in page and "hello there" in page
    assert "Go on" in page
    conversations.answer(key_id, turn_id, [], "echo", details)
    assert "Answer again" in person.answered(address)


def _rows(conversations: Conversations) -> list[Conversation]:
    with conversations.records.reading() as session:
        return list(session.scalars(select(Conversation)))


def test_without_storing_one_still_talks(
    make: Callable[..., TestClient], echo: Echo
) -> None:
    client = make(keep_conversations=False)
    person = Person(client, "key-one")
    assert "This server keeps no conversations" in person.get(CHAT).text
    address = person.say("one two")
    assert "one two" in person.answered(address)
    path, _ = parts(address)
    second = person.say("three", path, parent=address.partition("turn=")[2])
    assert "three" in person.answered(second)
    assert len(echo.requests[-1].messages or ()) == 3
    conversations = client.app.state.services.conversations
    assert _rows(conversations) == []
    assert Person(client, "key-two").get(address).status_code == 404


def test_only_one_answer_is_written_at_a_time(
    make: Callable[..., TestClient], echo: Echo
) -> None:
    echo.pause = 0.05
    person = Person(make(), "key-one")
    path, turn = parts(person.say("some words " * 20))
    busy = person.post(path, message="x", model="echo")
    assert busy.status_code == 409
    again = person.post(f"{turn}/again", model="echo")
    assert again.status_code == 409
    assert person.post(f"{path}/delete").status_code == 204
    assert echo.left_early == 1


def test_a_page_is_small_and_says_where_it_is(make: Callable[..., TestClient]) -> None:
    person = Person(make(), "key-one")
    del person.headers["hx-request"]
    page = person.get(CHAT).text
    assert len(page.encode()) < 100_000
    assert page.count("<h1") == 1 and '<main class="chat" id="main"' in page
    assert 'style="' not in page and "<script>" not in page
    missing = person.get(f"{CHAT}/conv_none")
    assert missing.status_code == 404 and "no conversation" in missing.text


def test_settings_stay_with_a_conversation(
    make: Callable[..., TestClient], echo: Echo
) -> None:
    person = Person(make(), "key-one")
    address = person.say("hello", system="Be brief.", seed="5", max_tokens="9")
    person.answered(address)
    request = echo.requests[-1]
    assert (request.messages or ())[0] == {"role": "system", "content": "Be brief."}
    assert (request.seed, request.max_new_tokens) == (5, 9)
    path, turn = parts(address)
    person.post(f"{path}/settings", system="Be long.", seed="6")
    person.answered(
        str(person.post(f"{turn}/again", model="echo").headers["hx-push-url"])
    )
    request = echo.requests[-1]
    assert (request.messages or ())[0]["content"] == "Be long." and request.seed == 6


class Looker(Echo):
    """Is asked about one picture, and knows no dialogue."""

    chats = False
    abilities = Abilities(frozenset({"seed", "image", "prompt", "max_new_tokens"}))


def png(width: int = 8) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_goes_to_a_model_that_reads_it_and_to_no_other(echo: Echo) -> None:
    settings = Settings(hosts=("testserver",), workers=0)
    looker = Looker()
    pool = toy_pool(settings, echo=echo, looker=looker)
    plain = pool.facts
    pool.facts = lambda name: (
        {**plain(name), "chats": False, "inputs": ["text", "image"]}
        if name == "looker"
        else plain(name)
    )
    with TestClient(
        create_app(Services(settings, pool, Admission(settings)))
    ) as client:
        person = Person(client, "none")
        for model in ("echo", "looker"):
            answer = client.post(
                CHAT,
                headers=person.headers,
                data={"message": "what is it?", "model": model},
                files={"files": ("red.png", png(), "image/png")},
            )
            if model == "echo":
                assert "echo reads no pictures" in answer.text
        page = person.answered(answer.headers["hx-push-url"])
    assert 'src="data:image/png;base64,' in page and "red.png" in page
    assert np.shape(looker.requests[-1].image) == (8, 8, 3)
