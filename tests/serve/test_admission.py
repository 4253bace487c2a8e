"""Places, the queue and who leaves it; rates and budgets."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, toy_pool
from tests.serve.databases import database, postgres
from tests.serve.live import live, wait_until
from tests.serve.probe import with_probe

from miaobi.serve import admission as admissions
from miaobi.serve import keyring
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.callers import Caller
from miaobi.serve.database import open_records
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.serve.usage import Ledger, of_key, today

__all__ = ["database", "postgres"]
ME = Caller()
pytestmark = pytest.mark.anyio


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_first_come_first_served_and_no_more_than_there_are_slots() -> None:
    admission = Admission(Settings(streams=2, queue=100))
    order = list[int]()
    together = list[int]()

    async def one(at: int) -> None:
        async with admission.slot(ME, "m"):
            order.append(at)
            together.append(admission.running["m"])
            await asyncio.sleep(0)

    await asyncio.gather(*(one(at) for at in range(50)))
    assert order == list(range(50)) and max(together) == 2
    assert not admission.running and not admission.waiting


async def test_models_have_slots_of_their_own() -> None:
    admission = Admission(Settings(streams=1, queue=0))
    async with admission.slot(ME, "a"), admission.slot(ME, "b"):
        assert admission.running == {"a": 1, "b": 1}
        with pytest.raises(ApiError) as refused:
            async with admission.slot(ME, "a"):
                pytest.fail("two in one slot")
    assert (
        refused.value.status == 429
        and refused.value.retry_after
        and refused.value.code == "queue_full"
    )


async def test_whoever_stops_waiting_leaves_the_queue_and_takes_no_slot() -> None:
    admission = Admission(Settings(streams=1, queue=10))
    entered = list[int]()

    async def one(at: int) -> None:
        async with admission.slot(ME, "m"):
            entered.append(at)

    async with admission.slot(ME, "m"):
        tasks = [asyncio.create_task(one(at)) for at in range(4)]
        await settled()
        assert admission.waiting == 4
        tasks[0].cancel()
        tasks[2].cancel()
        await settled()
        assert admission.waiting == 2
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered == [1, 3] and not admission.running


async def test_one_who_leaves_in_the_moment_of_being_called_passes_the_slot_on() -> (
    None
):
    admission = Admission(Settings(streams=1, queue=10))
    entered = list[int]()

    async def one(at: int) -> None:
        async with admission.slot(ME, "m"):
            entered.append(at)

    slot = admission.slot(ME, "m")
    await slot.__aenter__()
    tasks = [asyncio.create_task(one(at)) for at in range(2)]
    await settled()
    await slot.__aexit__(None, None, None)
    tasks[0].cancel()  # the slot is his already, but he has not run since
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered == [1] and not admission.running


async def test_errors_and_cancellations_inside_free_the_slot() -> None:
    admission = Admission(Settings(streams=1, queue=0))
    for error in (ValueError("x"), asyncio.CancelledError(), ApiError(404, "x")):
        with pytest.raises(type(error)):
            async with admission.slot(ME, "m"):
                raise error
    assert not admission.running


async def test_waiting_has_an_end() -> None:
    admission = Admission(Settings(streams=1, queue=5, wait_seconds=0.02))
    async with admission.slot(ME, "m"):
        with pytest.raises(ApiError) as late:
            async with admission.slot(ME, "m"):
                pytest.fail("two in one slot")
    assert (
        late.value.status == 429
        and late.value.code == "queue_late"
        and not admission.running
        and not admission.waiting
    )


async def test_draining_lets_those_inside_end_and_sends_the_others_away() -> None:
    admission = Admission(Settings(streams=1, queue=5))
    async with admission.slot(ME, "m"):
        waiting = asyncio.create_task(admission.slot(ME, "m").__aenter__())
        await settled()
        admission.drain()
        with pytest.raises(ApiError) as refusal:
            await waiting
        assert refusal.value.status == 503 and refusal.value.retry_after
        with pytest.raises(ApiError, match="stopping"):
            async with admission.slot(ME, "other"):
                pytest.fail("let in while stopping")
        assert admission.running == {"m": 1}
    assert not admission.running


async def test_requests_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(admissions.time, "monotonic", lambda: now)
    admission = Admission(Settings())
    caller = Caller("key-1", "team", requests_per_minute=2)

    async def ask() -> None:
        async with admission.slot(caller, "m"):
            pass

    await ask()
    now += 30
    await ask()
    with pytest.raises(ApiError) as refused:
        await ask()
    assert (
        refused.value.status == 429
        and refused.value.retry_after == 30
        and refused.value.code == "rate_limit_exceeded"
    )
    async with admission.slot(Caller("key-2"), "m"):
        pass
    now += 30.1  # the first is a minute ago, the second is not
    await ask()
    with pytest.raises(ApiError):
        await ask()


def probed(settings: Settings, echo: Echo) -> tuple[Services, Any]:
    services = Services(settings, toy_pool(settings, echo=echo), Admission(settings))
    return services, with_probe(create_app(services))


def test_budgets_survive_a_restart_and_usage_is_reported() -> None:
    settings = Settings(hosts=("testserver",), studio=False)
    bearer = {
        "authorization": f"Bearer {keyring.create('team', requests_per_minute=100, tokens_per_day=10).key}"
    }
    for expected in (200, 200, 429):
        _, app = probed(settings, Echo())
        with TestClient(app) as client:
            answer = client.post(
                "/probe/say", json={"say": "one two three"}, headers=bearer
            )
            assert answer.status_code == expected
            assert (
                answer.headers["x-ratelimit-limit-requests"] == "100"
                and answer.headers["x-ratelimit-remaining-requests"] == "99"
            )
            assert answer.headers["x-ratelimit-limit-tokens"] == "10"
            if expected == 429:
                assert (
                    answer.json()["error"]["code"] == "insufficient_quota"
                    and int(answer.headers["retry-after"]) > 0
                )
                assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
            used = client.get("/v1/usage", headers=bearer).json()
    assert [
        (row["model"], row["requests"], row["prompt_tokens"], row["completion_tokens"])
        for row in used["data"]
    ] == [("echo", 2, 6, 6)]


def tokens(read: int, written: int) -> dict[str, float]:
    return {"prompt_tokens": read, "completion_tokens": written}


async def test_several_servers_share_one_account_on_either_database(
    database: str,
) -> None:
    """Rows are added to, never replaced, and each server learns what the others used."""
    records = [open_records(database) for _ in range(2)]
    ledgers = [Ledger(), Ledger()]
    for ledger, opened in zip(ledgers, records):
        ledger.records = opened
        assert await ledger.tokens_today("key-1") == 0
    for at in range(3):
        for ledger in ledgers:
            ledger.add("key-1", "echo", tokens(10, 5))
            ledger.add("key-2", f"model-{at}", {**tokens(1, 1), "beeps": 0.5})
        await asyncio.gather(*(ledger.write() for ledger in ledgers))
    for ledger in ledgers:
        await ledger.write()
        assert await ledger.tokens_today("key-1") == 90
    assert of_key(records[0], "key-1", 1) == [
        {
            "day": today(),
            "model": "echo",
            "requests": 6,
            "prompt_tokens": 60,
            "completion_tokens": 30,
            "pictures": 0,
        }
    ]
    others = of_key(records[0], "key-2", 1)
    assert [row["model"] for row in others] == ["model-0", "model-1", "model-2"]
    # A unit that nothing but its route has heard of.
    assert [row["beeps"] for row in others] == [1, 1, 1]
    assert of_key(records[0], "key-3", 1) == []
    for opened in records:
        opened.close()


async def test_usage_that_could_not_be_written_is_written_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services, _ = probed(Settings(studio=False), Echo())
    await services.open()
    ledger = services.admission.ledger
    try:
        ledger.add("key-1", "echo", tokens(2, 3))
        with monkeypatch.context() as patch:
            patch.setattr(
                type(ledger),
                "_write",
                staticmethod(lambda *_: (_ for _ in ()).throw(OSError("disk full"))),
            )
            with pytest.raises(OSError, match="disk full"):
                await ledger.write()
        assert await ledger.tokens_today("key-1") == 5
        ledger.add("key-1", "echo", tokens(1, 1))
        await ledger.write()
        await ledger.write()
        assert await ledger.tokens_today("key-1") == 7
    finally:
        await services.close()


@pytest.mark.parametrize("path", ["/probe/say", "/probe/stream"])
def test_a_client_that_leaves_frees_its_slot_at_once(path: str) -> None:
    """Concurrency one: a long answer is left while it is written, another while it
    still waits; the next begins at once.
    """
    echo = Echo(pause=0.02)
    services, app = probed(Settings(streams=1, queue=8, studio=False), echo)
    body = json.dumps({"say": "word " * 5000})
    with live(app) as address:

        def ask() -> socket.socket:
            connection = socket.create_connection(
                ("127.0.0.1", int(address.rsplit(":", 1)[1]))
            )
            connection.sendall(
                (
                    f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                    f"application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                ).encode()
            )
            return connection

        first = ask()
        wait_until(lambda: echo.running == 1)
        second = ask()
        wait_until(lambda: services.admission.waiting == 1)
        second.close()
        wait_until(lambda: services.admission.waiting == 0)
        assert echo.running == 1
        first.close()
        wait_until(lambda: echo.running == 0 and not services.admission.running)
        assert echo.left_early == 1
        answer = httpx.post(f"{address}{path}", json={"say": "at once"}, timeout=30)
        assert answer.status_code == 200 and "at once" in answer.text


def test_ten_times_the_capacity_is_refused_and_nothing_stays_behind() -> None:
    echo = Echo(pause=0.005)
    services, app = probed(Settings(streams=2, queue=8, studio=False), echo)
    with live(app) as address:

        async def flood() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(
                base_url=address, limits=limits, timeout=60
            ) as client:
                return await asyncio.gather(
                    *(
                        client.post(
                            "/probe/say", json={"say": "a few words are said here"}
                        )
                        for _ in range(100)
                    )
                )

        asyncio.run(flood())
        for _ in range(2):
            answers = asyncio.run(flood())
            counts = {
                status: sum(answer.status_code == status for answer in answers)
                for status in (200, 429)
            }
            assert counts[200] + counts[429] == 100 and counts[200] >= 10
            assert all(
                int(answer.headers["retry-after"]) >= 1
                for answer in answers
                if answer.status_code == 429
            )
        assert not services.admission.running and not services.admission.waiting
        assert httpx.post(f"{address}/probe/say", json={"say": "well"}).json() == {
            "text": "well"
        }
