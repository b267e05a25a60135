"""What Prometheus reads at /metrics. The only module that knows prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jslm.serve.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counters and histograms of one application; slots and queues are read from the engine when asked for."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        ProcessCollector(registry=registry)
        registry.register(_EngineCollector(engine))
        self._requests = Counter(
            "jslm_http_requests", "Responses by route and status", ["method", "path", "status"], registry=registry
        )
        self._first = Histogram(
            "jslm_time_to_first_token_seconds", "From arrival", ["model"], buckets=_SECONDS, registry=registry
        )
        self._between = Histogram(
            "jslm_time_per_token_seconds",
            "Between the tokens of requests for one sample",
            ["model"],
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self._whole = Histogram(
            "jslm_request_seconds", "From arrival to the last token", ["model"], buckets=_SECONDS, registry=registry
        )

    def responded(self, method: str, path: str, status: int) -> None:
        """Counts a response. Methods that no route has count as one, so that nobody can make up labels."""
        known = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self._requests.labels(known, path, str(status)).inc()

    def first_token(self, model: str, seconds: float) -> None:
        """A request's first token is there."""
        self._first.labels(model).observe(seconds)

    def more_tokens(self, model: str, seconds: float, count: int) -> None:
        """`count` more tokens are there, `seconds` apart on average."""
        child = self._between.labels(model)
        for _ in range(count):
            child.observe(seconds)

    def finished(self, model: str, seconds: float) -> None:
        """A request is done."""
        self._whole.labels(model).observe(seconds)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("jslm_ready", "Whether the engine takes requests")
        ready.add_metric([], float(self._engine.ready))
        yield ready
        stats = self._engine.stats()
        gauges = {
            "slots": "Samples that can be written at once",
            "taken": "Slots in use",
            "waiting": "Samples that wait for a slot",
        }
        for name, about in gauges.items():
            family = GaugeMetricFamily(
                f"jslm_slots_{name}" if name == "taken" else f"jslm_{name}", about, labels=["model"]
            )
            for model, values in stats.items():
                family.add_metric([model], getattr(values, name))
            yield family
        counters = {
            "prompt_tokens": "Tokens read",
            "new_tokens": "Tokens written",
            "dispatches": "Decoding programs started",
        }
        for name, about in counters.items():
            counter = CounterMetricFamily(f"jslm_{name}", about, labels=["model"])
            for model, values in stats.items():
                counter.add_metric([model], getattr(values, name))
            yield counter
