"""The jobs that really came, decided again under another policy: who would have gained, lost, or been somewhere else.

What came before is what the log says, not what its policy would say. Pure: whoever calls reads the log.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from broker.identity.claims import ClaimSet
from broker.identity.profiles import PROFILES
from broker.policy.decide import candidates, decide_claims
from broker.policy.model import Allow, Policy

Outcome = Literal["gained", "lost", "moved", "same", "unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One decision of the log. `environment` is "" for a refusal, and `code` says which; `grants` are those asked about."""

    issuer: str
    profile: str
    claims: ClaimSet
    project: str  # for people
    ref: str
    job_id: str
    environment: str
    grants: tuple[str, ...]
    code: str


@dataclass(frozen=True, slots=True)
class Case:
    """Jobs of one project and ref with one outcome."""

    outcome: Outcome
    issuer: str
    project: str
    ref: str
    before: str
    after: str


@dataclass(slots=True)
class Counted:
    """How many decisions, and the newest jobs among them."""

    decisions: int = 0
    jobs: dict[str, None] = field(default_factory=dict)


def replay(policy: Policy, past: Iterable[Past]) -> dict[Case, Counted]:
    """Every decision, decided again, counted by what became of it; what stays the same too."""
    found: dict[Case, Counted] = {}
    for one in past:
        outcome, after = _decided(policy, one)
        before = f"{one.environment}: {', '.join(one.grants) or 'no grants'}" if one.environment else one.code
        counted = found.setdefault(Case(outcome, one.issuer, one.project, one.ref, before, after), Counted())
        counted.decisions += 1
        counted.jobs[one.job_id] = None
    return found


def _decided(policy: Policy, past: Past) -> tuple[Outcome, str]:
    if _needs_a_person(policy, past):
        return "unclear", "decided by a claim about a person, which the log does not keep"
    decision = decide_claims(policy, past.issuer, past.profile, past.claims, None)
    if not isinstance(decision, Allow):
        return ("lost" if past.environment else "same"), decision.code.word
    after = f"{decision.environment}: {', '.join(decision.grants) or 'no grants'}"
    if not past.environment:
        return _of_refused(past, decision), after
    if not set(past.grants) <= set(decision.grants):
        return "lost", after
    return ("same" if decision.environment == past.environment else "moved"), after


def _of_refused(past: Past, decision: Allow) -> Outcome:
    """A refusal of a grant is undone by that grant alone; the log does not always say which it was."""
    if past.code == "no_environment":
        return "gained"
    if not past.grants:
        return "unclear"
    return "gained" if set(past.grants) <= set(decision.grants) else "same"


def _needs_a_person(policy: Policy, past: Past) -> bool:
    if past.profile not in PROFILES:
        return False
    claims = PROFILES[past.profile].claims
    near = candidates(policy, past.issuer, past.profile, past.claims)
    return any(claims[condition.claim].personal for rule in near for condition in rule.conditions)
