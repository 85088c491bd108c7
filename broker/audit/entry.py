"""One record of the issuance log: what happened, to whom, and the exact bytes that say so.

An entry is made once, here, as canonical JSON; those bytes are what is hashed, stored and proved (DESIGN section 8). It never
holds a secret, a token, or a hash of one, and of a person only a number (DESIGN 3.16).
"""

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.audit import ocsf
from broker.audit.canonical import Json
from broker.audit.facets import Facets, facets_of
from broker.audit.fitting import fitted, plain_items
from broker.audit.record import TrailStep, identity_record, signed_record, trail_record
from broker.identity.claims import JobIdentity
from broker.identity.proven import Proven
from broker.moment import epoch_ms, rfc3339

_MOST_PROBLEMS = 20  # of a policy that was refused; how many there were is said
_PROBLEM_CHARS = 500
_WITH_CLAIMS = frozenset({"session_opened", "intent", "issued", "denied"})  # the decisions, and what a receipt is kept of


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry, finished. `policy_text` is what a `policy_loaded` entry names by hash; the store keeps it beside the tree."""

    entry_id: str
    kind: str
    time_ms: int
    body: bytes
    facets: Facets
    policy_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What several entries of one request have in common."""

    correlation_id: str
    identity: JobIdentity | None = None
    proven: Proven | None = None  # of a token that was signed and refused, which makes no identity
    session_id: str = ""
    environment: str = ""
    grant: str = ""
    subpath: str = ""
    policy_hash: str = ""


Ids = Mapping[str, str | int]
"""What a credential is named by upstream: `UpstreamIds.named()`."""


def fresh_entry_id() -> str:
    """128 random bits as 26 lower-case base32 characters."""
    return base64.b32encode(secrets.token_bytes(16)).decode("ascii").rstrip("=").lower()


@dataclass(frozen=True, slots=True)
class Journal:
    """Makes entries. Writes nothing: an entry exists once a ledger has committed it."""

    broker_id: str
    version: str
    fresh_id: Callable[[], str] = fresh_entry_id

    def session_opened(
        self,
        *,
        at: datetime,
        about: About,
        grants: Sequence[str],
        expires_at: datetime,
        trail: Sequence[TrailStep],
        listener: str,
        peer_uid: int | None,
        peer_address: str,
        replaces: str,
    ) -> Entry:
        data: dict[str, Json] = {
            "expires_at": rfc3339(expires_at),
            "grants": list(grants),
            "listener": listener,
            "peer_address": peer_address,
            "peer_uid": peer_uid,
            "replaces": replaces,
            "trail": trail_record(trail),
        }
        source: dict[str, Json] = {"ip": peer_address} if peer_address else {"name": listener}
        extra: dict[str, Json] = {"is_remote": bool(peer_address), "src_endpoint": source}
        return self._entry("session_opened", at, about, data, extra=extra, expires_at=expires_at)

    def session_closed(
        self, *, at: datetime, about: About, state: str, reason: str, not_revocable_until: datetime | None = None
    ) -> Entry:
        data: dict[str, Json] = {"not_revocable_until": _time(not_revocable_until), "reason": reason, "state": state}
        return self._entry("session_closed", at, about, data)

    def intent(self, *, at: datetime, about: About, upstream: str, ids: Ids, broker_id: str, deadline: datetime) -> Entry:
        """The promise. Its entry id is the intent's id."""
        data: dict[str, Json] = {
            "deadline": rfc3339(deadline),
            "intent_broker": broker_id,
            "upstream": upstream,
            "upstream_ids": dict(ids),
        }
        return self._entry("intent", at, about, data)

    def issued(
        self,
        *,
        entry_id: str,
        at: datetime,
        about: About,
        lease_id: str,
        version: int,
        upstream: str,
        ids: Ids,
        expires_at: datetime,
        upstream_expires_at: datetime | None,
        revocable: str,
        intent_id: str,
        luigi_task: str | None,
    ) -> Entry:
        """The outcome of an intent that came to a credential. `luigi_task` is the caller's word and is marked as such."""
        data: dict[str, Json] = {
            "claimed": {"luigi_task": luigi_task} if luigi_task else None,
            "expires_at": rfc3339(expires_at),
            "intent_id": intent_id,
            "lease_id": lease_id,
            "revocable": revocable,
            "upstream": upstream,
            "upstream_expires_at": _time(upstream_expires_at),
            "upstream_ids": dict(ids),
            "version": version,
        }
        return self._entry("issued", at, about, data, entry_id=entry_id, expires_at=expires_at)

    def renewed(
        self,
        *,
        at: datetime,
        about: About,
        lease_id: str,
        version: int,
        upstream: str,
        ids: Ids,
        upstream_expires_at: datetime | None,
        revocable: str,
        intent_id: str,
    ) -> Entry:
        """The same credential for longer. With an `intent_id` it is that intent's outcome (a value read again, unchanged)."""
        data: dict[str, Json] = {
            "intent_id": intent_id,
            "lease_id": lease_id,
            "revocable": revocable,
            "upstream": upstream,
            "upstream_expires_at": _time(upstream_expires_at),
            "upstream_ids": dict(ids),
            "version": version,
        }
        return self._entry("renewed", at, about, data, entity=lease_id)

    def intent_failed(self, *, at: datetime, about: About, upstream: str, intent_id: str, code: str, detail: str) -> Entry:
        data: dict[str, Json] = {"code": code, "detail": detail, "intent_id": intent_id, "upstream": upstream}
        return self._entry("intent_failed", at, about, data)

    def intent_swept(self, *, at: datetime, about: About, upstream: str, intent_id: str, ids: Ids, outcome: str) -> Entry:
        """An intent whose broker did not say what came of it, settled after its deadline; `outcome` says what was done."""
        data: dict[str, Json] = {
            "intent_id": intent_id,
            "outcome": outcome,
            "upstream": upstream,
            "upstream_ids": dict(ids),
        }
        return self._entry("intent_swept", at, about, data, entity=intent_id)

    def denied(
        self, *, at: datetime, about: About, code: str, trail: Sequence[TrailStep], listener: str, held_by: str = ""
    ) -> Entry:
        """A refusal, with every condition that was looked at and what the policy wanted. The caller never sees this.

        `held_by` is the live session of a token that somebody else presents too: possible theft.
        """
        data: dict[str, Json] = {"code": code, "listener": listener, "trail": trail_record(trail)}
        if held_by:
            data["possible_theft"] = {"live_session_id": held_by}
        return self._entry("denied", at, about, data)

    def revoked(self, *, at: datetime, about: About, upstream: str, lease_id: str, ids: Ids, reason: str) -> Entry:
        data: dict[str, Json] = {"lease_id": lease_id, "reason": reason, "upstream": upstream, "upstream_ids": dict(ids)}
        return self._entry("revoked", at, about, data, entity=lease_id)

    def revoke_failed(
        self, *, at: datetime, about: About, upstream: str, lease_id: str, ids: Ids, reason: str, code: str, detail: str
    ) -> Entry:
        data: dict[str, Json] = {
            "code": code,
            "detail": detail,
            "lease_id": lease_id,
            "reason": reason,
            "upstream": upstream,
            "upstream_ids": dict(ids),
        }
        return self._entry("revoke_failed", at, about, data, entity=lease_id)

    def policy_loaded(self, *, at: datetime, policy_hash: str, text: str, git_commit: str = "") -> Entry:
        """A policy takes effect. Its text is kept beside the tree, under its SHA-256, which the entry holds."""
        about = About(correlation_id="", policy_hash=policy_hash)
        data: dict[str, Json] = {"git_commit": git_commit, "text_sha256": hashlib.sha256(text.encode()).hexdigest()}
        return self._entry("policy_loaded", at, about, data, entity=policy_hash, policy_text=text)

    def policy_refused(
        self, *, at: datetime, policy_hash: str, refused_hash: str, problems: Sequence[str], git_commit: str = ""
    ) -> Entry:
        """A policy that was not taken, and the first of its problems. `policy_hash` is the one that stays in force."""
        data: dict[str, Json] = {
            "git_commit": git_commit,
            "problem_count": len(problems),
            "problems": [problem[:_PROBLEM_CHARS] for problem in problems[:_MOST_PROBLEMS]],
            "refused_hash": refused_hash,
        }
        about = About(correlation_id="", policy_hash=policy_hash)
        return self._entry("policy_refused", at, about, data, entity=refused_hash or "unreadable")

    def broker_started(self, *, at: datetime, policy_hash: str, log_vkey: str) -> Entry:
        about = About(correlation_id="", policy_hash=policy_hash)
        return self._entry("broker_started", at, about, {"log_vkey": log_vkey}, entity=self.broker_id)

    def rollup(self, *, at: datetime, since: datetime, counts: Sequence[tuple[str, str, int]]) -> Entry:
        """Refusals that have no entry of their own: (code, listener, how many) between `since` and `at`."""
        lines: list[Json] = [{"code": code, "count": count, "listener": listener} for code, listener, count in counts]
        data: dict[str, Json] = {"counts": lines, "since": rfc3339(since)}
        extra: dict[str, Json] = {
            "count": sum(count for *_, count in counts),
            "end_time": epoch_ms(at),
            "start_time": epoch_ms(since),
        }
        return self._entry("rollup", at, About(correlation_id=""), data, extra=extra)

    def _entry(
        self,
        kind: str,
        at: datetime,
        about: About,
        data: Mapping[str, Json],
        *,
        entry_id: str = "",
        extra: Mapping[str, Json] | None = None,
        entity: str = "",
        expires_at: datetime | None = None,
        policy_text: str = "",
    ) -> Entry:
        entry_id = entry_id or self.fresh_id()
        code = str(data.get("code", ""))
        shape = ocsf.shape_of(kind, code=code, grant=about.grant)
        event = ocsf.header(shape, time_ms=epoch_ms(at), uid=entry_id, correlation_id=about.correlation_id, version=self.version)
        if about.identity is None and about.proven is not None:
            event |= ocsf.refused_subject(about.proven.issuer_name, about.proven.stable_id)
        else:
            event |= ocsf.subject(about.identity)
        if shape.class_uid == ocsf.AUTHENTICATION:
            event |= ocsf.authentication(about.identity)
        if shape.class_uid == ocsf.AUTHORIZE_SESSION:
            event["privileges"] = ocsf.privileges(about.environment, [about.grant])
        if shape.class_uid == ocsf.ENTITY_MANAGEMENT:
            event["entity"] = ocsf.entity(shape, uid=entity, name=about.grant or kind)
            event.pop("user")  # 3004 knows an actor, not a user
        if about.session_id and shape.class_uid != ocsf.ENTITY_MANAGEMENT:
            event["session"] = ocsf.session(about.session_id, self.broker_id, expires_at)
        if about.policy_hash:
            event["policy"] = {"uid": about.policy_hash}
        if code:
            event["status_code"] = code
        event |= extra or {}
        ours = {
            "broker_id": self.broker_id,
            "correlation_id": about.correlation_id,
            "environment": about.environment,
            "grant": about.grant,
            "identity": identity_record(about.identity, with_claims=kind in _WITH_CLAIMS),
            "kind": kind,
            "policy_hash": about.policy_hash,
            "session_id": about.session_id,
            "signed": signed_record(about.proven),
            "subpath": about.subpath,
            **data,
        }
        event["unmapped"] = {name: value for name, value in ours.items() if value not in ("", None)}
        body = fitted(plain_items(event))
        return Entry(
            entry_id=entry_id,
            kind=kind,
            time_ms=epoch_ms(at),
            body=body,
            facets=facets_of(body),
            policy_text=policy_text,
        )


def _time(at: datetime | None) -> str:
    return "" if at is None else rfc3339(at)
