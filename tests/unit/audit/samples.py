"""The vocabulary of these tests: one job, one signer, one journal whose ids count up."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit.checkpoint import LogSigner
from broker.audit.entry import About, Entry, Journal
from broker.identity.claims import ClaimSet, JobIdentity
from tests.strategies import NOON, identity

SIGNER = LogSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))), "broker.example.com/log")
CLAIMS: dict[str, Any] = {
    "environment": "production",
    "groups_direct": ("group", "group/sub"),
    "ref_protected": True,
    "runner_id": 17,
    "sha": "9a6f0c1e",
    "user_email": "jo@example.com",
    "user_login": "jo-the-login",
}


@dataclass(frozen=True)
class Step:
    """Shaped like `policy.model.Step`, which these tests may not need."""

    environment: str = "production"
    clause: str = "when"
    claim: str = "ref_path"
    value: str | None = "refs/heads/x"
    wanted: str = "refs/heads/main"
    met: bool = False


def an_identity(**changes: Any) -> JobIdentity:
    own = identity(project_path="group/etl", job_id="900", pipeline_id="800", user_id="42", jti="jti-1")
    return msgspec.structs.replace(own, **({"claims": ClaimSet(CLAIMS)} | changes))


def an_about(**changes: Any) -> About:
    about = About(
        correlation_id="corr-1",
        identity=an_identity(),
        session_id="session-1",
        environment="production",
        grant="lake",
        subpath="",
        policy_hash="sha256:abc",
    )
    return replace(about, **changes)


def a_journal() -> Journal:
    ids = count()
    return Journal("broker-1", "0.1.0", lambda: f"entry-{next(ids)}")


@dataclass
class Script:
    """A journal that writes the entries of an ordinary day, one after the other."""

    journal: Journal = field(default_factory=a_journal)
    about: About = field(default_factory=an_about)

    def denied(self, code: str = "no_environment", trail: Sequence[Step] = (Step(),), **about: Any) -> Entry:
        return self.journal.denied(at=NOON, about=replace(self.about, **about), code=code, trail=trail, listener="unix")

    def opened(self) -> Entry:
        return self.journal.session_opened(
            at=NOON,
            about=replace(self.about, grant=""),
            grants=("lake", "warehouse"),
            expires_at=NOON + timedelta(hours=1),
            trail=(Step(met=True),),
            listener="unix",
            peer_uid=1000,
            peer_address="",
            replaces="",
        )

    def closed(self) -> Entry:
        until = NOON + timedelta(hours=1)
        return self.journal.session_closed(
            at=NOON, about=replace(self.about, grant=""), state="closed", reason="holder", not_revocable_until=until
        )

    def intent(self, at: datetime = NOON, **about: Any) -> Entry:
        return self.journal.intent(
            at=at,
            about=replace(self.about, **about),
            upstream="vault",
            ids={"role": "etl", "path": "database/creds/etl"},
            broker_id="broker-1",
            deadline=at + timedelta(seconds=60),
        )

    def issued(self, intent_id: str, luigi_task: str | None = None, **about: Any) -> Entry:
        return self.journal.issued(
            entry_id=self.journal.fresh_id(),
            at=NOON,
            about=replace(self.about, **about),
            lease_id="lease-1",
            version=1,
            upstream="vault",
            ids={"accessor": "accessor-1", "lease_id": "database/creds/etl/abc", "request_id": "req-1"},
            expires_at=NOON + timedelta(hours=1),
            upstream_expires_at=NOON + timedelta(hours=2),
            revocable="lease",
            intent_id=intent_id,
            luigi_task=luigi_task,
        )

    def renewed(self, intent_id: str = "") -> Entry:
        return self.journal.renewed(
            at=NOON,
            about=self.about,
            lease_id="lease-1",
            version=1,
            upstream="vault",
            ids={"accessor": "accessor-1"},
            upstream_expires_at=None,
            revocable="lease",
            intent_id=intent_id,
        )

    def failed(self, intent_id: str, **about: Any) -> Entry:
        return self.journal.intent_failed(
            at=NOON,
            about=replace(self.about, **about),
            upstream="vault",
            intent_id=intent_id,
            code="upstream_denied",
            detail="403 permission denied",
        )

    def swept(self, intent_id: str) -> Entry:
        return self.journal.intent_swept(
            at=NOON, about=self.about, upstream="vault", intent_id=intent_id, ids={"accessor": "accessor-1"}, outcome="revoked"
        )

    def revoked(self) -> Entry:
        return self.journal.revoked(
            at=NOON, about=self.about, upstream="vault", lease_id="lease-1", ids={"accessor": "accessor-1"}, reason="closed"
        )

    def revoke_failed(self) -> Entry:
        return self.journal.revoke_failed(
            at=NOON,
            about=self.about,
            upstream="vault",
            lease_id="lease-1",
            ids={"accessor": "accessor-1"},
            reason="closed",
            code="upstream_unavailable",
            detail="connection refused",
        )

    def policy(self, text: str = "version = 1\n") -> Entry:
        return self.journal.policy_loaded(at=NOON, policy_hash="sha256:abc", text=text)

    def policy_refused(self) -> Entry:
        return self.journal.policy_refused(
            at=NOON, policy_hash="sha256:abc", refused_hash="sha256:def", problems=["policy.toml:1: version is 2"] * 30
        )

    def started(self) -> Entry:
        return self.journal.broker_started(at=NOON, policy_hash="sha256:abc", log_vkey=SIGNER.vkey)

    def rollup(self) -> Entry:
        return self.journal.rollup(at=NOON, since=NOON - timedelta(minutes=1), counts=[("token_signature", "https", 7)])

    def day(self) -> list[Entry]:
        """One of every kind, in an order that holds together."""
        first, second, third, fourth = self.intent(), self.intent(), self.intent(), self.intent()
        return [
            self.started(),
            self.policy(),
            self.opened(),
            first,
            self.issued(first.entry_id, luigi_task="Load_2026"),
            self.renewed(),
            second,
            self.failed(second.entry_id),
            third,
            self.swept(third.entry_id),
            fourth,
            self.renewed(fourth.entry_id),
            self.denied(),
            self.denied(code="session_exists", grant="", session_id="", environment=""),
            self.rollup(),
            self.revoked(),
            self.revoke_failed(),
            self.closed(),
        ]
