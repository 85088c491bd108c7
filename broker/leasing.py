"""From what an upstream minted to a lease; and a lease to rest and back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from broker.lease import Kind, Lease, Revocable, refresh_after
from broker.ledger import StoredLease
from broker.moment import Moment
from broker.sealing import Place, SealKey
from broker.secret import Secret
from broker.session import Session, new_id
from broker.upstream import Held, Minted, Renewed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How refreshes are spread and bounded: `rotate_every` of `[limits]`, and a random number in [0, 1)."""

    rotate_every: timedelta | None
    spread: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Hours:
    """From when to when. Counted from before the upstream was asked, so that a credential is never thought to live longer."""

    refresh_at: datetime
    expires_at: datetime
    mono_refresh: float
    mono_expires: float


def hours(session: Session, kind: Kind, minted: Minted, ttl: timedelta, asked: Moment, pace: Pace) -> Hours:
    """The effective end is min(upstream, session, policy) (DESIGN 3.7).

    A value that is not made for us is read again after five minutes, or when it ends, where it says when.
    """
    ends = [session.expires_at, asked.wall + ttl] + ([minted.expires_at] if minted.expires_at else [])
    expires_at = min(ends)
    left = expires_at - asked.wall
    if minted.static and minted.expires_at is not None:
        after = left if pace.rotate_every is None else min(left, pace.rotate_every)
    else:
        life = None if minted.expires_at is None else left
        after = min(left, refresh_after(kind, life, spread=pace.spread(), rotate_every=pace.rotate_every))
        if not minted.static and _is_last(session, expires_at, asked, after, pace):
            after = left
    return Hours(
        refresh_at=asked.wall + after,
        expires_at=expires_at,
        mono_refresh=asked.mono + after.total_seconds(),
        mono_expires=asked.mono + left.total_seconds(),
    )


def born(
    session: Session,
    grant: str,
    subpath: str,
    kind: Kind,
    previous: Lease | None,
    minted: Minted,
    entry_id: str,
    life: Hours,
    asked: Moment,
    done: Moment,
) -> Lease:
    """The lease of a fresh credential."""
    return Lease(
        lease_id=new_id(),
        session_id=session.session_id,
        environment=session.environment,
        grant=grant,
        subpath=subpath,
        kind=kind,
        version=1 if previous is None else previous.version + 1,
        fields=minted.fields,
        ids=minted.held.ids,
        revocable=minted.revocable,
        receipt=entry_id,
        issued_at=done.wall,
        refresh_at=life.refresh_at,
        expires_at=life.expires_at,
        upstream_expires_at=minted.expires_at,
        renewable=minted.renewable,
        mono_issued=asked.mono,
        mono_refresh=life.mono_refresh,
        mono_expires=life.mono_expires,
    )


def kept(previous: Lease, minted: Minted, life: Hours) -> Lease:
    """A static value, read again and unchanged: the same lease and version, with new hours."""
    return replace(
        previous,
        ids=minted.held.ids,
        refresh_at=life.refresh_at,
        expires_at=life.expires_at,
        upstream_expires_at=minted.expires_at,
        mono_refresh=life.mono_refresh,
        mono_expires=life.mono_expires,
    )


def extended(lease: Lease, session: Session, renewed: Renewed, now: Moment, pace: Pace) -> Lease:
    expires_at = min(renewed.expires_at, session.expires_at)
    life = expires_at - now.wall
    after = refresh_after(lease.kind, life, spread=pace.spread(), rotate_every=pace.rotate_every)
    if _is_last(session, expires_at, now, after, pace):
        after = life
    return replace(
        lease,
        refresh_at=min(now.wall + after, expires_at),
        expires_at=expires_at,
        upstream_expires_at=renewed.expires_at,
        mono_refresh=now.mono + min(after, life).total_seconds(),
        mono_expires=now.mono + life.total_seconds(),
    )


_LAST_STRETCH = timedelta(minutes=15)


def _is_last(session: Session, expires_at: datetime, now: Moment, after: timedelta, pace: Pace) -> bool:
    """Whether a lease need not be replaced: it lasts as long as its session, and its refresh would fall into the end of that.

    A newer one would last no longer for the job, but STS's shortest outlives the session by up to a quarter of an hour; and
    halves of what is left would be refreshed faster and faster.
    """
    lasts = expires_at >= session.expires_at and session.expires_at - (now.wall + after) < _LAST_STRETCH
    return lasts and pace.rotate_every is None


class Lasting(Protocol):
    """A credential as far as its own end goes: a stored lease, or one to take back."""

    @property
    def revocable(self) -> Revocable: ...

    @property
    def upstream_expires_at(self) -> datetime | None: ...


def not_revocable_until(credentials: Iterable[Lasting], now: Moment) -> datetime | None:
    """Until when the last of what no broker can take back lives; None when there is nothing of that kind."""
    ends = (one.upstream_expires_at for one in credentials if one.revocable == "none")
    return max((end for end in ends if end is not None and end > now.wall), default=None)


def same_values(one: Mapping[str, Secret], other: Mapping[str, Secret]) -> bool:
    return one.keys() == other.keys() and all(one[name].same_as(other[name]) for name in one)


_TOKEN_FIELD = "\x00token"  # noqa: S105 - not a password: a name that cannot be a field of the wire


def seal_lease(key: SealKey, lease: Lease, held: Held) -> bytes:
    """A lease's values, and the upstream token that can renew and revoke it, sealed to their place."""
    values = dict(lease.fields)
    if held.token is not None:
        values[_TOKEN_FIELD] = held.token
    return key.seal(values, _place(lease))


def open_lease(key: SealKey, stored: StoredLease, now: Moment) -> tuple[Lease, Held]:
    """A stored lease with its values again. Raises Broken when the seal does not fit.

    After a restart there is no monotonic end to go by, so the ends are the wall clock's, minus 30 s (DESIGN 3.15).
    """
    values = key.open(stored.sealed, _place(stored))
    token = values.pop(_TOKEN_FIELD, None)
    lease = Lease(
        lease_id=stored.lease_id,
        session_id=stored.session_id,
        environment=stored.environment,
        grant=stored.grant,
        subpath=stored.subpath,
        kind=stored.kind,
        version=stored.version,
        fields=values,
        ids=stored.ids,
        revocable=stored.revocable,
        receipt=stored.receipt,
        issued_at=stored.issued_at,
        refresh_at=stored.refresh_at,
        expires_at=stored.expires_at,
        upstream_expires_at=stored.upstream_expires_at,
        renewable=stored.renewable,
        mono_issued=now.mono - (now.wall - stored.issued_at).total_seconds(),
        mono_refresh=now.mono + (stored.refresh_at - now.wall - _RESTART_MARGIN).total_seconds(),
        mono_expires=now.mono + (stored.expires_at - now.wall - _RESTART_MARGIN).total_seconds(),
    )
    return lease, Held(ids=stored.ids, token=token)


_RESTART_MARGIN = timedelta(seconds=30)


def _place(lease: Lease | StoredLease) -> Place:
    return Place(
        session_id=lease.session_id,
        grant=lease.grant,
        subpath=lease.subpath,
        version=lease.version,
        expires_at=lease.expires_at,
    )
