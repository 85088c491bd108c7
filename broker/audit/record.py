"""What of an identity and of a decision is written down: everything that decided, and of a person only a number (DESIGN 3.16)."""

from collections.abc import Sequence
from typing import Protocol

from broker.audit.canonical import SAFE_INTEGER, Json
from broker.identity.claims import ClaimValue, JobIdentity
from broker.identity.proven import Proven
from broker.moment import rfc3339

PERSONAL_CLAIMS = frozenset(
    {"user_login", "user_email", "user_identities", "name", "nickname", "preferred_username", "email", "actor"}
)
"""Claims about a person that are not `user_id`. They are not in entries, nor is what a policy wanted of them."""


class TrailStep(Protocol):
    """One condition that a decision looked at; `policy.model.Step` is one."""

    @property
    def environment(self) -> str: ...

    @property
    def clause(self) -> str: ...

    @property
    def claim(self) -> str: ...

    @property
    def value(self) -> str | None: ...

    @property
    def wanted(self) -> str: ...

    @property
    def met(self) -> bool: ...


def identity_record(identity: JobIdentity | None, *, with_claims: bool) -> Json:
    if identity is None:
        return None
    record: dict[str, Json] = {
        "expires_at": rfc3339(identity.expires_at),
        "issued_at": rfc3339(identity.issued_at),
        "issuer": identity.issuer,
        "issuer_name": identity.issuer_name,
        "job_id": identity.job_id,
        "jti": identity.jti,
        "kid": identity.kid,
        "pipeline_id": identity.pipeline_id,
        "profile": identity.profile,
        "project_id": identity.project_id,
        "project_path": identity.project_path,
        "ref_path": identity.ref_path,
        "ref_protected": identity.ref_protected,
        "stable_id": identity.stable_id,
        "user_id": identity.user_id,
    }
    if with_claims:
        kept = {name: _claim(value) for name, value in identity.claims.items() if name not in PERSONAL_CLAIMS}
        record["claims"] = kept
    return record


def signed_record(proven: Proven | None) -> Json:
    """A refused token as its issuer signed it. Under a name of its own, so that nobody takes it for an identity."""
    if proven is None:
        return None
    return {
        "claims": {name: _claim(value) for name, value in proven.claims.items() if name not in PERSONAL_CLAIMS},
        "issuer": proven.issuer,
        "issuer_name": proven.issuer_name,
        "kid": proven.kid,
        "profile": proven.profile,
        "stable_id": proven.stable_id,
    }


def _claim(value: ClaimValue) -> Json:
    """A claim as JSON. A number that not every reader can hold is kept as text."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, int) and abs(value) > SAFE_INTEGER:
        return str(value)
    return value


def trail_record(trail: Sequence[TrailStep]) -> list[Json]:
    return [_step(step) for step in trail]


def _step(step: TrailStep) -> Json:
    personal = step.claim in PERSONAL_CLAIMS
    return {
        "claim": step.claim,
        "clause": step.clause,
        "environment": step.environment,
        "met": step.met,
        "value": "(withheld: personal)" if personal and step.value is not None else step.value,
        "wanted": "(withheld: personal)" if personal else step.wanted,
    }
