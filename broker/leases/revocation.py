"""Taking back what was issued, login by login, and writing how that went."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.audit.entry import Journal
from broker.errors import Broken, BrokerError, Code, Misconfigured, Unavailable
from broker.lease import Lease, Revocable
from broker.ledger import Change, EndLease, Ledger, StoredLease
from broker.moment import Moment
from broker.refusing import about_session
from broker.session import Session
from broker.upstream import Held, Upstream

log = logging.getLogger("credbroker.revocation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One credential to take back: from memory, with the token that made it, or from the store, without."""

    lease_id: str
    grant: str
    subpath: str
    held: Held
    revocable: Revocable
    upstream_expires_at: datetime | None

    @classmethod
    def of_lease(cls, lease: Lease, held: Held) -> "Issued":
        return cls(
            lease_id=lease.lease_id,
            grant=lease.grant,
            subpath=lease.subpath,
            held=held,
            revocable=lease.revocable,
            upstream_expires_at=lease.upstream_expires_at,
        )

    @classmethod
    def of_stored(cls, lease: StoredLease) -> "Issued":
        return cls(
            lease_id=lease.lease_id,
            grant=lease.grant,
            subpath=lease.subpath,
            held=Held(ids=lease.ids, token=None),
            revocable=lease.revocable,
            upstream_expires_at=lease.upstream_expires_at,
        )

    def past(self, now: Moment) -> bool:
        """Dead by itself."""
        return self.upstream_expires_at is not None and self.upstream_expires_at <= now.wall


class Revocation:
    """One method that works on both warm and cold credentials, so that a kill needs no handle (DESIGN 3.10)."""

    def __init__(
        self, *, ledger: Ledger, journal: Journal, upstreams: Mapping[str, Upstream], clock: Callable[[], Moment]
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._upstreams = upstreams
        self._clock = clock

    async def take_back(
        self, session: Session, issued: Sequence[Issued], reason: str, correlation_id: str
    ) -> tuple[list[Issued], BrokerError | None]:
        """Revoke all of it. Returns what is not known to be gone, and the first error once every login was tried; what is gone
        is written either way.
        """
        by_login: dict[tuple[str, str], list[Issued]] = defaultdict(list)
        for one in issued:
            by_login[one.held.ids.upstream, one.held.ids.accessor].append(one)
        left: list[Issued] = []
        first: BrokerError | None = None
        for (upstream, _), group in by_login.items():
            rest, error = await self._login(session, upstream, group, reason, correlation_id)
            left += rest
            first = first or error
        return left, first

    def upstream(self, name: str) -> Upstream:
        """The upstream a stored lease names. Raises Unavailable when it is configured no longer."""
        if name not in self._upstreams:
            raise Unavailable(
                Code.UPSTREAM_UNAVAILABLE, f"upstream {name!r} is no longer configured", detail=f"a lease names upstream {name!r}"
            )
        return self._upstreams[name]

    async def _login(
        self, session: Session, upstream: str, group: Sequence[Issued], reason: str, correlation_id: str
    ) -> tuple[Sequence[Issued], BrokerError | None]:
        """The credentials of one upstream login, then the login itself: what is left, and why."""
        now = self._clock()
        to_revoke = [one for one in group if one.held.token is not None or not one.past(now)]
        error = await self._revoked(session, upstream, to_revoke) if to_revoke else None
        # Only what this broker can cut is said to be revoked. The rest lapses, and `session_closed` said until when.
        cut = [one for one in group if one.revocable == "lease" and not one.past(now)]
        if error is None:
            entries = [
                self._journal.revoked(
                    at=self._clock().wall,
                    about=about_session(session, correlation_id, grant=one.grant, subpath=one.subpath),
                    upstream=upstream,
                    lease_id=one.lease_id,
                    ids=one.held.ids.named(),
                    reason=reason,
                )
                for one in cut
            ]
            ended = list(group)
        else:
            entries = [
                self._journal.revoke_failed(
                    at=self._clock().wall,
                    about=about_session(session, correlation_id, grant=one.grant, subpath=one.subpath),
                    upstream=upstream,
                    lease_id=one.lease_id,
                    ids=one.held.ids.named(),
                    reason=reason,
                    code=error.code.word,
                    detail=error.detail,
                )
                for one in cut
            ]
            # Without a maintenance role nothing will ever revoke what has no end of its own to wait for.
            hopeless = isinstance(error, Misconfigured)
            ended = [one for one in group if one.past(now) or (hopeless and one.upstream_expires_at is None)]
        changes: list[Change] = [EndLease(lease_id=one.lease_id) for one in ended]
        try:
            await self._ledger.commit(changes, entries)
        except BrokerError as unwritten:
            # The sweep comes back to it: revoking twice is harmless, and then it is written.
            return group, error or unwritten
        gone = {one.lease_id for one in ended}
        return [one for one in group if one.lease_id not in gone], error

    async def _revoked(self, session: Session, upstream: str, to_revoke: Sequence[Issued]) -> BrokerError | None:
        """What kept the upstream from it, if anything did. A bug is that login's alone: the others have to be revoked too."""
        error: BrokerError
        try:
            await self.upstream(upstream).revoke([one.held for one in to_revoke])
        except BrokerError as failure:
            error = failure
        except Exception as bug:
            log.exception("lease.revoke_broke", extra={"session_id": session.session_id, "upstream": upstream})
            error = Broken(f"{type(bug).__name__} while revoking")
        else:
            return None
        fields = {"session_id": session.session_id, "upstream": upstream, "code": error.code.word, "detail": error.detail}
        log.warning("lease.revoke_failed", extra=fields)
        return error
