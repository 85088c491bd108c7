"""The story of an issuance, in numbered steps.

Everything called here is either pure or one protocol method. This is the only file that knows the order, and the order is the
promise: no entry, no credential (DESIGN 3.4).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from broker.audit.entry import About, Entry, Journal
from broker.errors import BrokerError, Code, Refused, Unavailable
from broker.lease import Lease, UpstreamIds
from broker.leasing import Pace, born, extended, hours, kept, same_values, seal_lease
from broker.ledger import Change, ExtendLease, Ledger, NoteIds, SettleIntent, WriteIntent, WriteLease
from broker.moment import Moment
from broker.policy.model import Allow, Deny, Grant, Policy
from broker.policy.target import Target
from broker.policy.templates import fill
from broker.refusing import Refusing, about_session, answer_now
from broker.sealing import SealKey
from broker.session import Session, new_id
from broker.upstream import Held, LeftBehind, Minted, Order, Upstream, kind_of

log = logging.getLogger("credbroker.issuing")

INTENT_DEADLINE = timedelta(seconds=60)
_MOST_SKEW = timedelta(seconds=60)


def is_unsafe(skew: timedelta) -> bool:
    """Whether a clock that is off by this much may issue nothing (DESIGN 3.15)."""
    return abs(skew) > _MOST_SKEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuing:
    """Everything the story needs, handed in by wiring."""

    policy: Callable[[], Policy]
    ledger: Ledger
    journal: Journal
    refusing: Refusing
    upstream_for: Callable[[Target], Upstream]
    clock: Callable[[], Moment]
    skew: Callable[[], timedelta | None]  # how far the issuers' clocks are from ours; None while none has told its time
    pace: Pace

    async def issue(
        self,
        session: Session,
        key: SealKey,
        grant: str,
        subpath: str,
        *,
        previous: Lease | None,
        login: Held | None,
        luigi_task: str | None,
        correlation_id: str,
    ) -> tuple[Lease, Held]:
        """One credential for a live session, or an exception and nothing issued.

        `luigi_task` is the caller's word and is logged as such. A Refused here is final for the grant; the caller of this
        drops what it has. Raises Refused, Unavailable or Misconfigured.
        """
        now = self.clock()
        self._require_sane_clock()

        # 1. Decide again, from the stored identity: the policy may have changed since the exchange.
        policy = self.policy()
        about = about_session(session, correlation_id, grant=grant, subpath=subpath, policy_hash=policy.hash)
        decision = await self._decided_again(session, grant, about, now)

        # 2. What exactly will be asked for. Nothing that does not fit the target's character set gets further.
        definition = decision.definitions[0]
        rest = session.expires_at - now.wall
        ttl = rest if definition.max_ttl is None else min(rest, definition.max_ttl)
        try:
            order = self._order(session, definition, subpath, ttl, login, correlation_id)
            upstream = self.upstream_for(order.target)
            planned = upstream.plan(order)
        except Refused as refusal:
            denial = Deny(refusal.code, refusal.public, decision.trail)
            raise await self.refusing.denied(denial, about, "session", now) from None

        # 3. The promise, durable before the upstream hears of it.
        intent = self.journal.intent(
            at=now.wall,
            about=about,
            upstream=upstream.name,
            ids=planned.named(),
            broker_id=self.journal.broker_id,
            deadline=now.wall + INTENT_DEADLINE,
        )
        write_intent = WriteIntent(
            intent_id=intent.entry_id,
            session_id=session.session_id,
            grant=grant,
            subpath=subpath,
            broker_id=self.journal.broker_id,
            deadline=now.wall + INTENT_DEADLINE,
            ids=planned,
        )
        await self.ledger.commit([write_intent], [intent])

        # 4. Ask. What a revocation would need is durable before a secret is read.
        async def note(ids: UpstreamIds) -> None:
            await self.ledger.commit([NoteIds(intent_id=intent.entry_id, ids=ids)], [])

        try:
            minted = await upstream.issue(order, note)
        except BrokerError as error:
            await self._failed(intent.entry_id, about, upstream, error, now)
            raise
        except LeftBehind as left:  # the intent stays open: the sweeper ends by accessor what nobody holds
            raise left.error from None

        # 5. The outcome, durable before the credential leaves; or it is taken back.
        done = self.clock()
        kind = kind_of(order.target)
        life = hours(session, kind, minted, ttl, now, self.pace)
        if previous is not None and minted.static and same_values(previous.fields, minted.fields):
            lease = kept(previous, minted, life)
            outcome = self._renewed(lease, about, upstream, done, intent_id=intent.entry_id)
            settled: list[Change] = [SettleIntent(intent_id=intent.entry_id)]
            settled.append(ExtendLease(lease=lease, sealed=seal_lease(key, lease, minted.held)))
        else:
            lease = born(session, grant, subpath, kind, previous, minted, new_id(), life, now, done)
            outcome = self._issued(lease, about, upstream, done, intent.entry_id, luigi_task)
            settled = [WriteLease(intent_id=intent.entry_id, lease=lease, sealed=seal_lease(key, lease, minted.held))]
        try:
            _require_no_overhang(definition, minted, session)
            await self.ledger.commit(settled, [outcome])
        except BrokerError as error:
            if await self._took_back(upstream, order, minted):
                await self._failed(intent.entry_id, about, upstream, error, done)
            raise
        self.refusing.meter.issuance(upstream.name, "issued", done.mono - now.mono)
        return lease, minted.held

    async def renew(self, session: Session, key: SealKey, lease: Lease, held: Held, correlation_id: str) -> Lease:
        """The same credential for longer. Refused means that only `issue` can help; Unavailable that it is kept as it is."""
        now = self.clock()

        # 1. A rotation decides again, too.
        policy = self.policy()
        about = about_session(session, correlation_id, grant=lease.grant, subpath=lease.subpath, policy_hash=policy.hash)
        decision = await self._decided_again(session, lease.grant, about, now)

        # 2. Ask for more time. There is no new secret, so there is no intent: a renewal that is not logged gave nobody
        #    anything they did not have, and ends with the upstream token's own maximum.
        rest = session.expires_at - now.wall
        order = self._order(session, decision.definitions[0], lease.subpath, rest, held, correlation_id)
        upstream = self.upstream_for(order.target)
        renewed = await upstream.renew(order, held)

        # 3. The new ends, durable before they are told to anybody.
        done = self.clock()
        longer = extended(lease, session, renewed, done, self.pace)
        entry = self._renewed(longer, about, upstream, done, request_id=renewed.request_id)
        await self.ledger.commit([ExtendLease(lease=longer, sealed=seal_lease(key, longer, held))], [entry])
        return longer

    # --- the pieces of it -------------------------------------------------------------------------------------------

    async def _decided_again(self, session: Session, grant: str, about: About, now: Moment) -> Allow:
        """From the stored identity. Raises Refused, logged, when the answer is another one than at the exchange."""
        decision = answer_now(self.policy(), session, (grant,))
        if isinstance(decision, Deny):
            raise await self.refusing.denied(decision, about, "session", now)
        return decision

    def _order(
        self, session: Session, grant: Grant, subpath: str, ttl: timedelta, login: Held | None, correlation_id: str
    ) -> Order:
        """Raises Refused for a value of the job, or a subpath, that does not fit the grant's target."""
        return Order(
            correlation_id=correlation_id,
            session_id=session.session_id,
            identity=session.identity,
            environment=session.environment,
            grant=grant.name,
            target=fill(grant, session.environment, session.identity, subpath),
            ttl=ttl,
            login=login,
        )

    def _issued(
        self, lease: Lease, about: About, upstream: Upstream, at: Moment, intent_id: str, luigi_task: str | None
    ) -> Entry:
        return self.journal.issued(
            entry_id=lease.receipt,
            at=at.wall,
            about=about,
            lease_id=lease.lease_id,
            version=lease.version,
            upstream=upstream.name,
            ids=lease.ids.named(),
            expires_at=lease.expires_at,
            upstream_expires_at=lease.upstream_expires_at,
            revocable=lease.revocable,
            intent_id=intent_id,
            luigi_task=luigi_task,
        )

    def _renewed(
        self, lease: Lease, about: About, upstream: Upstream, at: Moment, *, intent_id: str = "", request_id: str = ""
    ) -> Entry:
        return self.journal.renewed(
            at=at.wall,
            about=about,
            lease_id=lease.lease_id,
            version=lease.version,
            upstream=upstream.name,
            ids=lease.ids.named() | ({"request_id": request_id} if request_id else {}),
            upstream_expires_at=lease.upstream_expires_at,
            revocable=lease.revocable,
            intent_id=intent_id,
        )

    def _require_sane_clock(self) -> None:
        """DESIGN 3.15: with a clock that is a minute off nothing new is issued."""
        skew = self.skew()
        if skew is not None and is_unsafe(skew):
            raise Unavailable(
                Code.CLOCK_UNSAFE,
                "the broker's clock differs too much from its issuers' to issue anything; its operators have been told",
                detail=f"skew {skew.total_seconds():.0f} s",
                retry_after=30,
            )

    async def _took_back(self, upstream: Upstream, order: Order, minted: Minted) -> bool:
        """Whether what was minted is gone. When it is not, its intent stays open, for the sweeper."""
        try:
            await upstream.take_back(order, minted)
        except BrokerError as error:
            log.warning("lease.not_taken_back", extra={"session_id": order.session_id, "detail": error.detail})
            return False
        return True

    async def _failed(self, intent_id: str, about: About, upstream: Upstream, error: BrokerError, now: Moment) -> None:
        """The intent's outcome, when it came to nothing. Raises nothing: what cannot be written now, the sweeper writes."""
        self.refusing.meter.issuance(upstream.name, error.code.word, 0.0)
        entry = self.journal.intent_failed(
            at=now.wall,
            about=about,
            upstream=upstream.name,
            intent_id=intent_id,
            code=error.code.word,
            detail=error.detail,
        )
        try:
            await self.ledger.commit([SettleIntent(intent_id=intent_id)], [entry])
        except BrokerError as unwritten:
            log.warning("intent.outcome_unwritten", extra={"intent_id": intent_id, "code": unwritten.code.word})


def _require_no_overhang(grant: Grant, minted: Minted, session: Session) -> None:
    """`strict_expiry`: STS's shortest session is fifteen minutes; one that would outlive the broker's is refused (DESIGN 3.7)."""
    if grant.strict_expiry and minted.expires_at is not None and minted.expires_at > session.expires_at:
        raise Refused(
            Code.TTL_UNAVAILABLE,
            f"grant {grant.name!r} is strict about its end, and the upstream's shortest credential would outlive the session",
        )
