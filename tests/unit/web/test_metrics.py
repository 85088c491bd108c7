"""What `/metrics` says."""

from broker.refusing import Meter
from broker.web.metrics import Metrics


def test_counts_gauges_and_latencies_are_told() -> None:
    """In the exposition format, under our own prefix."""
    metrics = Metrics()
    meter: Meter = metrics
    meter.exchange("opened")
    meter.exchange("opened")
    meter.issuance("vault", "issued", 0.2)
    meter.issuance("vault", "upstream_unavailable", 0.0)
    meter.theft_suspected()
    metrics.request("readCredential", "unix", "ok", 0.0004)
    metrics.rolled_up("token_signature", "https", 7)
    metrics.watch("live_sessions", "Sessions that are served.", lambda: 3.0)
    text = metrics.text().decode()
    for line in (
        'credbroker_exchanges_total{outcome="opened"} 2.0',
        'credbroker_issuances_total{outcome="upstream_unavailable",upstream="vault"} 1.0',
        'credbroker_issuance_seconds_count{upstream="vault"} 1.0',
        "credbroker_theft_suspected_total 1.0",
        'credbroker_requests_total{listener="unix",outcome="ok",route="readCredential"} 1.0',
        'credbroker_request_seconds_bucket{le="0.0005",route="readCredential"} 1.0',
        'credbroker_denials_rolled_up_total{code="token_signature",listener="https"} 7.0',
        "credbroker_live_sessions 3.0",
    ):
        assert line in text


def test_two_brokers_in_one_process_count_apart() -> None:
    """The registry is ours, not the library's global one."""
    one, other = Metrics(), Metrics()
    one.exchange("opened")
    assert b"opened" not in other.text()
