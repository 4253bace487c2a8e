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
from miaobi.serve.records import new_id

__all__ = ["database", "postgres"]


@pytest.fixture
def queue(database: str) -> Iterator[Queue]:
    records = open_records(database)
    yield Queue(records)
    records.close()


class Clock:
    """The queue's time, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000
        monkeypatch.setattr(jobs, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def add(queue: Queue, kind: str = "toy") -> str:
    return queue.add(kind, "a", {"x": 1}, new_id("job")).id


def claim(queue: Queue, holder: str) -> str | None:
    """The id of the job that `holder` got."""
    job = queue.claim(holder)
    return None if job is None else job.id


def messages(queue: Queue, id: str) -> list[str]:
    return [event.message for event in queue.events(id, ("message",))]


def test_a_life(queue: Queue) -> None:
    """Added, claimed, under way, ended; with the events of each step."""
    id = add(queue)
    job = queue.claim("me")
    assert job is not None
    assert (job.id, job.status) == (id, "running")
    assert queue.claim("you") is None
    assert queue.progress(id, "me", {"step": 1}) is False
    queue.record_event(id, "me", "metrics", "step 1", {"loss": 2.0})
    queue.end(id, "me", "succeeded", "Done.", {"model": "m"})
    job = queue.find(id, "toy", "a")
    assert job.status == "succeeded"
    assert job.result == {"step": 1, "model": "m"}
    assert job.ended
    assert job.holder is None
    assert messages(queue, id) == [
        "Accepted; waiting for its turn.",
        "Started.",
        "Done.",
    ]
    events = queue.events(id, ("message", "metrics"))
    assert [event.number for event in events] == [1, 2, 3, 4]
    (metrics,) = queue.events(id, ("metrics",))
    assert metrics.data == {"loss": 2.0}
    assert queue.counts() == {"succeeded": 1}
    with pytest.raises(Lost):
        queue.end(id, "me", "failed", "Again.", {})


def test_the_oldest_job_comes_first_and_goes_to_one_holder(queue: Queue) -> None:
    """Also where four threads claim at the same time."""
    ids = [add(queue) for _ in range(12)]
    claimed = list[str]()

    def take(name: str) -> None:
        while job := queue.claim(f"{name}{len(claimed)}"):
            claimed.append(job.id)

    threads = [threading.Thread(target=take, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(ids)
    assert len(set(claimed)) == 12
    last = [add(queue), add(queue)]
    assert [claim(queue, "x"), claim(queue, "y")] == sorted(last)


def test_a_holder_that_does_not_renew_loses_its_job(queue: Queue, clock: Clock) -> None:
    id = add(queue)
    queue.claim("old")
    clock.now += LEASE_SECONDS
    queue.renew(id, "old")
    clock.now += LEASE_SECONDS
    assert queue.claim("new") is None
    clock.now += 1
    assert claim(queue, "new") == id
    with pytest.raises(Lost):
        queue.renew(id, "old")
    with pytest.raises(Lost):
        queue.progress(id, "old", {})
    with pytest.raises(Lost):
        queue.record_event(id, "old", "message", "x", {})
    with pytest.raises(Lost):
        queue.end(id, "old", "succeeded", "x", {})
    queue.give_back(id, "old")
    queue.end(id, "new", "succeeded", "Done.", {})
    assert messages(queue, id) == [
        "Accepted; waiting for its turn.",
        "Started.",
        "Goes on.",
        "Done.",
    ]


def test_a_job_whose_process_keeps_dying_fails_with_the_reason(queue: Queue) -> None:
    """The reason is the last one."""
    id = add(queue)
    for attempt in range(ATTEMPTS):
        assert queue.claim(str(attempt)) is not None
        queue.give_back(id, str(attempt), died="killed by signal 11")
    job = queue.find(id, "toy", "a")
    assert job.status == "failed"
    assert job.error == {
        "code": "crashed",
        "message": "killed by signal 11",
        "param": None,
    }
    assert queue.claim("x") is None


def test_one_whose_servers_keep_dying_fails_too(queue: Queue, clock: Clock) -> None:
    """Its leases end, and nobody gives it back."""
    id = add(queue)
    for attempt in range(ATTEMPTS):
        assert queue.claim(str(attempt)) is not None
        clock.now += LEASE_SECONDS + 1
    assert queue.claim("x") is None
    assert queue.find(id, "toy", "a").status == "failed"


def test_getting_further_counts_anew_and_a_server_that_goes_down_costs_nothing(
    queue: Queue,
) -> None:
    """By turns the server stops, and the process gets further and dies."""
    id = add(queue)
    for attempt in range(3 * ATTEMPTS):
        holder = str(attempt)
        assert claim(queue, holder) == id
        if attempt % 2 == 0:
            queue.give_back(id, holder)
            continue
        queue.progress(id, holder, {"step": attempt})
        queue.give_back(id, holder, died="killed")
    assert queue.find(id, "toy", "a").status == "queued"


def test_cancelling(queue: Queue) -> None:
    """One that waits and one that runs end at once; a gentle request lets a running one
    end with the result that it has.
    """
    waiting = add(queue)
    running = add(queue)
    stopped = add(queue)
    assert queue.cancel(waiting).status == "cancelled"
    queue.claim("a")
    assert queue.cancel(running).status == "cancelled"
    with pytest.raises(Lost):
        queue.end(running, "a", "succeeded", "Done.", {})
    queue.claim("b")
    assert queue.cancel(stopped, gently=True).status == "running"
    assert queue.progress(stopped, "b", {}) is True
    queue.end(stopped, "b", "cancelled", "Stopped.", {"half": 1})
    assert queue.cancel(stopped).status == "cancelled"
    assert messages(queue, stopped)[-1] == "Stopped."


def test_pausing_and_resuming(queue: Queue) -> None:
    """A paused job has no holder until it is resumed and claimed again."""
    id = add(queue)
    queue.claim("a")
    assert queue.pause(id).status == "paused"
    assert queue.claim("b") is None
    with pytest.raises(Lost):
        queue.renew(id, "a")
    assert queue.resume(id).status == "queued"
    assert claim(queue, "b") == id


def test_what_a_dead_server_of_this_machine_held_is_free_at_once(queue: Queue) -> None:
    """Not so the jobs of a server that runs, or of one on another machine."""
    mine = add(queue)
    dead = add(queue)
    elsewhere = add(queue)
    holders = {
        mine: new_holder(),
        dead: f"{socket.gethostname()}:{os.getpid()}:1.00:x",
        elsewhere: "far-away:1:1.00:x",
    }
    for id in sorted(holders):
        queue.claim(holders[id])
    queue.free_abandoned()
    assert claim(queue, "next") == dead
    assert claim(queue, "next") is None


def test_others_jobs_are_as_if_they_were_not(queue: Queue) -> None:
    """Neither another key nor another kind of job leads to it."""
    id = add(queue)
    for kind, key in (("toy", "b"), ("batch", "a")):
        with pytest.raises(ApiError) as caught:
            queue.find(id, kind, key)
        assert caught.value.status == 404
    assert queue.listed("toy", "b", None, 10) == []
    assert [job.id for job in queue.listed("toy", "a", None, 10)] == [id]


def test_pages(queue: Queue) -> None:
    """The first page has one job more than its limit, which says that there is another."""
    ids = sorted((add(queue) for _ in range(3)), reverse=True)
    first = queue.listed("toy", "a", None, 2)
    assert [job.id for job in first] == ids
    second = queue.listed("toy", "a", ids[1], 2)
    assert [job.id for job in second] == ids[2:]
