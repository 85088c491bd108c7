"""Refusals that are facts: counted, written down as far as their rate allows, and told without the policy's side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.audit.entry import About, Journal
from broker.errors import Code, Refused
from broker.identity.proven import SignedRefusal
from broker.ledger import Ledger
from broker.moment import Moment
from broker.policy.decide import decide
from broker.policy.model import Allow, Deny, Policy
from broker.session import Session


class Meter(Protocol):
    """Counts, for `/metrics`. Label values come from our own closed lists, never from a request."""

    def exchange(self, outcome: str) -> None: ...

    def issuance(self, upstream: str, outcome: str, seconds: float) -> None: ...

    def theft_suspected(self) -> None: ...


class Subject(Protocol):
    """Whom a signed denial is about: a job's identity, or what a signature proves of a token that was refused."""

    @property
    def issuer(self) -> str: ...

    @property
    def stable_id(self) -> str: ...


class Denials(Protocol):
    """Bounds what strangers and jobs can put into the log (DESIGN section 8)."""

    def unsigned(self, code: Code, listener: str) -> None:
        """A token without a valid signature: counted for the next rollup, never an entry of its own."""

    def admit(self, whose: Subject, code: Code, listener: str, now: Moment) -> bool:
        """Whether this signed denial gets an entry of its own; counted for the rollup when it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusing:
    """Makes the exception to raise, once its entry is written or counted."""

    policy: Callable[[], Policy]
    ledger: Ledger
    journal: Journal
    denials: Denials
    meter: Meter
    clock: Callable[[], Moment]

    async def token(self, refusal: Refused, correlation_id: str, listener: str, now: Moment) -> Refused:
        """The refusal of a token to raise. One that its issuer signed is a signed denial, with what the signature proves; of any
        other nothing is known, so it is counted and that is all.
        """
        if isinstance(refusal, SignedRefusal):
            about = About(correlation_id=correlation_id, proven=refusal.proven, policy_hash=self.policy().hash)
            return await self.denied(Deny(refusal.code, refusal.public, ()), about, listener, now)
        self.denials.unsigned(refusal.code, listener)
        self.meter.exchange(refusal.code.word)
        return refusal

    async def denied(self, denial: Deny, about: About, listener: str, now: Moment, *, held_by: str = "") -> Refused:
        """The refusal to raise, once its entry is written (or counted, past the rate). The trail stays with us."""
        self.meter.exchange(denial.code.word)
        whose = about.identity or about.proven
        if whose is not None and self.denials.admit(whose, denial.code, listener, now):
            entry = self.journal.denied(
                at=now.wall, about=about, code=denial.code.word, trail=denial.trail, listener=listener, held_by=held_by
            )
            await self.ledger.commit([], [entry])
        return Refused(denial.code, denial.hint)

    async def grant(self, session: Session, grant: str, known: bool, correlation_id: str) -> Refused:
        """The refusal, logged, of a grant that the session was not opened for."""
        about = about_session(session, correlation_id, grant=grant if known else "", policy_hash=self.policy().hash)
        if known:
            hint = f"this session was not opened for grant {grant!r}; its grants are: {', '.join(session.grants)}"
            return await self.denied(Deny(Code.GRANT_DENIED, hint, ()), about, "session", self.clock())
        hint = f"there is no grant {grant!r}; this session's grants are: {', '.join(session.grants)}"
        return await self.denied(Deny(Code.GRANT_UNKNOWN, hint, ()), about, "session", self.clock())


def answer_now(policy: Policy, session: Session, grants: Sequence[str]) -> Allow | Deny:
    """What that policy says to a live session's job, from its stored identity. Another environment is a denial."""
    decision = decide(policy, session.identity, grants)
    if isinstance(decision, Allow) and decision.environment != session.environment:
        hint = f"the policy has changed and this job is no longer in environment {session.environment!r}"
        return Deny(Code.NO_ENVIRONMENT, hint, decision.trail)
    return decision


def about_session(session: Session, correlation_id: str, *, grant: str = "", subpath: str = "", policy_hash: str = "") -> About:
    """What an entry says it is about, for everything that happens in a session. The policy is the one it was opened under,
    unless another one decided.
    """
    return About(
        correlation_id=correlation_id,
        identity=session.identity,
        session_id=session.session_id,
        environment=session.environment,
        grant=grant,
        subpath=subpath,
        policy_hash=policy_hash or session.policy_hash,
    )
