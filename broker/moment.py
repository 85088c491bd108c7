"""Time, as everybody here gets it: a parameter.

A moment has two readings. `wall` (UTC) is what is written down and what tokens and upstreams speak of. `mono` (seconds) is
what ends are compared with inside one process, so that a step of the wall clock neither ends nor prolongs a lease (DESIGN 3.15).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Moment:
    wall: datetime
    mono: float

    def until(self, end: datetime) -> timedelta:
        """How long from this moment's wall reading to `end`; negative when it is past."""
        return end - self.wall


Clock = Callable[[], Moment]
"""Read only by wiring and handed down; nothing below it calls `datetime.now()` or `time.monotonic()`."""


def rfc3339(at: datetime) -> str:
    """UTC with whole seconds and a `Z`, the only spelling on our wire (the JS and Rust SDKs fail on `+00:00`)."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch_ms(at: datetime) -> int:
    """Milliseconds since 1970, as OCSF's `time` wants it."""
    return round(at.timestamp() * 1000)
