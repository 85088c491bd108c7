"""One credential as the broker answered it, its hours, and how long a thread keeps to it. Time is a parameter."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from luigi_contrib_secrets.errors import SecretMisconfigured, SecretUnavailable
from luigi_contrib_secrets.instant import parse_instant
from luigi_contrib_secrets.reference import Reference
from luigi_contrib_secrets.secret_str import SecretStr, never_pickled
from luigi_contrib_secrets.settings import Pinning

_DATE_IS_WHOLE_SECONDS = 1.0
# A broker that serves a lease past its `refresh_at` has an upstream that is away: ask again, but not at every read.
ASK_AGAIN = 5.0


@dataclass(frozen=True, eq=False)
class Lease:
    """Swapped whole, never changed. Its ends are monotonic deadlines, fixed when it arrived."""

    reference: Reference  # of the whole bundle: no field
    environment: str
    version: int
    expires_at: datetime
    mono_refresh: float
    mono_expires: float
    fields: Mapping[str, SecretStr] = field(repr=False)

    def left(self, now: float) -> float:
        """Seconds until it is no longer handed out."""
        return self.mono_expires - now

    def value(self, name: str) -> SecretStr:
        """One field. Raises SecretMisconfigured, which names the fields there are."""
        found = self.fields.get(name)
        if found is None:
            there = ", ".join(sorted(self.fields))
            raise SecretMisconfigured(f"has no field {name!r}; it has {there}", code="config_invalid", grant=self.reference.path)
        return found

    __reduce__ = never_pickled


def parse(reference: Reference, body: bytes, *, asked: float, date: datetime | None, wall: datetime) -> Lease:
    """The lease in a 200 of `GET /v1/credentials/…`.

    Its life is counted against the broker's own clock (`date`, else `wall`) from before the request (`asked`, monotonic), so a
    wrong clock on this host neither ends nor prolongs it. Raises SecretUnavailable for anything else than a whole, live lease.
    """
    try:
        lease = _parse(reference, json.loads(body), asked=asked, clock=date or wall)
    except (ValueError, KeyError, TypeError, AttributeError):
        # The chain is cut: a JSON error carries the document. Half a credential is none.
        reason = "the broker's answer is not a credential"
        raise SecretUnavailable(reason, code="internal", grant=reference.path, again=False) from None
    if lease.left(asked) <= 0:
        reason = "the lease that the broker has is at its end, and there is no newer one"
        raise SecretUnavailable(reason, code="upstream_unavailable", grant=reference.path)
    return lease


def _parse(reference: Reference, answer: dict[str, object], *, asked: float, clock: datetime) -> Lease:
    environment, version, data = answer["environment"], answer["version"], answer["data"]
    if not isinstance(environment, str) or not isinstance(version, int) or answer["grant"] != reference.grant:
        raise TypeError
    if not isinstance(data, dict) or not data or not all(isinstance(value, str) for value in data.values()):
        raise TypeError
    expires_at, refresh_at = (parse_instant(str(answer[key])) for key in ("expires_at", "refresh_at"))
    life = (expires_at - clock).total_seconds() - _DATE_IS_WHOLE_SECONDS
    whole = Reference(reference.grant, reference.subpath)
    return Lease(
        reference=whole,
        environment=environment,
        version=version,
        expires_at=expires_at,
        mono_refresh=asked + ((refresh_at - clock).total_seconds() if refresh_at > clock else ASK_AGAIN),
        mono_expires=asked + life,
        fields={name: SecretStr(value, whole.of(name)) for name, value in data.items()},
    )


class Pin:
    """The reads of one thread keep to one version, so that a user and a password never come from two.

    A pause ends a pin, but not for a field that it has not given yet: that one belongs to those already given. Past the cap a
    pin ends where its cycle of reads starts again, at the field that was read first; a cap that may fire at any field tears
    `key, secret, token, token` as contrib/redshift.py reads them. When that first field is not read any more, any field
    will do.
    """

    __slots__ = ("_first", "_first_at", "_given", "_last", "_since", "lease")

    def __init__(self, lease: Lease, field_name: str, now: float) -> None:
        self.lease = lease
        self._first = field_name
        self._given = {field_name}
        self._since = self._first_at = self._last = now

    def holds(self, field_name: str, now: float, pinning: Pinning) -> bool:
        """Whether this read gets the pinned version, and if so counts it. Never true for a lease that has ended."""
        starts, known, left = field_name == self._first, field_name in self._given, self.lease.left(now)
        over = now - self._since > pinning.cap
        ended = (
            left <= 0
            or (now - self._last > pinning.idle and (known or over))
            or (starts and (over or left <= pinning.cap))
            or (known and now - self._first_at > pinning.cap)
        )
        if ended:
            return False
        if starts:
            self._first_at = now
        self._given.add(field_name)
        self._last = now
        return True
