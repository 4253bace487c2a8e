"""kill -9 at random moments of uploads, batches and training jobs, whole processes over
sockets: nothing lost, nothing twice, nothing half-written.

Jobs' own processes are killed in test_worker.py. The models are toys that another
package brings, as engines do.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.serve.live import wait_until
from tests.serve.packages import installed

from miaobi.core import bundle
from miaobi.core.files import home
from miaobi.core.store import Store

ROOT = Path(__file__).parents[3]
SERVER = (
    "import sys; from miaobi.serve.command import serve; "
    "serve(port=int(sys.argv[1]), workers=1, streams=2, no_studio=True, "
    "log_level='error')"
)


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of another package, and a model for it in the store."""
    installed(
        tmp_path / "package", "toy_engine", "miaobi.engines", "toy_engine", monkeypatch
    )
    bundle.write(
        tmp_path / "bundle",
        bundle.Manifest("toy", "text"),
        lambda draft: (draft / "config.json").write_text("{}"),
    )
    Store().add(tmp_path / "bundle", "toy")
    measured = {
        "engine": "toy",
        "format": "bundle",
        "parameters": 1.0,
        "tokens_per_second": {"1": 1000.0},
    }
    (home() / "measurements.json").write_text(json.dumps({"rows": [measured]}))


class Server:
    """A real one, killed and started again."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.address = ""
        self.up()

    def up(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, "0"],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        self.address = first.split()[-1].removesuffix("/v1")

        def ready() -> bool:
            with suppress(httpx.HTTPError):
                return httpx.get(f"{self.address}/ready", timeout=5).status_code == 200
            return False

        wait_until(ready, 60)

    def kill(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def served() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.kill()


def uploads(
    server: Server, stop: threading.Event, stored: dict[str, str], chance: random.Random
) -> None:
    """One after another; `kept`: what the server said it has, with its sha256."""
    while not stop.is_set():
        data = chance.randbytes(chance.randint(1, 3_000_000))
        with suppress(httpx.HTTPError, KeyError, ValueError):
            answer = httpx.post(
                f"{server.address}/v1/files",
                files={"file": ("x", data)},
                data={"purpose": "user_data"},
                timeout=10,
            )
            stored[answer.json()["id"]] = hashlib.sha256(data).hexdigest()


def kill_uploads(rounds: int, chance: random.Random) -> None:
    stored = dict[str, str]()
    stop = threading.Event()
    with served() as server:
        thread = threading.Thread(
            target=uploads, args=(server, stop, stored, random.Random(1))
        )
        thread.start()
        try:
            for _ in range(rounds):
                time.sleep(chance.uniform(0.05, 0.5))
                server.kill()
                server.up()
        finally:
            stop.set()
            thread.join()
        server.kill()
        server.up()
        there = {
            item["id"]: item
            for item in httpx.get(f"{server.address}/v1/files").json()["data"]
        }
        assert (
            stored.keys() <= there.keys()
        )  # what was answered is there; what was cut off between record and answer may be too
        folder = home() / "server" / "files"
        assert sorted(path.name for path in folder.iterdir()) == sorted(there)
        for id, item in there.items():
            data = (folder / id).read_bytes()
            assert (
                len(data) == item["bytes"]
                and stored.get(id, hashlib.sha256(data).hexdigest())
                == hashlib.sha256(data).hexdigest()
            )


def requests(count: int) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": str(number),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "model": "toy",
                    "messages": [{"role": "user", "content": f"say {number}"}],
                },
            }
        ).encode()
        + b"\n"
        for number in range(count)
    )


def kill_batches(count: int, rounds: int, chance: random.Random) -> None:
    with served() as server:
        file = httpx.post(
            f"{server.address}/v1/files",
            files={"file": ("in.jsonl", requests(count))},
            data={"purpose": "batch"},
        ).json()["id"]
        batch_id = httpx.post(
            f"{server.address}/v1/batches",
            json={
                "input_file_id": file,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        ).json()["id"]
        for _ in range(rounds):
            time.sleep(chance.uniform(0.5, 4))
            kill_one(server, chance)

        def look() -> dict[str, Any]:
            return dict(
                httpx.get(f"{server.address}/v1/batches/{batch_id}", timeout=30).json()
            )

        wait_until(lambda: look()["status"] in ("completed", "failed"), 120)
        done = look()
        assert done["status"] == "completed" and done["request_counts"] == {
            "total": count,
            "completed": count,
            "failed": 0,
        }, done
        rows = [
            json.loads(line)
            for line in httpx.get(
                f"{server.address}/v1/files/{done['output_file_id']}/content"
            ).text.splitlines()
        ]
        assert [row["custom_id"] for row in rows] == [
            str(number) for number in range(count)
        ]
        assert all(
            row["response"]["body"]["choices"][0]["message"]["content"]
            == f"say {row['custom_id']}"
            for row in rows
        )
        files = httpx.get(f"{server.address}/v1/files").json()["data"]
        assert sorted(item["purpose"] for item in files) == ["batch", "batch_output"]
        assert sorted(
            path.name for path in (home() / "server" / "files").iterdir()
        ) == sorted(item["id"] for item in files)


def kill_one(server: Server, chance: random.Random) -> None:
    """The job's process or the server, which takes that with it."""
    assert server.process is not None
    workers = psutil.Process(server.process.pid).children()
    if workers and chance.random() < 0.5:
        with suppress(ProcessLookupError):
            os.kill(workers[0].pid, signal.SIGKILL)
    else:
        server.kill()
        server.up()


class Trainings:
    """Training jobs of a server that gets killed, all alike."""

    def __init__(self, server: Server, steps: int) -> None:
        self.server = server
        lines = "".join(
            f"the {number} th line rhymes with line {number * 7 % 100}\n"
            for number in range(2000)
        )
        file = httpx.post(
            f"{server.address}/v1/files",
            files={"file": ("lines.txt", lines.encode())},
            data={"purpose": "user_data"},
        ).json()["id"]
        self.fields = {
            "recipe": "my-corpus",
            "training_file": file,
            "seed": 3,
            "miaobi": {
                "train.max_steps": steps,
                "train.checkpoint_every": 10,
                "train.validate_every": 50,
                "train.sample_every": 50,
                "train.log_every": 5,
                "train.patience": 0,
                "train.batch_size": 16,
                "model.num_layers": 1,
                "model.hidden_size": 32,
                "data.context_length": 32,
                "sample.max_new_tokens": 8,
            },
        }

    def start(self) -> str:
        return str(
            httpx.post(
                f"{self.server.address}/v1/training/jobs", json=self.fields, timeout=30
            ).json()["id"]
        )

    def look(self, id: str) -> dict[str, Any]:
        return dict(
            httpx.get(f"{self.server.address}/v1/training/jobs/{id}", timeout=30).json()
        )

    def runs(self, id: str) -> bool:
        return self.look(id)["status"] in ("queued", "running")

    def model_of(self, id: str) -> bytes:
        """The weights it ended with; what it told on the way came once and in order,
        and nothing is left of its work.
        """
        wait_until(lambda: not self.runs(id), 300)
        job = self.look(id)
        assert (
            job["status"] == "succeeded"
            and len(Store().versions(job["trained_model"])) == 1
        ), job
        events = httpx.get(
            f"{self.server.address}/v1/training/jobs/{id}/events",
            params={"limit": 1000},
        ).json()["data"]
        steps = [
            event["data"]["step"]
            for event in reversed(events)
            if "train_loss" in event["data"]
        ]
        assert (
            steps
            == list(range(5, self.fields["miaobi"]["train.max_steps"] + 1, 5))[
                -len(steps) :
            ]
            and len(steps) > 50
        )
        wait_until(
            lambda: (
                [path.name for path in (home() / "server" / "jobs" / id).iterdir()]
                == ["log.txt"]
            )
        )
        return next(
            Store().resolve(job["trained_model"]).path.glob("*.safetensors")
        ).read_bytes()


def kill_training(steps: int, rounds: int, chance: random.Random) -> None:
    """Jobs that are killed make the model that one makes which is left alone, to the bit."""
    with served() as server:
        jobs = Trainings(server, steps)
        ids = [jobs.start()]
        whole = jobs.model_of(ids[0])
        kills = 0
        while kills < rounds:
            ids.append(jobs.start())
            while kills < rounds and jobs.runs(ids[-1]):
                time.sleep(chance.uniform(3, 9))
                kill_one(server, chance)
                kills += 1
            assert jobs.model_of(ids[-1]) == whole
        files = httpx.get(f"{server.address}/v1/files").json()["data"]
        assert sorted(item["purpose"] for item in files) == ["fine-tune-results"] * len(
            ids
        ) + ["user_data"]
        assert sorted(
            path.name for path in (home() / "server" / "files").iterdir()
        ) == sorted(item["id"] for item in files)


def kill_offline(
    tmp_path: Path, count: int, rounds: int, chance: random.Random
) -> None:
    (tmp_path / "in.jsonl").write_bytes(requests(count))
    argv = [
        sys.executable,
        "-m",
        "miaobi.cli",
        "batch",
        str(tmp_path / "in.jsonl"),
        "--out",
        str(tmp_path / "out.jsonl"),
        "--streams",
        "2",
        "--json",
    ]
    journal = tmp_path / ".out.jsonl.journal"

    def size() -> int:
        return journal.stat().st_size if journal.exists() else 0

    for _ in range(rounds):
        run = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        until = time.monotonic() + chance.uniform(1, 10)
        before = size()
        while size() == before and run.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(
            chance.uniform(0, 0.3)
        )  # at some moment before or after it got anywhere
        run.kill()
        run.wait()
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    report = json.loads(done.stdout)
    rows = [
        json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ]
    assert [row["custom_id"] for row in rows] == [
        str(number) for number in range(count)
    ] and report["answered"] == count
    assert not journal.exists()


def test_uploads_that_are_killed_leave_whole_files_or_none() -> None:
    kill_uploads(1, random.Random(3))


def test_a_batch_whose_processes_are_killed_is_answered_whole_and_once() -> None:
    kill_batches(40, 2, random.Random(4))


def test_a_training_job_whose_processes_are_killed_makes_the_same_model() -> None:
    kill_training(400, 1, random.Random(9))


def test_an_offline_batch_that_is_killed_goes_on(tmp_path: Path) -> None:
    kill_offline(tmp_path, 40, 1, random.Random(5))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", ["uploads", "batches", "offline", "training"])
def test_a_hundred_kills(what: str, tmp_path: Path) -> None:
    {
        "uploads": lambda: kill_uploads(100, random.Random(6)),
        "batches": lambda: kill_batches(2000, 100, random.Random(7)),
        "offline": lambda: kill_offline(tmp_path, 1000, 100, random.Random(8)),
        "training": lambda: kill_training(3000, 100, random.Random(10)),
    }[what]()
