"""The queue: one holder at a time, ended once, nothing lost, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.serve.databases import database, postgres

from miaobi.serve import jobs
from miaobi.serve.database import open_records
from miaobi.serve.errors import ApiError
from miaobi.serve.jobs import ATTEMPTS, LEASE_SECONDS, Lost, Queue, new_holder
from miaobi.serve.records import Job, new_id

__all__ = ["database", "postgres"]


@pytest.fixture
def queue(database: str) -> Iterator[Queue]:
    records = open_records(database)
    yield Queue(records)
    records.close()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000
        monkeypatch.setattr(jobs, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def add(queue: Queue, kind: str = "toy") -> str:
    return queue.add(kind, "a", {"x": 1}, new_id("job")).id


def said(queue: Queue, id: str) -> list[str]:
    return [event.message for event in queue.events(id, ("message",))]


def test_a_life(queue: Queue) -> None:
    id = add(queue)
    job = queue.claim("me")
    assert (
        job is not None
        and job.id == id
        and job.status == "running"
        and queue.claim("you") is None
    )
    assert queue.progress(id, "me", {"step": 1}) is False
    queue.record_event(id, "me", "metrics", "step 1", {"loss": 2.0})
    queue.end(id, "me", "succeeded", "Done.", {"model": "m"})
    job = queue.find(id, "toy", "a")
    assert (
        job.status == "succeeded"
        and job.result == {"step": 1, "model": "m"}
        and job.ended
        and job.holder is None
    )
    assert said(queue, id) == ["Accepted; waiting for its turn.", "Started.", "Done."]
    assert [event.number for event in queue.events(id, ("message", "metrics"))] == [
        1,
        2,
        3,
        4,
    ]
    assert queue.events(id, ("metrics",))[0].data == {
        "loss": 2.0
    } and queue.counts() == {"succeeded": 1}
    with pytest.raises(Lost):
        queue.end(id, "me", "failed", "Again.", {})


def test_those_who_waited_longest_come_first_and_each_goes_to_one(queue: Queue) -> None:
    ids = [add(queue) for _ in range(12)]
    taken = list[str]()

    def take(name: str) -> None:
        while job := queue.claim(f"{name}{len(taken)}"):
            taken.append(job.id)

    threads = [threading.Thread(target=take, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids) and len(set(taken)) == 12
    last = add(queue), add(queue)
    assert [queue.claim("x").id, queue.claim("y").id] == sorted(last)  # type: ignore[union-attr]


def test_a_holder_that_went_silent_loses_its_job_and_its_voice(
    queue: Queue, clock: Clock
) -> None:
    id = add(queue)
    queue.claim("old")
    clock.now += LEASE_SECONDS
    queue.renew(id, "old")
    clock.now += LEASE_SECONDS
    assert queue.claim("new") is None
    clock.now += 1
    assert queue.claim("new").id == id  # type: ignore[union-attr]
    for call in (
        lambda: queue.renew(id, "old"),
        lambda: queue.progress(id, "old", {}),
        lambda: queue.record_event(id, "old", "message", "x", {}),
        lambda: queue.end(id, "old", "succeeded", "x", {}),
    ):
        with pytest.raises(Lost):
            call()
    queue.give_back(id, "old")
    queue.end(id, "new", "succeeded", "Done.", {})
    assert said(queue, id) == [
        "Accepted; waiting for its turn.",
        "Started.",
        "Goes on.",
        "Done.",
    ]


def test_a_job_whose_process_keeps_dying_fails_with_the_reason(queue: Queue) -> None:
    id = add(queue)
    for attempt in range(ATTEMPTS):
        assert queue.claim(str(attempt)) is not None
        queue.give_back(id, str(attempt), died="killed by signal 11")
    job = queue.find(id, "toy", "a")
    assert (
        job.status == "failed"
        and job.error
        == {"code": "crashed", "message": "killed by signal 11", "param": None}
        and queue.claim("x") is None
    )


def test_one_whose_servers_keep_dying_fails_too(queue: Queue, clock: Clock) -> None:
    id = add(queue)
    for attempt in range(ATTEMPTS):
        assert queue.claim(str(attempt)) is not None
        clock.now += LEASE_SECONDS + 1
    assert queue.claim("x") is None and queue.find(id, "toy", "a").status == "failed"


def test_getting_further_counts_anew_and_a_server_that_goes_down_costs_nothing(
    queue: Queue,
) -> None:
    id = add(queue)
    for attempt in range(3 * ATTEMPTS):
        assert queue.claim(str(attempt)) is not None
        if attempt % 2:
            queue.progress(id, str(attempt), {"step": attempt})
        queue.give_back(id, str(attempt), died="killed" if attempt % 2 else None)
    assert queue.find(id, "toy", "a").status == "queued"


def test_cancelling(queue: Queue) -> None:
    waiting, running, told = add(queue), add(queue), add(queue)
    assert queue.cancel(waiting).status == "cancelled"
    queue.claim("a")
    assert queue.cancel(running).status == "cancelled"
    with pytest.raises(Lost):
        queue.end(running, "a", "succeeded", "Done.", {})
    queue.claim("b")
    assert (
        queue.cancel(told, gently=True).status == "running"
        and queue.progress(told, "b", {}) is True
    )
    queue.end(told, "b", "cancelled", "Stopped.", {"half": 1})
    assert (
        queue.cancel(told).status == "cancelled" and said(queue, told)[-1] == "Stopped."
    )


def test_pausing_and_resuming(queue: Queue) -> None:
    id = add(queue)
    queue.claim("a")
    assert queue.pause(id).status == "paused" and queue.claim("b") is None
    with pytest.raises(Lost):
        queue.renew(id, "a")
    assert queue.resume(id).status == "queued" and queue.claim("b").id == id  # type: ignore[union-attr]


def test_what_a_dead_server_of_this_machine_held_is_free_at_once(queue: Queue) -> None:
    mine, dead, elsewhere = add(queue), add(queue), add(queue)
    holders = {
        mine: new_holder(),
        dead: f"{socket.gethostname()}:{os.getpid()}:1.00:x",
        elsewhere: "far-away:1:1.00:x",
    }
    for id in sorted(holders):
        queue.claim(holders[id])
    queue.free_abandoned()
    assert queue.claim("next").id == dead and queue.claim("next") is None  # type: ignore[union-attr]


def test_others_jobs_are_as_if_they_were_not(queue: Queue) -> None:
    id = add(queue)
    for kind, key in (("toy", "b"), ("batch", "a")):
        with pytest.raises(ApiError) as caught:
            queue.find(id, kind, key)
        assert caught.value.status == 404
    assert queue.listed("toy", "b", None, 10) == [] and [
        job.id for job in queue.listed("toy", "a", None, 10)
    ] == [id]


def test_pages(queue: Queue) -> None:
    ids = sorted((add(queue) for _ in range(3)), reverse=True)
    first = queue.listed("toy", "a", None, 2)
    assert [job.id for job in first] == ids and isinstance(first[0], Job)
    assert [job.id for job in queue.listed("toy", "a", ids[1], 2)] == ids[2:]
