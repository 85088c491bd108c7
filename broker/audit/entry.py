"""One record of the issuance log: what happened, to whom, and the exact bytes that say so.

An entry is made once, here, as canonical JSON; those bytes are what is hashed, stored and proved (DESIGN section 8). It never
holds a secret, a token, or a hash of one, and of a person only a number (DESIGN 3.16).
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from broker.audit.canonical import Json
from broker.audit.event import About, Entry, Events, Ids
from broker.audit.record import TrailStep, trail_record
from broker.moment import epoch_ms, rfc3339

__all__ = ["About", "Entry", "Ids", "Journal"]

_MOST_PROBLEMS = 20  # of a policy that was refused; how many there were is said
_PROBLEM_CHARS = 500


class Journal(Events):
    """Makes entries. Writes nothing: an entry exists once a ledger has committed it."""

    __slots__ = ()

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
        return self.made("session_opened", at, about, data, extra=extra, expires_at=expires_at)

    def session_closed(
        self, *, at: datetime, about: About, state: str, reason: str, not_revocable_until: datetime | None = None
    ) -> Entry:
        data: dict[str, Json] = {"not_revocable_until": _time(not_revocable_until), "reason": reason, "state": state}
        return self.made("session_closed", at, about, data)

    def intent(self, *, at: datetime, about: About, upstream: str, ids: Ids, broker_id: str, deadline: datetime) -> Entry:
        """The promise. Its entry id is the intent's id."""
        data: dict[str, Json] = {
            "deadline": rfc3339(deadline),
            "intent_broker": broker_id,
            "upstream": upstream,
            "upstream_ids": dict(ids),
        }
        return self.made("intent", at, about, data)

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
        return self.made("issued", at, about, data, entry_id=entry_id, expires_at=expires_at)

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
        return self.made("renewed", at, about, data, entity=lease_id)

    def intent_failed(self, *, at: datetime, about: About, upstream: str, intent_id: str, code: str, detail: str) -> Entry:
        data: dict[str, Json] = {"code": code, "detail": detail, "intent_id": intent_id, "upstream": upstream}
        return self.made("intent_failed", at, about, data)

    def intent_swept(self, *, at: datetime, about: About, upstream: str, intent_id: str, ids: Ids, outcome: str) -> Entry:
        """An intent whose broker did not say what came of it, settled after its deadline; `outcome` says what was done."""
        data: dict[str, Json] = {
            "intent_id": intent_id,
            "outcome": outcome,
            "upstream": upstream,
            "upstream_ids": dict(ids),
        }
        return self.made("intent_swept", at, about, data, entity=intent_id)

    def denied(
        self, *, at: datetime, about: About, code: str, trail: Sequence[TrailStep], listener: str, held_by: str = ""
    ) -> Entry:
        """A refusal, with every condition that was looked at and what the policy wanted. The caller never sees this.

        `held_by` is the live session of a token that somebody else presents too: possible theft.
        """
        data: dict[str, Json] = {"code": code, "listener": listener, "trail": trail_record(trail)}
        if held_by:
            data["possible_theft"] = {"live_session_id": held_by}
        return self.made("denied", at, about, data)

    def revoked(self, *, at: datetime, about: About, upstream: str, lease_id: str, ids: Ids, reason: str) -> Entry:
        data: dict[str, Json] = {"lease_id": lease_id, "reason": reason, "upstream": upstream, "upstream_ids": dict(ids)}
        return self.made("revoked", at, about, data, entity=lease_id)

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
        return self.made("revoke_failed", at, about, data, entity=lease_id)

    def policy_loaded(self, *, at: datetime, policy_hash: str, text: str, git_commit: str = "") -> Entry:
        """A policy takes effect. Its text is kept beside the tree, under its SHA-256, which the entry holds."""
        about = About(correlation_id="", policy_hash=policy_hash)
        data: dict[str, Json] = {"git_commit": git_commit, "text_sha256": hashlib.sha256(text.encode()).hexdigest()}
        return self.made("policy_loaded", at, about, data, entity=policy_hash, policy_text=text)

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
        return self.made("policy_refused", at, about, data, entity=refused_hash or "unreadable")

    def broker_started(self, *, at: datetime, policy_hash: str, log_vkey: str) -> Entry:
        about = About(correlation_id="", policy_hash=policy_hash)
        return self.made("broker_started", at, about, {"log_vkey": log_vkey}, entity=self.broker_id)

    def rollup(self, *, at: datetime, since: datetime, counts: Sequence[tuple[str, str, int]]) -> Entry:
        """Refusals that have no entry of their own: (code, listener, how many) between `since` and `at`."""
        lines: list[Json] = [{"code": code, "count": count, "listener": listener} for code, listener, count in counts]
        data: dict[str, Json] = {"counts": lines, "since": rfc3339(since)}
        extra: dict[str, Json] = {
            "count": sum(count for *_, count in counts),
            "end_time": epoch_ms(at),
            "start_time": epoch_ms(since),
        }
        return self.made("rollup", at, About(correlation_id=""), data, extra=extra)

    def block_set(self, *, at: datetime, block_id: str, scope: str, value: str, reason: str, uid: int | None) -> Entry:
        """The kill switch. Of whoever threw it the uid is known, as the admin socket's kernel says."""
        return self._block("block_set", at, block_id, scope, value, reason, uid)

    def block_lifted(self, *, at: datetime, block_id: str, scope: str, value: str, reason: str, uid: int | None) -> Entry:
        return self._block("block_lifted", at, block_id, scope, value, reason, uid)

    def key_changed(self, *, at: datetime, key: str, change: str, kids: Sequence[str], detail: str = "") -> Entry:
        """A key of the broker, or its publication, is another one than before. `key` is `issuer`, `tls` or `publication`."""
        data: dict[str, Json] = {"change": change, "detail": detail, "key": key, "kids": list(kids)}
        return self.made("key_changed", at, About(correlation_id=""), data, entity=key)

    def _block(self, kind: str, at: datetime, block_id: str, scope: str, value: str, reason: str, uid: int | None) -> Entry:
        data: dict[str, Json] = {
            "block_id": block_id,
            "operator_uid": uid,
            "reason": reason,
            "scope": scope,
            "value": value,
        }
        return self.made(kind, at, About(correlation_id=""), data, entity=block_id)


def _time(at: datetime | None) -> str:
    return "" if at is None else rfc3339(at)
