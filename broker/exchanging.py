"""The story of an exchange, in numbered steps: a job token becomes a session, and nothing is minted (DESIGN 3.8)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Literal, Protocol

from broker.audit.entry import About, Entry, Journal
from broker.errors import Code, Refused, Unavailable
from broker.identity.claims import JobIdentity
from broker.leasing import not_revocable_until
from broker.ledger import Change, CloseSession, Ledger, OpenSession
from broker.moment import Moment
from broker.policy.decide import decide
from broker.policy.model import Allow, Deny, Policy
from broker.refusing import Refusing, about_session
from broker.secret import Secret
from broker.session import Session, SessionState, handle_hash, new_handle, new_id, resume_hash

Transport = Literal["unix", "http", "https", "admin"]
"""The kinds of door that a request can come through."""

RESUME_WINDOW = timedelta(seconds=120)
_ATTEMPTS = 8
# What a commit says when somebody else changed what there is of this token: opened its session, or ended the one to resume.
_OVERTAKEN = frozenset({Code.SESSION_EXISTS, Code.SESSION_REVOKED, Code.SESSION_IDLE, Code.SESSION_EXPIRED, Code.HANDLE_INVALID})
_HELD = (
    "this job token has a live session already and this exchange does not resume it; if no other process of the job opened it, "
    "somebody else holds the token"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where a request came from, as the kernel and the TLS layer say; nothing here is the caller's word."""

    transport: Transport
    uid: int | None = None
    pid: int | None = None
    address: str = ""
    certificate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRequest:
    unverified_token: str = field(repr=False)
    wants: tuple[str, ...] | None  # None: everything the policy allows
    environment: str | None
    resume_key: str | None = field(repr=False)
    heartbeat: bool
    peer: Peer
    correlation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    session: Session
    handle: Secret
    left: int  # how many more sessions the same token may open
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
            raise await self.refusing.token(refusal, request.correlation_id, listener, now) from None

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
        #    answer; anything else is a second holder of the token. Whoever was overtaken between looking and committing (another
        #    broker on this store, a client that asks again while its first request is under way) looks again.
        resume = None if request.resume_key is None else resume_hash(request.resume_key)
        for _ in range(_ATTEMPTS):
            existing = await self.ledger.live_session(identity.issuer, identity.jti)
            if existing is not None and not _resumes(existing, resume, now):
                self.refusing.meter.theft_suspected()
                held = Deny(Code.SESSION_EXISTS, _HELD, ())
                raise await self.refusing.denied(held, about, listener, now, held_by=existing.session_id)
            opened_before = await self.ledger.opened(identity.issuer, identity.jti)
            opening = await self._opening(request, about, decision, existing, min(ends), resume, now)
            try:
                await self.ledger.commit(opening.changes, opening.entries)
            except Refused as refusal:
                if refusal.code in _OVERTAKEN:
                    continue
                denial = Deny(refusal.code, refusal.public, decision.trail)
                raise await self.refusing.denied(denial, about, listener, now) from None
            self.refusing.meter.exchange("opened")
            return Exchanged(
                session=opening.session,
                handle=opening.handle,
                left=decision.rule.max_exchanges - opened_before - 1,
                replaced=existing.session_id if existing else None,
            )
        self.refusing.meter.exchange(Code.RATE_LIMITED.word)
        raise Unavailable(Code.RATE_LIMITED, "this job token is being exchanged many times at once; ask again", retry_after=1)

    async def _opening(
        self,
        request: ExchangeRequest,
        about: About,
        decision: Allow,
        existing: Session | None,
        expires_at: datetime,
        resume: bytes | None,
        now: Moment,
    ) -> "_Opening":
        """4. The session and its entry, for one transaction; with the end of the session that it resumes."""
        identity = about.identity
        assert identity is not None
        handle = new_handle()
        about = replace(about, session_id=new_id(), environment=decision.environment)
        opened = self.journal.session_opened(
            at=now.wall,
            about=about,
            grants=decision.grants,
            expires_at=expires_at,
            trail=decision.trail,
            listener=request.peer.transport,
            peer_uid=request.peer.uid,
            peer_address=request.peer.address,
            replaces=existing.session_id if existing else "",
        )
        session = Session(
            session_id=about.session_id,
            handle_hash=handle_hash(handle.reveal()),
            identity=identity,
            environment=decision.environment,
            grants=decision.grants,
            policy_hash=about.policy_hash,
            opened_at=now.wall,
            expires_at=expires_at,
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
            until = not_revocable_until(await self.ledger.leases(existing.session_id), now)
            entries.append(
                self.journal.session_closed(
                    at=now.wall, about=closing, state="revoked", reason="resumed", not_revocable_until=until
                )
            )
        changes.append(
            OpenSession(
                session=session,
                replaces=existing.session_id if existing else None,
                max_exchanges=decision.rule.max_exchanges,
            )
        )
        return _Opening(session, handle, changes, [*entries, opened])


@dataclass(frozen=True, slots=True)
class _Opening:
    """A session that may be committed, or may come too late and be forgotten."""

    session: Session
    handle: Secret
    changes: list[Change]
    entries: list[Entry]


def _resumes(existing: Session, resume: bytes | None, now: Moment) -> bool:
    recent = now.wall - existing.opened_at <= RESUME_WINDOW
    return recent and resume is not None and existing.resume_hash is not None and compare_digest(existing.resume_hash, resume)
