"""Times and lengths as the wire and a task's author write them."""

import re
from datetime import datetime, timedelta, timezone

_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?Z")
_LENGTH = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_instant(text: str) -> datetime:
    """An RFC 3339 time in UTC, to the whole second below. Raises ValueError for any other spelling."""
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time that ends in Z")
    return datetime.fromisoformat(match[1]).replace(tzinfo=timezone.utc)


def parse_length(length: str | int | timedelta | None) -> int:
    """Whole seconds, rounded up, of "3h", "90s", a number of seconds or a timedelta; none is 0. Raises ValueError."""
    if length is None:
        return 0
    if isinstance(length, str):
        match = _LENGTH.fullmatch(length)
        if match is None:
            raise ValueError('a length is a whole number with s, m, h or d: "90s", "3h"')
        length = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if isinstance(length, timedelta):
        length = -int(-length.total_seconds() // 1)
    if length < 0:
        raise ValueError("a length is not negative")
    return length
