"""What is asked of STS, before it is asked."""

from datetime import timedelta

import pytest

from broker.errors import Misconfigured
from broker.upstreams.aws import require_short, session_seconds


@pytest.mark.parametrize(
    ("wanted", "ttl", "seconds"),
    [
        (timedelta(hours=5), timedelta(hours=1), 3600),
        (timedelta(minutes=20), timedelta(hours=1), 1200),
        (timedelta(minutes=1), timedelta(hours=1), 900),
        (timedelta(0), timedelta(hours=1), 900),
        (timedelta(hours=1), timedelta(seconds=30), 900),
        (timedelta(hours=24), timedelta(hours=24), 43200),
        (timedelta(seconds=1000.9), timedelta(hours=1), 1000),
    ],
)
def test_the_duration_is_what_is_wanted_within_what_sts_gives(wanted: timedelta, ttl: timedelta, seconds: int) -> None:
    """DESIGN 3.7: max(900, min(ttl, rest of the session)), and never more than twelve hours."""
    assert session_seconds(wanted, ttl) == seconds


def test_an_assertion_that_sts_would_not_take_is_not_sent() -> None:
    require_short("t" * 20_000)
    with pytest.raises(Misconfigured) as caught:
        require_short("t" * 20_001)
    assert "20001 characters" in caught.value.detail
