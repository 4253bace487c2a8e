"""The server's API as a client sees it: what belongs to a key, and waiting for a job to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

SECONDS = 120.0
"""The longest that anything here may take, on a machine that is busy with other work."""
ENDED = ("succeeded", "completed", "failed", "cancelled", "expired")
"""Statuses of jobs and batches that do not change any more."""


def wait_until(condition: Callable[[], object], pause: float = 0.01) -> None:
    """Until `condition()` is true. Raises TimeoutError."""
    until = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"it did not happen within {SECONDS:.0f} s")
        time.sleep(pause)


def get_json(client: httpx.Client, path: str, **parameters: Any) -> dict[str, Any]:
    response = client.get(path, params=parameters)
    response.raise_for_status()
    return dict(response.json())


def post_json(
    client: httpx.Client, path: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    response = client.post(path, json=body)
    response.raise_for_status()
    return dict(response.json())


def upload(client: httpx.Client, path: Path, purpose: str) -> str:
    """The id of the file."""
    response = client.post(
        "/v1/files",
        files={"file": (path.name, path.read_bytes())},
        data={"purpose": purpose},
    )
    response.raise_for_status()
    return str(response.json()["id"])


def wait_for_end(client: httpx.Client, path: str) -> dict[str, Any]:
    """The job or batch at `path`, once it has ended."""
    wait_until(lambda: get_json(client, path)["status"] in ENDED, 0.1)
    return get_json(client, path)


def listing(client: httpx.Client) -> dict[str, Any]:
    """Everything that belongs to the client's key; jobs by their paths."""
    jobs = {
        f"/v1/{kind}/jobs/{job['id']}": job
        for kind in ("fine_tuning", "training")
        for job in get_json(client, f"/v1/{kind}/jobs", limit=100)["data"]
    }
    batches = {
        f"/v1/batches/{batch['id']}": batch
        for batch in get_json(client, "/v1/batches", limit=100)["data"]
    }
    return {
        "files": get_json(client, "/v1/files")["data"],
        "jobs": {**jobs, **batches},
        "events": {
            path: get_json(client, f"{path}/events", limit=1000)["data"]
            for path in jobs
        },
        "checkpoints": {
            path: get_json(client, f"{path}/checkpoints", limit=1000)["data"]
            for path in jobs
        },
        "feedback": get_json(client, "/v1/feedback"),
        "pairs": client.get("/v1/feedback/export").text,
        "usage": get_json(client, "/v1/usage", days=366),
    }
