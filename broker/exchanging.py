"""The story of an exchange, in numbered steps: a job token becomes a session, and nothing is minted (DESIGN 3.8)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from hmac import compare_digest
from typing import Literal, Protocol

from broker.audit.entry import About, Entry, Journal
from broker.errors import Code, Refused
from broker.identity.claims import JobIdentity
from broker.ledger import Change, CloseSession, Ledger, OpenSession
from broker.moment import Moment
from broker.policy.decide import decide
from broker.policy.model import Allow, Deny, Policy
from broker.refusing import Refusing, about_session
from broker.secret import Secret
from broker.session import Session, SessionState, handle_hash, new_handle, new_id, resume_hash

RESUME_WINDOW = timedelta(seconds=120)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanging:
    """Everything the story needs, handed in by wiring."""

    verifier: Verifier
    policy: Callable[[], Policy]
    ledger: Ledger
    journal: Journal
    refusing: Refusing
    clock: Callable[[], Moment]
    bind_uid: bool

    async def exchange(self, request: ExchangeRequest) -> Exchanged:
        """A job token becomes a session. Mints nothing (DESIGN 3.8). Raises Refused or Unavailable."""
        now = self.clock()
        listener = request.peer.transport

        # 1. Learn who is asking. Until this returns, nothing about the token is a fact.
        try:
            identity = await self.verifier.verify(request.unverified_token, now)
        except Refused as refusal:
            self.refusing.denials.unsigned(refusal.code, listener)
            self.refusing.meter.exchange(refusal.code.word)
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
            raise await self.refusing.denied(decision, about, listener, now)

        ends = [identity.expires_at] + ([now.wall + decision.rule.max_session] if decision.rule.max_session else [])
        if min(ends) <= now.wall:  # within the leeway of its `exp`, which is for clocks and not for sessions
            ended = Deny(Code.TOKEN_EXPIRED, "the job token has just expired; its leeway opens no session", decision.trail)
            raise await self.refusing.denied(ended, about, listener, now)

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
            closing = about_session(existing, request.correlation_id)
            entries.append(self.journal.session_closed(at=now.wall, about=closing, state="revoked", reason="resumed"))
        changes.append(
            OpenSession(
                session=session,
                replaces=existing.session_id if existing else None,
                max_exchanges=decision.rule.max_exchanges,
            )
        )
        try:
            await self.ledger.commit(changes, [*entries, opened])
        except Refused as refusal:
            if refusal.code is Code.SESSION_EXISTS:  # lost a race for the same token
                raise await self._second_holder(about, listener, now) from None
            raise await self.refusing.denied(Deny(refusal.code, refusal.public, decision.trail), about, listener, now) from None
        self.refusing.meter.exchange("opened")
        return Exchanged(session=session, handle=handle, replaced=existing.session_id if existing else None)

    async def _second_holder(self, about: About, listener: str, now: Moment) -> Refused:
        self.refusing.meter.theft_suspected()
        return await self.refusing.denied(
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


def _resumes(existing: Session, resume: bytes | None, now: Moment) -> bool:
    recent = now.wall - existing.opened_at <= RESUME_WINDOW
    return recent and resume is not None and existing.resume_hash is not None and compare_digest(existing.resume_hash, resume)
