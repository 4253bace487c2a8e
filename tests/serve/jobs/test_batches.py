"""Batches: as OpenAI's objects over HTTP, and offline by the verb; each request once,
in order, whatever is killed on the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, Grey, toy_pool

from miaobi import cli
from miaobi.core.errors import Conflict, DoesNotFit
from miaobi.serve import offline
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.files import Files
from miaobi.serve.jobs import batches
from miaobi.serve.jobs.batches import Journal, read
from miaobi.serve.jobs.work import batch as work
from miaobi.serve.jobs.work.task import Outcome, Task
from miaobi.serve.records import Key, now
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings


def request(
    name: str,
    say: str = "one two three",
    url: str = "/v1/chat/completions",
    **fields: Any,
) -> dict[str, Any]:
    return {
        "custom_id": name,
        "method": "POST",
        "url": url,
        "body": {
            "model": "echo",
            "messages": [{"role": "user", "content": say}],
            **fields,
        },
    }


def jsonl(*requests: Any) -> bytes:
    return b"".join(
        (item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n"
        for item in requests
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in path.read_text().splitlines()]


def said(row: dict[str, Any]) -> str:
    return str(row["response"]["body"]["choices"][0]["message"]["content"])


class Counted(Echo):
    """Notes what it was asked; stops the program at the word DIE, once."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = list[str]()
        self.deadly = True

    async def generate(self, request: Any) -> Any:
        argv = str(request.messages[-1]["content"])
        self.heard.append(argv)
        if argv == "DIE" and self.deadly:
            raise KeyboardInterrupt
        async for chunk in super().generate(request):
            yield chunk


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """In the application that answers batches, instead of models from the store."""
    engine = Counted()

    def application(settings: Settings) -> FastAPI:
        own = replace(settings, workers=0, studio=False)
        return create_app(
            Services(own, toy_pool(own, echo=engine, grey=Grey()), Admission(own))
        )

    monkeypatch.setattr(work, "application", application)
    monkeypatch.setattr(offline, "application", application)
    return engine


# What may stand in a file.


@pytest.mark.parametrize(
    ("record", "phrase"),
    [
        ({**request("a"), "custom_id": 3}, "custom_id"),
        ({**request("a"), "custom_id": ""}, "custom_id"),
        ({**request("a"), "method": "GET"}, "'GET'"),
        ({**request("a"), "url": "/v1/chat/completion"}, "Did you mean"),
        ({**request("a"), "url": "file:///etc/passwd"}, "url"),
        ({**request("a"), "body": []}, "body"),
        (request("a", stream=True), "stream"),
        (request("a", model=None), "model"),
        ({**request("a"), "x": 1}, "'x'"),
        (
            {
                **request("a", url="/v1/images/generations"),
                "body": {"model": "grey", "prompt": "7", "response_format": "url"},
            },
            "b64_json",
        ),
    ],
)
def test_requests_that_cannot_be_used_are_named_with_their_number(
    tmp_path: Path, record: dict[str, Any], phrase: str
) -> None:
    (tmp_path / "in.jsonl").write_bytes(jsonl(request("first"), record))
    usable, wrong = read(tmp_path / "in.jsonl")
    assert (
        [row.custom_id for row in usable] == ["first"]
        and wrong[0]["line"] == 2
        and phrase in wrong[0]["message"]
    )


def test_names_are_unique_and_endpoints_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(
        jsonl(request("a"), b"", request("a"), request("b", url="/v1/completions"))
    )
    _, wrong = read(tmp_path / "in.jsonl", "/v1/chat/completions")
    assert [(item["line"], item["param"]) for item in wrong] == [
        (3, "custom_id"),
        (4, "url"),
    ] and "line 1" in wrong[0]["message"]


def test_a_journal_that_was_cut_off_goes_on_from_the_last_whole_answer(
    tmp_path: Path,
) -> None:
    row = {
        "id": "r1",
        "custom_id": "a",
        "response": {"status_code": 200},
        "error": None,
    }
    with Journal(tmp_path / "j") as journal:
        journal.add(row)
        with pytest.raises(Conflict):
            Journal(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole + b'{"id": "r2", "custom_')
    with Journal(tmp_path / "j") as journal:
        assert "r1" in journal and "r2" not in journal
        journal.add({**row, "id": "r3"})
        assert [json.loads(row)["id"] for row in journal.rows(["r3", "r1"])] == [
            "r3",
            "r1",
        ]
    assert [item["id"] for item in rows(tmp_path / "j")] == ["r1", "r3"]


def test_a_full_disk_leaves_whole_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {
        "id": "r1",
        "custom_id": "a",
        "response": {"status_code": 200},
        "error": None,
    }
    write = batches.machine.write_at

    def full(handle: int, data: Any, at: int) -> int:
        write(handle, bytes(data)[:5], at)
        raise OSError(28, "No space left on device")

    with Journal(tmp_path / "j") as journal:
        journal.add(row)
        with monkeypatch.context() as patch, pytest.raises(DoesNotFit):
            patch.setattr(batches.machine, "write_at", full)
            journal.add({**row, "id": "r2"})
        journal.add({**row, "id": "r3"})
    assert [item["id"] for item in rows(tmp_path / "j")] == ["r1", "r3"]


# Offline.


def test_answers_come_in_the_order_of_the_requests(
    tmp_path: Path, engine: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_bytes(
        jsonl(
            *(request(str(number), f"say {number}") for number in range(30)),
            request("none", model="nobody"),
        )
    )
    assert (
        cli.main(
            [
                "batch",
                str(tmp_path / "in.jsonl"),
                "--out",
                str(tmp_path / "out.jsonl"),
                "--streams",
                "4",
                "--json",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert (
        report["total"],
        report["answered"],
        report["failed"],
        report["reused"],
    ) == (
        31,
        30,
        1,
        0,
    )
    answers = rows(tmp_path / "out.jsonl")
    assert [row["custom_id"] for row in answers] == [*map(str, range(30)), "none"] and [
        said(row) for row in answers[:30]
    ] == [f"say {number}" for number in range(30)]
    assert answers[30]["response"]["status_code"] == 404 and all(
        row["response"]["request_id"] for row in answers
    )
    assert sorted(path.name for path in tmp_path.glob("*")) == [
        "home",
        "in.jsonl",
        "out.jsonl",
    ] and not list(tmp_path.glob(".*"))


def test_a_run_that_was_stopped_goes_on_and_asks_only_what_is_missing(
    tmp_path: Path, engine: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_bytes(
        jsonl(
            *(request(str(number), f"say {number}") for number in range(5)),
            request("x", "DIE"),
            request("y", "last"),
        )
    )
    argv = [
        "batch",
        str(tmp_path / "in.jsonl"),
        "--out",
        str(tmp_path / "out.jsonl"),
        "--streams",
        "1",
    ]
    assert (
        cli.main(argv) == 130
        and not (tmp_path / "out.jsonl").exists()
        and "5 of 7" in capsys.readouterr().err
    )
    engine.deadly = False
    engine.heard = []
    assert cli.main(argv) == 0 and engine.heard == ["DIE", "last"]
    assert [said(row) for row in rows(tmp_path / "out.jsonl")] == [
        *(f"say {number}" for number in range(5)),
        "DIE",
        "last",
    ]


def test_only_new_changed_and_failed_requests_are_sent_again(
    tmp_path: Path, engine: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    out = tmp_path / "out.jsonl"
    source.write_bytes(
        jsonl(request("a", "one"), request("b", "two"), request("c", model="nobody"))
    )
    assert cli.main(["batch", str(source), "--out", str(out)]) == 0
    engine.heard = []
    source.write_bytes(
        jsonl(
            request("d", "new"),
            request("b", "two!"),
            request("a", "one"),
            request("c", model="nobody"),
        )
    )
    assert cli.main(["batch", str(source), "--out", str(out)]) == 0 and sorted(
        engine.heard
    ) == ["new", "two!"]
    assert [row["custom_id"] for row in rows(out)] == ["d", "b", "a", "c"]
    engine.heard = []
    assert cli.main(
        ["batch", str(source), "--out", str(out), "--model", "echo"]
    ) == 0 and sorted(engine.heard) == ["one two three"]


@pytest.mark.parametrize(
    ("data", "out", "phrase"),
    [
        (jsonl(request("a"), request("a")), "out.jsonl", "2: custom_id 'a'"),
        (b"nonsense\n", "out.jsonl", "Line 1"),
        (b"", "out.jsonl", "no request"),
        (jsonl(request("a")), "in.jsonl", "does not hold answers"),
    ],
)
def test_mistakes_are_reported_before_any_request(
    tmp_path: Path,
    engine: Counted,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    out: str,
    phrase: str,
) -> None:
    (tmp_path / "in.jsonl").write_bytes(data)
    assert (
        cli.main(["batch", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / out)])
        > 0
    )
    assert (
        phrase in capsys.readouterr().err
        and not engine.heard
        and (tmp_path / "in.jsonl").read_bytes() == data
    )


# Over HTTP. The work runs here, in this process; test_jobs_end_to_end.py runs it in its
# own.


def upload(client: TestClient, data: bytes, purpose: str = "batch") -> str:
    return str(
        client.post(
            "/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": purpose}
        ).json()["id"]
    )


def create(client: TestClient, data: bytes, **fields: Any) -> dict[str, Any]:
    body = {
        "input_file_id": upload(client, data),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **fields,
    }
    answer = client.post("/v1/batches", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def do(
    services: Services, id: str, before: Callable[[], Any] = lambda: None
) -> Outcome:
    """What the job's process does."""
    job = services.jobs.claim("me")
    assert job is not None and job.id == id
    before()
    folder = services.settings.folder / "jobs" / id
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(services.records, services.settings.folder / "files", 1 << 20)
    outcome = work.run(Task(job, "me", services.jobs, files, services.settings, folder))
    services.jobs.end(id, "me", outcome.status, outcome.message, outcome.result)
    return outcome


def content(client: TestClient, id: str) -> list[dict[str, Any]]:
    return [
        json.loads(row)
        for row in client.get(f"/v1/files/{id}/content").text.splitlines()
    ]


def test_a_batch_over_http(
    client: TestClient, services: Services, engine: Counted
) -> None:
    batch = create(
        client,
        jsonl(
            request("a", "one two"), request("b", model="nobody"), request("c", "three")
        ),
        metadata={"for": "me"},
    )
    assert (
        batch["object"] == "batch"
        and batch["status"] == "validating"
        and batch["metadata"] == {"for": "me"}
        and batch["output_file_id"] is None
    )
    do(services, batch["id"])
    done = client.get(f"/v1/batches/{batch['id']}").json()
    assert (
        done["status"] == "completed"
        and done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        and done["completed_at"]
        and done["in_progress_at"]
    )
    assert (
        done["usage"]["output_tokens"] == 3
        and done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + 3
    )
    assert [
        (row["custom_id"], said(row)) for row in content(client, done["output_file_id"])
    ] == [("a", "one two"), ("c", "three")]
    error = content(client, done["error_file_id"])[0]
    assert (
        error["custom_id"] == "b"
        and error["response"]["status_code"] == 404
        and "nobody" in error["response"]["body"]["error"]["message"]
    )
    assert (
        client.get(f"/v1/files/{done['output_file_id']}").json()["purpose"]
        == "batch_output"
    )
    assert [item["id"] for item in client.get("/v1/batches").json()["data"]] == [
        batch["id"]
    ]
    assert client.post(f"/v1/batches/{batch['id']}/cancel").status_code == 409


def test_responses_of_a_batch_are_kept(
    client: TestClient, services: Services, engine: Counted
) -> None:
    path = "/v1/responses"
    row = request("a", url=path)
    row["body"] = {"model": "echo", "input": "one two"}
    batch = create(client, jsonl(row), endpoint=path)
    do(services, batch["id"])
    done = client.get(f"/v1/batches/{batch['id']}").json()
    assert done["usage"]["input_tokens"] == done["usage"]["output_tokens"] == 2
    (result,) = content(client, done["output_file_id"])
    response = result["response"]["body"]
    assert client.get(f"{path}/{response['id']}").json() == response


def test_a_file_with_bad_requests_fails_as_a_whole(
    client: TestClient, services: Services, engine: Counted
) -> None:
    batch = create(client, jsonl(request("a"), request("a"), {"custom_id": "b"}))
    do(services, batch["id"])
    done = client.get(f"/v1/batches/{batch['id']}").json()
    assert (
        done["status"] == "failed"
        and done["failed_at"]
        and [item["line"] for item in done["errors"]["data"]] == [2, 3]
        and not engine.heard
    )


def test_a_worker_that_was_killed_at_its_last_step_makes_the_files_once(
    client: TestClient,
    services: Services,
    engine: Counted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = create(client, jsonl(request("a"), request("b")))
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(
            services.jobs, "end", lambda *_: (_ for _ in ()).throw(MemoryError())
        )
        do(services, batch["id"])
    services.jobs.give_back(batch["id"], "me")
    do(services, batch["id"])
    assert (
        len(engine.heard) == 2
        and len(
            client.get("/v1/files", params={"purpose": "batch_output"}).json()["data"]
        )
        == 1
    )


def test_what_was_answered_before_the_cancelling_can_be_read(
    client: TestClient, services: Services, engine: Counted
) -> None:
    batch = create(client, jsonl(request("a"), request("b")))

    def cancel() -> None:
        assert (
            client.post(f"/v1/batches/{batch['id']}/cancel").json()["status"]
            == "cancelling"
        )

    do(services, batch["id"], cancel)
    done = client.get(f"/v1/batches/{batch['id']}").json()
    assert (
        done["status"] == "cancelled"
        and done["cancelled_at"]
        and done["cancelling_at"]
        and done["request_counts"]["completed"] == 0
    )
    other = create(client, jsonl(request("a")))
    assert (
        client.post(f"/v1/batches/{other['id']}/cancel").json()["status"] == "cancelled"
    )


def test_time_that_is_over(
    client: TestClient,
    services: Services,
    engine: Counted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = create(client, jsonl(request("a"), request("b")))
    with monkeypatch.context() as patch:
        patch.setattr(work, "now", lambda: now() + 100_000)
        do(services, batch["id"])
    done = client.get(f"/v1/batches/{batch['id']}").json()
    assert (
        done["status"] == "expired"
        and done["expired_at"]
        and done["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    )
    assert [row["error"]["code"] for row in content(client, done["error_file_id"])] == [
        "batch_expired"
    ] * 2


def test_a_revoked_key_gets_no_more_answers(
    client: TestClient, services: Services, engine: Counted
) -> None:
    batch = create(client, jsonl(request("a")))
    with services.records.session() as session:
        session.add(Key(id="local", name="local", sha256="0", revoked=now()))
    with pytest.raises(Exception, match="revoked"):
        do(services, batch["id"])
    assert not engine.heard


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"endpoint": "/v1/audio/speech"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "file-none"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"extra": 1}, "extra"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "seconds"),
    ],
)
def test_bad_fields_are_named(
    client: TestClient, fields: dict[str, Any], phrase: str
) -> None:
    body = {
        "input_file_id": upload(client, jsonl(request("a"))),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **fields,
    }
    answer = client.post("/v1/batches", json=body)
    assert answer.status_code in (400, 404) and phrase in answer.text


def test_only_files_for_batches_are_accepted(client: TestClient) -> None:
    answer = client.post(
        "/v1/batches",
        json={
            "input_file_id": upload(client, jsonl(request("a")), "fine-tune"),
            "endpoint": "/v1/completions",
            "completion_window": "24h",
        },
    )
    assert answer.status_code == 400 and "purpose" in answer.json()["error"]["message"]
