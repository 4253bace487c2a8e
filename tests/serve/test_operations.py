"""What whoever keeps the server running sees: probes, metrics, logs, and errors that
tell strangers nothing.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.conftest import Echo
from tests.serve.test_admission import probed

from miaobi.core.errors import Damaged
from miaobi.serve.errors import from_exception, without_paths
from miaobi.serve.logs import JsonFormatter
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings


@pytest.fixture
def both() -> Iterator[tuple[Services, TestClient]]:
    services, app = probed(Settings(hosts=("testserver",), studio=False), Echo())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield services, client


def metrics(client: TestClient) -> dict[str, float]:
    """Every sample, by name and labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        sample.name
        + "".join(
            f"|{label}={value}" for label, value in sorted(sample.labels.items())
        ): sample.value
        for family in families
        for sample in family.samples
    }


def test_ready_only_when_everything_is_open_and_not_while_stopping(
    both: tuple[Services, TestClient],
) -> None:
    services, client = both
    assert client.get("/health").json() == {"status": "ok"} and client.get(
        "/ready"
    ).json() == {"status": "ready"}
    services.ready = False
    answer = client.get("/ready")
    assert (
        answer.status_code == 503
        and answer.json()["error"]["code"] == "starting"
        and answer.headers["retry-after"]
    )
    services.ready = True
    services.admission.drain()
    assert client.get("/ready").json()["error"]["code"] == "draining"
    assert client.get("/health").status_code == 200


def test_metrics_count_what_happened(both: tuple[Services, TestClient]) -> None:
    _, client = both
    client.post("/probe/say", json={"say": "three words here"})
    client.post("/probe/say", json={"say": "x", "model": "none"})
    client.get("/nothing/there")
    client.request("BREW", "/nothing/there")
    seen = metrics(client)
    assert (
        seen["miaobi_completion_tokens_total|model=echo"] == 3
        and seen["miaobi_prompt_tokens_total|model=echo"] == 3
    )
    assert (
        seen["miaobi_time_to_first_token_seconds_count|model=echo"] == 1
        and seen["miaobi_tokens_per_second_count|model=echo"] == 1
    )
    assert seen["miaobi_requests_total|method=POST|route=/probe/say|status=200"] == 1
    assert seen["miaobi_requests_total|method=POST|route=/probe/say|status=404"] == 1
    assert seen["miaobi_requests_total|method=GET|route=other|status=404"] == 1
    assert seen["miaobi_requests_total|method=other|route=other|status=404"] == 1
    assert seen["miaobi_queue_waiting"] == 0 and seen["miaobi_queue_seconds_count"] == 2
    assert seen["process_resident_memory_bytes"] > 1e6


def test_what_clients_send_makes_no_new_series(
    both: tuple[Services, TestClient],
) -> None:
    """Names of models, paths and methods that lead nowhere share one label, or memory
    would grow with every guess.
    """
    _, client = both

    def guess(at: int) -> None:
        client.post("/probe/say", json={"say": "x", "model": f"none-{at}"})
        client.get(f"/nothing/{at}")
        client.request(f"BREW{at}", "/health")

    guess(0)
    metrics(client)
    before = set(metrics(client))
    for at in range(1, 20):
        guess(at)
    assert set(metrics(client)) == before


def test_every_answer_has_an_id_of_its_own(both: tuple[Services, TestClient]) -> None:
    _, client = both
    answers = [
        client.get("/health"),
        client.get("/nothing"),
        client.get("/health", headers={"host": "evil"}),
        client.post("/probe/body", content=b"x"),
        client.get("/probe/fails"),
        client.get("/health", headers={"x-request-id": "mine\r\nx: y"}),
    ]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == len(answers) and all(
        re.fullmatch(r"req_[0-9a-f]{24}", one) for one in ids
    )
    assert {answer.headers["x-content-type-options"] for answer in answers} == {
        "nosniff"
    }


def test_an_unexpected_error_is_logged_and_not_shown(
    both: tuple[Services, TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    _, client = both
    answer = client.get("/probe/fails")
    assert (
        answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
    )
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    for secret in ("secret", "object", "0x", "/etc", "Error"):
        assert secret not in answer.json()["error"]["message"]
    record = next(record for record in caplog.records if record.exc_info)
    assert "a secret in" in JsonFormatter().format(record)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "/home/ann/.cache/miaobi/models/poet/3/model.gguf is cut short",
            "model.gguf is cut short",
        ),
        ("it is <PIL.Image.Image image mode=RGB at 0x7f055b98f190>", "it is …"),
        ("at 0x7f055b98f190", "at …"),
        (r"C:\Users\ann\model.gguf", "model.gguf"),
        ("~/models/poet/x", "x"),
        ("There is no model named 'org/name'.", "There is no model named 'org/name'."),
        ("try /v1/models", "try models"),
        ("3/4 of 1/2", "3/4 of 1/2"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("and/or", "and/or"),
    ],
)
def test_paths_do_not_leave_the_machine(message: str, expected: str) -> None:
    assert without_paths(message) == expected
    assert from_exception(Damaged(message), "req").message == expected


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(JsonFormatter().format(record) for record in caplog.records)


def test_logs_are_json_and_hold_no_prompt(
    both: tuple[Services, TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    _, client = both
    with caplog.at_level(logging.DEBUG, "miaobi"):
        answer = client.post("/probe/say", json={"say": "my secret"})
        client.get('/nothing%0d%0a{"level": "forged"}?token=hidden')
    text = logged(caplog)
    rows = [json.loads(line) for line in text.splitlines()]
    first = next(line for line in rows if line.get("path") == "/probe/say")
    assert (
        first["request_id"] == answer.headers["x-request-id"]
        and first["status"] == 200
        and first["seconds"] >= 0
    )
    assert (first["model"], first["completion_tokens"], first["key"]) == (
        "echo",
        2,
        "local",
    )
    assert (
        "secret" not in text
        and "hidden" not in text
        and not any(line.get("level") == "forged" for line in rows)
    )


def test_prompts_are_logged_with_log_prompts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, app = probed(
        Settings(hosts=("testserver",), studio=False, log_prompts=True), Echo()
    )
    with TestClient(app) as client, caplog.at_level(logging.INFO, "miaobi"):
        client.post("/probe/say", json={"say": "no secret"})
    assert "no secret" in logged(caplog)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/videos",
    ],
)
def test_what_is_not_there_yet_says_so(
    both: tuple[Services, TestClient], path: str
) -> None:
    _, client = both
    answer = client.post(path, json={"model": "x", "input": "y"})
    assert (
        answer.status_code == 501
        and answer.json()["error"]["type"] == "not_implemented_error"
    )
    if "trans" in path:
        assert client.post(path, files={"file": ("a.wav", b"RIFF")}).status_code == 501


def test_errors_of_the_framework_have_the_shape_too(
    both: tuple[Services, TestClient],
) -> None:
    _, client = both
    for answer, status in (
        (client.get("/nothing"), 404),
        (client.put("/v1/models", json={}), 405),
        (client.get("/v1/usage?days=x"), 400),
        (client.post("/probe/body", json=[]), 400),
        (
            client.post(
                "/probe/body",
                content=b"{",
                headers={"content-type": "application/json"},
            ),
            400,
        ),
    ):
        assert answer.status_code == status and set(answer.json()["error"]) == {
            "message",
            "type",
            "param",
            "code",
        }
    assert client.put("/v1/models", json={}).headers["allow"] == "GET, HEAD"
