"""What Prometheus reads at /metrics. Labels are names of models that answered and
templates of routes, so their number is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric

from miaobi.serve.units import REPORTED, STREAMED, report

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class _Gauges:
    """Values of the moment at which they are read."""

    def __init__(self) -> None:
        self.now: Mapping[str, tuple[str, str, Mapping[str, float]]] = {}
        """Name of the gauge: its description, its label ("" for none), its values."""

    def collect(self) -> Iterable[Metric]:
        for name, (description, label, values) in self.now.items():
            family = GaugeMetricFamily(
                f"miaobi_{name}", description, labels=[label] if label else None
            )
            for of, value in values.items():
                family.add_metric([of] if label else [], value)
            yield family


class Meters:
    def __init__(self) -> None:
        # The time at which a counter began is of no use, and doubles the page.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._gauges = _Gauges()
        self.registry.register(self._gauges)
        self.requests = Counter(
            "miaobi_requests",
            "Requests by route and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "miaobi_request_seconds",
            "From the request's first byte to the answer's last.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queued = Histogram(
            "miaobi_queue_seconds",
            "Waiting for a slot.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            "miaobi_refused",
            "Requests that were told to come back.",
            ["reason"],
            registry=self.registry,
        )
        self.first = Histogram(
            "miaobi_time_to_first_token_seconds",
            "From arrival to the first token, waiting included.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.rate = Histogram(
            "miaobi_tokens_per_second",
            "Of one answer, after its first token.",
            ["model"],
            buckets=RATES,
            registry=self.registry,
        )
        self._units = dict[str, Counter]()
        for unit in REPORTED:
            self._counter(unit)

    def _counter(self, unit: str) -> Counter:
        """The counter of a unit, made when it is first counted."""
        if unit not in self._units:
            self._units[unit] = Counter(
                f"miaobi_{unit}",
                REPORTED.get(unit, f"Usage in {unit}."),
                ["model"],
                registry=self.registry,
            )
        return self._units[unit]

    def answered(
        self,
        model: str,
        arrived: float,
        first: float | None,
        amounts: Mapping[str, float],
    ) -> None:
        """Count one answer.

        Args:
            model: that answered.
            arrived: when the request came, by time.perf_counter.
            first: when the first piece of the streamed unit was there; None without any.
            amounts: what it used, by unit.
        """
        for unit, amount in report(amounts).items():
            self._counter(unit).labels(model).inc(amount)
        if first is None:
            return
        self.first.labels(model).observe(first - arrived)
        seconds = time.perf_counter() - first
        pieces = amounts[STREAMED]
        if pieces > 1 and seconds > 0:
            self.rate.labels(model).observe((pieces - 1) / seconds)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def read(self, gauges: Mapping[str, tuple[str, str, Mapping[str, float]]]) -> bytes:
        """Everything in Prometheus' text format, with these values of the moment."""
        self._gauges.now = gauges
        return generate_latest(self.registry)
