"""Spans of requests, by the exporter that keeps them in memory."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.serve.conftest import Echo, toy_pool
from tests.serve.probe import with_probe

from miaobi.serve import telemetry
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings


def test_a_request_is_a_span_with_its_model_and_tokens_and_without_its_text() -> None:
    exporter = InMemorySpanExporter()
    settings = Settings(hosts=("testserver",), studio=False)
    services = Services(settings, toy_pool(settings, echo=Echo()), Admission(settings))
    app = with_probe(
        create_app(services, telemetry.traced_by(SimpleSpanProcessor(exporter)))
    )
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with TestClient(app, raise_server_exceptions=False) as client:
        for path in ("say", "stream"):
            answer = client.post(
                f"/probe/{path}",
                json={"say": "my secret"},
                headers={"traceparent": parent},
            )
        client.get("/probe/fails")
        client.get("/health")
        client.get("/v1/models", headers={"host": "evil", "traceparent": "nonsense"})
        spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == [
        "POST /probe/say",
        "POST /probe/stream",
        "GET /probe/fails",
        "GET",
    ]
    attributes = dict(spans[1].attributes or {})
    assert (
        attributes["miaobi.request_id"] == answer.headers["x-request-id"]
        and attributes["http.response.status_code"] == 200
    )
    assert (
        attributes["gen_ai.request.model"],
        attributes["gen_ai.usage.input_tokens"],
        attributes["gen_ai.usage.output_tokens"],
    ) == ("echo", 3, 2)
    assert (
        spans[1].parent is not None
        and f"{spans[1].context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    )
    assert not spans[2].status.is_ok and "secret" not in str(
        [span.to_json() for span in spans]
    )


def test_nothing_is_traced_by_default(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert telemetry.open_telemetry() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    opened = telemetry.open_telemetry()
    assert opened is not None
    opened.close()
    monkeypatch.setattr(telemetry, "find_spec", lambda name: None)
    assert telemetry.open_telemetry() is None and "miaobi[telemetry]" in caplog.text
