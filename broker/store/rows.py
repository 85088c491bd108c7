"""Values to rows and back. Every row of state is authenticated as a whole, so that write access to the file is not enough to
turn a review session into a production one (DESIGN 3.9).

Not protected: a row that is deleted, or put back to an older authentic state of itself.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from broker.errors import Broken
from broker.identity.claims import JobIdentity
from broker.lease import Lease, UpstreamIds
from broker.ledger import StoredIntent, StoredLease, WriteIntent
from broker.session import Session, SessionState

Column = str | bytes | int | None
Row = tuple[Column, ...]

ROW_KEY_BYTES = 32
_MOST_FAULTS = 100
_DOMAIN = b"credbroker/row/1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)

# Every statement that touches an authenticated table names its columns in the order of the rows below.
SELECT_SESSION = "SELECT session_id, handle_hash, issuer, jti, state, expires_us, last_seen_us, record, mac FROM session"
INSERT_SESSION = (
    "INSERT INTO session (session_id, handle_hash, issuer, jti, state, expires_us, last_seen_us, record, mac)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
SELECT_INTENT = "SELECT intent_id, session_id, deadline_us, record, mac FROM intent"
INSERT_INTENT = "INSERT INTO intent (intent_id, session_id, deadline_us, record, mac) VALUES (?, ?, ?, ?, ?)"
SELECT_LEASE = "SELECT lease_id, session_id, grant_name, subpath, upstream_end_us, record, sealed, mac FROM lease"
INSERT_LEASE = (
    "INSERT INTO lease (lease_id, session_id, grant_name, subpath, upstream_end_us, record, sealed, mac)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class RowChanged(Broken):
    """A row that does not say what we wrote."""


@dataclass(slots=True)
class Faults:
    """What somebody else did to our rows. Kept for `healthy()` until the process ends; at most 100 of them."""

    details: dict[str, None]

    def note(self, error: Broken) -> None:
        if len(self.details) < _MOST_FAULTS:
            self.details[error.detail] = None


@dataclass(frozen=True, slots=True)
class RowSeal:
    """Authenticates rows: HMAC-SHA256 over the table's name and every column, each with its type and length."""

    key: bytes

    def mac(self, table: str, row: Sequence[Column]) -> bytes:
        parts = [_DOMAIN, *map(_encoded, (table, *row))]
        return hmac.digest(self.key, b"".join(parts), sha256)

    def opened(self, table: str, stored: Row) -> Row:
        """The columns of a stored row (its last one is its MAC). Raises RowChanged when this key did not write it."""
        *row, mac = stored
        if not isinstance(mac, bytes) or not hmac.compare_digest(mac, self.mac(table, row)):
            raise RowChanged(f"the row {row[0]!r} of table {table} was changed by somebody else, or [keys] store is another key")
        return tuple(row)

    def __repr__(self) -> str:
        return "RowSeal(***)"


def session_row(session: Session) -> Row:
    record = {
        "environment": session.environment,
        "grants": session.grants,
        "heartbeat": session.heartbeat,
        "identity": session.identity.to_record(),
        "opened_us": to_us(session.opened_at),
        "peer_uid": session.peer_uid,
        "policy_hash": session.policy_hash,
        "receipt": session.receipt,
        "resume_hash": None if session.resume_hash is None else session.resume_hash.hex(),
    }
    return (
        session.session_id,
        session.handle_hash,
        session.identity.issuer,
        session.identity.jti,
        session.state.value,
        to_us(session.expires_at),
        None if session.last_seen is None else to_us(session.last_seen),
        _packed(record),
    )


def session_of(row: Row) -> Session:
    """The session of an opened row."""
    session_id, handle_hash, _, _, state, expires_us, last_seen_us, record = row
    said = _unpacked(record)
    assert isinstance(session_id, str)
    assert isinstance(handle_hash, bytes)
    return Session(
        session_id=session_id,
        handle_hash=handle_hash,
        identity=JobIdentity.from_record(said["identity"]),
        environment=said["environment"],
        grants=tuple(said["grants"]),
        policy_hash=said["policy_hash"],
        opened_at=from_us(said["opened_us"]),
        expires_at=from_us(expires_us),
        heartbeat=said["heartbeat"],
        peer_uid=said["peer_uid"],
        resume_hash=None if said["resume_hash"] is None else bytes.fromhex(said["resume_hash"]),
        receipt=said["receipt"],
        state=SessionState(str(state)),
        last_seen=None if last_seen_us is None else from_us(last_seen_us),
    )


def intent_row(intent: WriteIntent | StoredIntent) -> Row:
    record = {
        "broker_id": intent.broker_id,
        "grant": intent.grant,
        "ids": intent.ids.named(),
        "subpath": intent.subpath,
    }
    return (intent.intent_id, intent.session_id, to_us(intent.deadline), _packed(record))


def intent_of(row: Row) -> StoredIntent:
    """The intent of an opened row."""
    intent_id, session_id, deadline_us, record = row
    said = _unpacked(record)
    return StoredIntent(
        intent_id=str(intent_id),
        session_id=str(session_id),
        grant=said["grant"],
        subpath=said["subpath"],
        broker_id=said["broker_id"],
        deadline=from_us(deadline_us),
        ids=UpstreamIds(**said["ids"]),
    )


def lease_row(lease: Lease | StoredLease, sealed: bytes) -> Row:
    record = {
        "environment": lease.environment,
        "expires_us": to_us(lease.expires_at),
        "ids": lease.ids.named(),
        "issued_us": to_us(lease.issued_at),
        "kind": lease.kind,
        "receipt": lease.receipt,
        "refresh_us": to_us(lease.refresh_at),
        "renewable": lease.renewable,
        "revocable": lease.revocable,
        "version": lease.version,
    }
    end = lease.upstream_expires_at
    return (
        lease.lease_id,
        lease.session_id,
        lease.grant,
        lease.subpath,
        None if end is None else to_us(end),
        _packed(record),
        sealed,
    )


def lease_of(row: Row) -> StoredLease:
    """The lease of an opened row."""
    lease_id, session_id, grant, subpath, upstream_end_us, record, sealed = row
    said = _unpacked(record)
    assert isinstance(sealed, bytes)
    return StoredLease(
        lease_id=str(lease_id),
        session_id=str(session_id),
        environment=said["environment"],
        grant=str(grant),
        subpath=str(subpath),
        kind=said["kind"],
        version=said["version"],
        ids=UpstreamIds(**said["ids"]),
        revocable=said["revocable"],
        receipt=said["receipt"],
        issued_at=from_us(said["issued_us"]),
        refresh_at=from_us(said["refresh_us"]),
        expires_at=from_us(said["expires_us"]),
        upstream_expires_at=None if upstream_end_us is None else from_us(upstream_end_us),
        renewable=said["renewable"],
        sealed=sealed,
    )


def with_ids(known: UpstreamIds, more: UpstreamIds) -> UpstreamIds:
    """`known` and whatever `more` says beyond it; where both say something, `more` is the later word."""
    empty = UpstreamIds()
    changed = {f.name: getattr(more, f.name) for f in fields(more) if getattr(more, f.name) != getattr(empty, f.name)}
    return replace(known, **changed)


def to_us(at: datetime) -> int:
    """Whole microseconds since 1970: exact both ways, which a float is not."""
    return (at - _EPOCH) // _TICK


def from_us(us: Column) -> datetime:
    assert isinstance(us, int)
    return _EPOCH + us * _TICK


def _packed(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode("ascii")


def _unpacked(record: Column) -> dict[str, Any]:
    assert isinstance(record, bytes)
    said: dict[str, Any] = json.loads(record)
    return said


def _encoded(column: Column) -> bytes:
    match column:
        case None:
            tag, raw = b"n", b""
        case str():
            tag, raw = b"s", column.encode("utf-8", "surrogatepass")
        case bytes():
            tag, raw = b"b", column
        case _:
            tag, raw = b"i", str(column).encode("ascii")
    return tag + len(raw).to_bytes(8) + raw
