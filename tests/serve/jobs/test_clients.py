"""Files, batches and fine-tuning jobs through the official client, over a real socket."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import openai
import pytest
from fastapi import FastAPI
from openai import OpenAI
from tests.serve.live import live

CHAT = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
}


@pytest.fixture
def client(app: FastAPI) -> Iterator[OpenAI]:
    with (
        live(app) as address,
        OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_files(client: OpenAI) -> None:
    data = json.dumps(CHAT).encode() + b"\n"
    new = client.files.create(
        file=("chats.jsonl", io.BytesIO(data)),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (
        new.expires_at == new.created_at + 3600 and client.files.retrieve(new.id) == new
    )
    assert client.files.content(new.id).read() == data and [
        item.id for item in client.files.list(limit=1)
    ] == [new.id]
    assert client.files.delete(new.id).deleted
    with pytest.raises(openai.NotFoundError, match="There is no file"):
        client.files.retrieve(new.id)


def test_batches(client: OpenAI) -> None:
    row = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "echo", "messages": CHAT["messages"][:1]},
    }
    file = client.files.create(file=json.dumps(row).encode(), purpose="batch")
    new = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"for": "me"},
    )
    assert (
        new.status == "validating"
        and client.batches.retrieve(new.id).id == new.id
        and [item.id for item in client.batches.list()] == [new.id]
    )
    done = client.batches.cancel(new.id)
    assert (
        done.status == "cancelled"
        and done.cancelled_at
        and done.request_counts is not None
        and done.request_counts.total == 0
    )


def test_fine_tuning(client: OpenAI) -> None:
    file = client.files.create(
        file=("chats.jsonl", json.dumps(CHAT).encode()), purpose="fine-tune"
    )
    jobs = client.fine_tuning.jobs
    ids = [
        jobs.create(
            model="echo",
            training_file=file.id,
            suffix="x",
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": "auto"}},
            },
            extra_body={"miaobi": {"train.max_steps": 2}},
        ).id
        for _ in range(3)
    ]
    assert [job.id for job in jobs.list(limit=2)] == sorted(
        ids, reverse=True
    )  # by pages
    assert (
        jobs.pause(ids[0]).status == "paused"
        and jobs.resume(ids[0]).status == "queued"
        and jobs.cancel(ids[0]).status == "cancelled"
    )
    assert [event.message for event in jobs.list_events(ids[0], limit=2)][
        -1
    ] == "Accepted; waiting for its turn."
    assert (
        list(jobs.checkpoints.list(ids[0])) == [] and jobs.retrieve(ids[0]).finished_at
    )
    with pytest.raises(openai.BadRequestError, match=r"train\.max_steps"):
        jobs.create(
            model="echo",
            training_file=file.id,
            extra_body={"miaobi": {"train.max_stepz": 2}},
        )
