"""OpenTelemetry: a span for every request, when OTEL_EXPORTER_OTLP_ENDPOINT is set (and
pip install 'miaobi[telemetry]').

A caller's trace (traceparent) is carried on. Names are those of the conventions:
http.*, gen_ai.*. No text of a prompt or answer is in them.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaobi import __version__
from miaobi.serve.logs import METHODS, PROBES

log = logging.getLogger("miaobi.serve")


@dataclass(frozen=True)
class Telemetry:
    tracer: Any
    provider: Any

    def close(self) -> None:
        """Send what is left."""
        self.provider.shutdown()


def open_telemetry() -> Telemetry | None:
    """By the environment's own variables (OTEL_EXPORTER_OTLP_*, OTEL_SERVICE_NAME);
    None where it is not configured.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    if not find_spec("opentelemetry.sdk") or not find_spec(
        "opentelemetry.exporter.otlp.proto.http"
    ):
        log.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but nothing is traced: pip install 'miaobi[telemetry]'"
        )
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return traced_by(BatchSpanProcessor(OTLPSpanExporter()))


def traced_by(processor: Any) -> Telemetry:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(
        resource=Resource.create(
            {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "miaobi")}
        )
    )
    provider.add_span_processor(processor)
    return Telemetry(provider.get_tracer("miaobi", __version__), provider)


class Traced:
    """The layer that makes the spans; within the log's, so that both tell the same request id."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.tracer = telemetry.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import (
            TraceContextTextMapPropagator,
        )

        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        parent = TraceContextTextMapPropagator().extract(headers)
        with self.tracer.start_as_current_span(
            method,
            parent,
            SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            try:
                await self.app(scope, receive, sending)
            except (
                BaseException
            ) as error:  # by its kind only: its words may hold the prompt
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise
            finally:
                span.set_attributes(_facts(scope, method))
                span.update_name(
                    f"{method} {getattr(scope.get('route'), 'path', '')}".strip()
                )


def _facts(scope: Scope, method: str) -> dict[str, str | int]:
    state = scope["state"]
    facts: dict[str, str | int] = {
        "http.request.method": method,
        "http.route": getattr(scope.get("route"), "path", ""),
        "miaobi.request_id": state["request_id"],
    }
    if used := state.get("used"):
        facts |= {
            "gen_ai.request.model": used["model"],
            "gen_ai.usage.input_tokens": used["prompt_tokens"],
            "gen_ai.usage.output_tokens": used["completion_tokens"],
        }
    return facts
