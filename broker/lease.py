"""One credential as issued: its value, its hours, its upstream id; and the windows of its life. Pure: time is a parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Literal

from broker.moment import Moment
from broker.secret import Secret

Kind = Literal["aws", "rds", "vault"]  # of what is handed out; an upstream is "aws" or "vault"
Revocable = Literal["lease", "deny", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamIds:
    """What the log, and a revocation, name a credential by. Never a secret, never a hash of one (DESIGN 3.16)."""

    upstream: str = ""
    role: str = ""
    request_id: str = ""
    # Vault
    accessor: str = ""
    lease_id: str = ""
    path: str = ""
    kv_version: int | None = None
    # AWS
    access_key_id: str = ""
    session_name: str = ""
    source_identity: str = ""

    def named(self) -> dict[str, str | int]:
        """Those that are set, by name."""
        pairs = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return {name: value for name, value in pairs if value not in ("", None)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One issued credential, swapped whole. `version` grows by one with every new value of its (session, grant, subpath)."""

    lease_id: str  # ours
    session_id: str
    environment: str
    grant: str
    subpath: str  # "" unless the grant's path ends in a wildcard
    kind: Kind
    version: int
    fields: Mapping[str, Secret]
    ids: UpstreamIds
    revocable: Revocable
    receipt: str  # id of its `issued` entry
    issued_at: datetime
    refresh_at: datetime  # when asking again may bring a new version
    expires_at: datetime  # the effective end: min(upstream, session, policy)
    upstream_expires_at: datetime | None  # the true end upstream; None for a value without one (KV)
    renewable: bool
    mono_issued: float
    mono_refresh: float
    mono_expires: float


class Freshness(Enum):
    FRESH = "fresh"
    DUE = "due"  # serve it; one caller (or the loop) brings the next
    DEAD = "dead"  # never handed out


def freshness(lease: Lease, now: Moment) -> Freshness:
    """Where in its life a lease is, by the monotonic clock alone."""
    if now.mono >= lease.mono_expires:
        return Freshness.DEAD
    return Freshness.DUE if now.mono >= lease.mono_refresh else Freshness.FRESH


STATIC_REFRESH = timedelta(minutes=5)
_REFRESH_SHARE = {"aws": 1 / 2, "rds": 1 / 2, "vault": 2 / 3}


def refresh_after(kind: Kind, life: timedelta | None, *, spread: float, rotate_every: timedelta | None) -> timedelta:
    """How long after issue the next value is fetched.

    Half of the life for STS and RDS, two thirds for Vault, five minutes for a value without an end (DESIGN 3.8), never later than
    `rotate_every`. `spread` in [0, 1) takes up to a tenth off, so that sessions opened together do not rotate together.
    """
    planned = STATIC_REFRESH if life is None else life * _REFRESH_SHARE[kind]
    planned *= 1 - spread / 10
    return planned if rotate_every is None else min(planned, rotate_every)
