"""Counts and gauges for `/metrics`, in a registry of our own. Label values come from closed lists, never from a request."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_REQUEST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_UPSTREAM_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Implements `refusing.Meter`, counts requests for the doors, and reads the gauges that wiring hands in."""

    def __init__(self) -> None:
        # Not prometheus-client's global registry: two brokers in one process (tests, demo) would add up.
        self._registry = CollectorRegistry()
        self._exchanges = self._counter("credbroker_exchanges", "Token exchanges by outcome.", "outcome")
        self._issuances = self._counter("credbroker_issuances", "Issuances by upstream and outcome.", "upstream", "outcome")
        self._thefts = self._counter("credbroker_theft_suspected", "Exchanges of a token that has a live session already.")
        self._requests = self._counter(
            "credbroker_requests", "Requests by route, listener and outcome.", "route", "listener", "outcome"
        )
        self._rollups = self._counter(
            "credbroker_denials_rolled_up", "Denials without an entry of their own.", "code", "listener"
        )
        self._seen: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._latency = Histogram(
            "credbroker_request_seconds",
            "Time from a request's headers to its answer.",
            ("route",),
            buckets=_REQUEST_SECONDS,
            registry=self._registry,
        )
        self._upstream_latency = Histogram(
            "credbroker_issuance_seconds",
            "Time from the intent to the issued credential.",
            ("upstream",),
            buckets=_UPSTREAM_SECONDS,
            registry=self._registry,
        )

    def exchange(self, outcome: str) -> None:
        self._exchanges.labels(outcome).inc()

    def issuance(self, upstream: str, outcome: str, seconds: float) -> None:
        self._issuances.labels(upstream, outcome).inc()
        if outcome == "issued":
            self._upstream_latency.labels(upstream).observe(seconds)

    def theft_suspected(self) -> None:
        self._thefts.inc()

    def request(self, route: str, listener: str, outcome: str, seconds: float) -> None:
        """One answered request. `route` is an operation of the endpoint table, or "none"."""
        key = (route, listener, outcome)
        found = self._seen.get(key)
        if found is None:  # looking a label set up takes a lock and costs as much as the rest of this
            found = self._seen[key] = (self._requests.labels(*key), self._latency.labels(route))
        counter, latency = found
        counter.inc()
        latency.observe(seconds)

    def watch(self, name: str, words: str, read: Callable[[], float]) -> None:
        """A gauge that is read whenever `/metrics` is: live sessions, age of the oldest lease. `read` must not block."""
        Gauge(f"credbroker_{name}", words, registry=self._registry).set_function(read)

    def rolled_up(self, code: str, listener: str, count: int) -> None:
        """Denials that made no entry of their own, as a `rollup` entry has just counted them."""
        self._rollups.labels(code, listener).inc(count)

    def text(self) -> bytes:
        """Everything, in the exposition format of CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(name, words, labels, registry=self._registry)
