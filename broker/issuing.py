"""The story of an exchange and of an issuance, in numbered steps.

Everything called here is either pure or one protocol method. This is the only file that knows the order, and the order is the
promise: no entry, no credential (DESIGN 3.4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from hmac import compare_digest
from typing import Literal, Protocol

from broker.audit.entry import About, Entry, Journal
from broker.errors import BrokerError, Code, Refused, Unavailable
from broker.identity.claims import JobIdentity
from broker.lease import Lease, UpstreamIds
from broker.leasing import Pace, born, extended, kept, same_values, seal_lease
from broker.ledger import (
    Change,
    CloseSession,
    ExtendLease,
    Ledger,
    NoteIds,
    OpenSession,
    SettleIntent,
    WriteIntent,
    WriteLease,
)
from broker.moment import Moment
from broker.policy.decide import decide
from broker.policy.model import Allow, Deny, Policy, Target
from broker.policy.templates import fill
from broker.sealing import SealKey
from broker.secret import Secret
from broker.session import Session, SessionState, handle_hash, new_handle, new_id, resume_hash
from broker.upstream import Held, Order, Upstream

INTENT_DEADLINE = timedelta(seconds=60)
RESUME_WINDOW = timedelta(seconds=120)
MOST_SKEW = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where a request came from, as the kernel and the TLS layer say; nothing here is the caller's word."""

    transport: Literal["unix", "http", "https", "admin"]
    uid: int | None = None
    pid: int | None = None
    address: str = ""
    certificate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRequest:
    unverified_token: str
    wants: tuple[str, ...] | None  # None: everything the policy allows
    environment: str | None
    resume_key: str | None
    heartbeat: bool
    peer: Peer
    correlation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    session: Session
    handle: Secret
    replaced: str | None  # the session that this one resumed; its leases are still to be taken back


class Verifier(Protocol):
    async def verify(self, unverified_token: str, now: Moment) -> JobIdentity:
        """The identity in a token whose every check passed. Raises Refused(token_…) or Unavailable(issuer_unavailable)."""


class Meter(Protocol):
    """Counts, for `/metrics`. Label values come from our own closed lists, never from a request."""

    def exchange(self, outcome: str) -> None: ...

    def issuance(self, upstream: str, outcome: str, seconds: float) -> None: ...

    def theft_suspected(self) -> None: ...


class Denials(Protocol):
    """Bounds what strangers and jobs can put into the log (DESIGN section 8)."""

    def unsigned(self, code: Code, listener: str) -> None:
        """A token without a valid signature: counted for the next rollup, never an entry of its own."""

    def admit(self, identity: JobIdentity, code: Code, listener: str, now: Moment) -> bool:
        """Whether this signed denial gets an entry of its own; counted for the rollup when it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuing:
    """Everything the story needs, handed in by wiring."""

    verifier: Verifier
    policy: Callable[[], Policy]
    ledger: Ledger
    journal: Journal
    denials: Denials
    upstream_for: Callable[[Target], Upstream]
    clock: Callable[[], Moment]
    meter: Meter
    skew: Callable[[], timedelta | None]  # how far the issuers' clocks are from ours; None while none has told its time
    broker_id: str
    bind_uid: bool
    pace: Pace

    async def exchange(self, request: ExchangeRequest) -> Exchanged:
        """A job token becomes a session. Mints nothing (DESIGN 3.8). Raises Refused or Unavailable."""
        now = self.clock()
        listener = request.peer.transport

        # 1. Learn who is asking. Until this returns, nothing about the token is a fact.
        try:
            identity = await self.verifier.verify(request.unverified_token, now)
        except Refused as refusal:
            self.denials.unsigned(refusal.code, listener)
            self.meter.exchange(refusal.code.word)
            raise

        # 2. Decide every grant that was asked for; one that is denied refuses all.
        policy = self.policy()
        about = About(correlation_id=request.correlation_id, identity=identity, policy_hash=policy.hash)
        decision = decide(policy, identity, request.wants)
        if isinstance(decision, Allow) and request.environment not in (None, decision.environment):
            decision = Deny(
                Code.ENVIRONMENT_MISMATCH,
                f"this job is in environment {decision.environment!r}, not in the requested {request.environment!r}",
                decision.trail,
            )
        if isinstance(decision, Deny):
            raise await self._denied(decision, about, listener, now)

        ends = [identity.expires_at] + ([now.wall + decision.max_session] if decision.max_session else [])
        if min(ends) <= now.wall:  # within the leeway of its `exp`, which is for clocks and not for sessions
            ended = Deny(Code.TOKEN_EXPIRED, "the job token has just expired; its leeway opens no session", decision.trail)
            raise await self._denied(ended, about, listener, now)

        # 3. One live session per token. The same token with the same resume key, soon after, is a client that lost the
        #    answer; anything else is a second holder of the token.
        resume = None if request.resume_key is None else resume_hash(request.resume_key)
        existing = await self.ledger.live_session(identity.issuer, identity.jti)
        if existing is not None and not _resumes(existing, resume, now):
            raise await self._second_holder(about, listener, now)

        # 4. The session and its entry, in one transaction.
        handle = new_handle()
        session_id = new_id()
        about = About(
            correlation_id=request.correlation_id,
            identity=identity,
            session_id=session_id,
            environment=decision.environment,
            policy_hash=policy.hash,
        )
        opened = self.journal.session_opened(
            at=now.wall,
            about=about,
            grants=decision.grants,
            expires_at=min(ends),
            trail=decision.trail,
            listener=listener,
            peer_uid=request.peer.uid,
            peer_address=request.peer.address,
            replaces=existing.session_id if existing else "",
        )
        session = Session(
            session_id=session_id,
            handle_hash=handle_hash(handle.reveal()),
            identity=identity,
            environment=decision.environment,
            grants=decision.grants,
            policy_hash=policy.hash,
            opened_at=now.wall,
            expires_at=min(ends),
            heartbeat=request.heartbeat,
            peer_uid=request.peer.uid if self.bind_uid and request.peer.transport == "unix" else None,
            resume_hash=resume,
            receipt=opened.entry_id,
            last_seen=now.wall,
        )
        changes: list[Change] = []
        entries: list[Entry] = []
        if existing is not None:
            changes.append(CloseSession(session_id=existing.session_id, state=SessionState.REVOKED))
            closing = About(
                correlation_id=request.correlation_id,
                identity=existing.identity,
                session_id=existing.session_id,
                environment=existing.environment,
                policy_hash=existing.policy_hash,
            )
            entries.append(self.journal.session_closed(at=now.wall, about=closing, state="revoked", reason="resumed"))
        changes.append(
            OpenSession(
                session=session,
                replaces=existing.session_id if existing else None,
                max_exchanges=decision.max_exchanges,
            )
        )
        try:
            await self.ledger.commit(changes, [*entries, opened])
        except Refused as refusal:
            if refusal.code is Code.SESSION_EXISTS:  # lost a race for the same token
                raise await self._second_holder(about, listener, now) from None
            raise await self._denied(Deny(refusal.code, refusal.public, decision.trail), about, listener, now) from None
        self.meter.exchange("opened")
        return Exchanged(session=session, handle=handle, replaced=existing.session_id if existing else None)

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
        about = About(
            correlation_id=correlation_id,
            identity=session.identity,
            session_id=session.session_id,
            environment=session.environment,
            grant=grant,
            subpath=subpath,
            policy_hash=policy.hash,
        )
        decision = decide(policy, session.identity, (grant,))
        if isinstance(decision, Allow) and decision.environment != session.environment:
            decision = Deny(
                Code.NO_ENVIRONMENT,
                f"the policy has changed and this job is no longer in environment {session.environment!r}",
                decision.trail,
            )
        if isinstance(decision, Deny):
            raise await self._denied(decision, about, "session", now)

        # 2. What exactly will be asked for. Nothing that does not fit the target's character set gets further.
        definition = policy.grant(grant)
        rest = session.expires_at - now.wall
        ttl = rest if definition.max_ttl is None else min(rest, definition.max_ttl)
        try:
            target = fill(definition, session.environment, session.identity, subpath)
            upstream = self.upstream_for(target)
            order = Order(
                correlation_id=correlation_id,
                session_id=session.session_id,
                identity=session.identity,
                environment=session.environment,
                grant=grant,
                target=target,
                ttl=ttl,
                login=login,
            )
            planned = upstream.plan(order)
        except Refused as refusal:
            raise await self._denied(Deny(refusal.code, refusal.public, decision.trail), about, "session", now) from None

        # 3. The promise, durable before the upstream hears of it.
        intent = self.journal.intent(
            at=now.wall,
            about=about,
            upstream=upstream.name,
            ids=planned.named(),
            broker_id=self.broker_id,
            deadline=now.wall + INTENT_DEADLINE,
        )
        write_intent = WriteIntent(
            intent_id=intent.entry_id,
            session_id=session.session_id,
            grant=grant,
            subpath=subpath,
            broker_id=self.broker_id,
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

        # 5. The outcome, durable before the credential leaves; or it is taken back.
        done = self.clock()
        if previous is not None and minted.expires_at is None and same_values(previous.fields, minted.fields):
            lease = kept(previous, minted, done, self.pace)
            outcome = self.journal.renewed(
                at=done.wall,
                about=about,
                lease_id=lease.lease_id,
                version=lease.version,
                upstream=upstream.name,
                ids=lease.ids.named(),
                upstream_expires_at=None,
                revocable=lease.revocable,
                intent_id=intent.entry_id,
            )
            settled: list[Change] = [
                SettleIntent(intent_id=intent.entry_id),
                ExtendLease(lease=lease, sealed=seal_lease(key, lease, minted.held)),
            ]
        else:
            entry_id = new_id()
            lease = born(session, grant, subpath, upstream.kind, previous, minted, entry_id, ttl, now, done, self.pace)
            outcome = self.journal.issued(
                entry_id=entry_id,
                at=done.wall,
                about=about,
                lease_id=lease.lease_id,
                version=lease.version,
                upstream=upstream.name,
                ids=lease.ids.named(),
                expires_at=lease.expires_at,
                upstream_expires_at=lease.upstream_expires_at,
                revocable=lease.revocable,
                intent_id=intent.entry_id,
                luigi_task=luigi_task,
            )
            settled = [
                WriteLease(intent_id=intent.entry_id, lease=lease, sealed=seal_lease(key, lease, minted.held)),
            ]
        try:
            if definition.strict_expiry and minted.expires_at is not None and minted.expires_at > session.expires_at:
                raise Refused(
                    Code.TTL_UNAVAILABLE,
                    f"grant {grant!r} is strict about its end and the upstream's shortest credential would outlive the session",
                )
            await self.ledger.commit(settled, [outcome])
        except BrokerError as error:
            await upstream.revoke([minted.held])
            await self._failed(intent.entry_id, about, upstream, error, done)
            raise
        self.meter.issuance(upstream.name, "issued", done.mono - now.mono)
        return lease, minted.held

    async def renew(self, session: Session, key: SealKey, lease: Lease, held: Held, correlation_id: str) -> Lease:
        """The same credential for longer. Refused means that only `issue` can help; Unavailable that it is kept as it is."""
        now = self.clock()

        # 1. A rotation decides again, too.
        policy = self.policy()
        about = About(
            correlation_id=correlation_id,
            identity=session.identity,
            session_id=session.session_id,
            environment=session.environment,
            grant=lease.grant,
            subpath=lease.subpath,
            policy_hash=policy.hash,
        )
        decision = decide(policy, session.identity, (lease.grant,))
        if isinstance(decision, Deny):
            raise await self._denied(decision, about, "session", now)

        # 2. Ask for more time. There is no new secret, so there is no intent: a renewal that is not logged gave nobody
        #    anything they did not have, and ends with the upstream token's own maximum.
        target = fill(policy.grant(lease.grant), session.environment, session.identity, lease.subpath)
        upstream = self.upstream_for(target)
        order = Order(
            correlation_id=correlation_id,
            session_id=session.session_id,
            identity=session.identity,
            environment=session.environment,
            grant=lease.grant,
            target=target,
            ttl=session.expires_at - now.wall,
            login=held,
        )
        renewed = await upstream.renew(order, held)

        # 3. The new ends, durable before they are told to anybody.
        done = self.clock()
        longer = extended(lease, session, renewed, done, self.pace)
        entry = self.journal.renewed(
            at=done.wall,
            about=about,
            lease_id=lease.lease_id,
            version=lease.version,
            upstream=upstream.name,
            ids=lease.ids.named() | ({"request_id": renewed.request_id} if renewed.request_id else {}),
            upstream_expires_at=renewed.expires_at,
            revocable=lease.revocable,
            intent_id="",
        )
        await self.ledger.commit([ExtendLease(lease=longer, sealed=seal_lease(key, longer, held))], [entry])
        return longer

    async def refuse_grant(self, session: Session, grant: str, known: bool, correlation_id: str) -> Refused:
        """The refusal, logged, of a grant that the session was not opened for."""
        policy = self.policy()
        about = About(
            correlation_id=correlation_id,
            identity=session.identity,
            session_id=session.session_id,
            environment=session.environment,
            grant=grant if known else "",
            policy_hash=policy.hash,
        )
        if known:
            hint = f"this session was not opened for grant {grant!r}; its grants are: {', '.join(session.grants)}"
            return await self._denied(Deny(Code.GRANT_DENIED, hint, ()), about, "session", self.clock())
        hint = f"there is no grant of that name; this session's grants are: {', '.join(session.grants)}"
        return await self._denied(Deny(Code.GRANT_UNKNOWN, hint, ()), about, "session", self.clock())

    def _require_sane_clock(self) -> None:
        """DESIGN 3.15: with a clock that is a minute off nothing new is issued."""
        skew = self.skew()
        if skew is not None and abs(skew) > MOST_SKEW:
            raise Unavailable(
                Code.CLOCK_UNSAFE,
                "the broker's clock differs too much from its issuers' to issue anything; its operators have been told",
                detail=f"skew {skew.total_seconds():.0f} s",
                retry_after=30,
            )

    # --- the pieces of it -------------------------------------------------------------------------------------------

    async def _denied(self, denial: Deny, about: About, listener: str, now: Moment) -> Refused:
        """The refusal to raise, once its entry is written (or counted, past the rate). The trail stays with us."""
        self.meter.exchange(denial.code.word)
        identity = about.identity
        if identity is not None and self.denials.admit(identity, denial.code, listener, now):
            entry = self.journal.denied(at=now.wall, about=about, code=denial.code.word, trail=denial.trail, listener=listener)
            await self.ledger.commit([], [entry])
        return Refused(denial.code, denial.hint)

    async def _second_holder(self, about: About, listener: str, now: Moment) -> Refused:
        self.meter.theft_suspected()
        return await self._denied(
            Deny(
                Code.SESSION_EXISTS,
                "this job token has a live session already and this exchange does not resume it; if no other process of the "
                "job opened it, somebody else holds the token",
                (),
            ),
            about,
            listener,
            now,
        )

    async def _failed(self, intent_id: str, about: About, upstream: Upstream, error: BrokerError, now: Moment) -> None:
        """The intent's outcome, when it came to nothing. With the log away the sweeper writes it later."""
        self.meter.issuance(upstream.name, error.code.word, 0.0)
        entry = self.journal.intent_failed(
            at=now.wall,
            about=about,
            upstream=upstream.name,
            intent_id=intent_id,
            code=error.code.word,
            detail=error.detail,
        )
        if error.code not in (Code.LOG_UNAVAILABLE, Code.STORE_UNAVAILABLE):
            await self.ledger.commit([SettleIntent(intent_id=intent_id)], [entry])


def _resumes(existing: Session, resume: bytes | None, now: Moment) -> bool:
    recent = now.wall - existing.opened_at <= RESUME_WINDOW
    return recent and resume is not None and existing.resume_hash is not None and compare_digest(existing.resume_hash, resume)
