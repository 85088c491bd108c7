"""What the doors ask of the leases, and what they get."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from broker.exchanging import Peer
from broker.lease import Kind
from broker.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """One read of a grant's current credential."""

    unverified_handle: str = field(repr=False)
    grant: str
    kind: Kind | None  # what the door can hand out; None: any
    subpath: str  # "" for none; decoded once by the door, checked again when the path is filled
    min_ttl: timedelta | None
    luigi_task: str | None  # the caller's word
    patience: timedelta | None  # how long to wait for an upstream; None: as long as it takes
    peer: Peer
    correlation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLine:
    """One current lease of a session, without its value."""

    grant: str
    subpath: str
    version: int
    refresh_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What can be known of a grant before anything is read."""

    grant: str
    kind: Kind
    subpath: bool  # it is a folder, and read only with a subpath
    region: str | None  # of a grant of AWS keys: where its SDKs are to work


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    session: Session
    offers: tuple[Offer, ...]  # in the order of the session's grants; one that the policy has no longer is left out
    leases: tuple[LeaseLine, ...]
