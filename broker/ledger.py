"""State and log as the story sees them: changes that are values, and one `commit` that makes them durable with their entry."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.audit.entry import Entry
from broker.lease import Kind, Lease, Revocable, UpstreamIds
from broker.session import Session, SessionState


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession:
    """Refused(session_exists) when another session of the same (issuer, jti) lives, unless it is exactly `replaces`.

    Refused(token_replayed) when the token has opened `max_exchanges` already.
    """

    session: Session
    replaces: str | None
    max_exchanges: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSession:
    """Raises Refused with the code of the state it is already in when it no longer lives."""

    session_id: str
    state: SessionState


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteIntent:
    """Refused unless the session lives. The deadline is by the store's clock."""

    intent_id: str  # id of its `intent` entry
    session_id: str
    grant: str
    subpath: str
    broker_id: str
    deadline: datetime
    ids: UpstreamIds


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteIds:
    """Adds what became known (the accessor) to an open intent."""

    intent_id: str
    ids: UpstreamIds


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteLease:
    """Settles its intent. Refused unless the session lives and the intent is open and before its deadline."""

    intent_id: str
    lease: Lease
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleIntent:
    """An intent that came to nothing: failed, or swept after its deadline. Refused when it is settled already."""

    intent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendLease:
    """A renewal: the same version, later ends, resealed."""

    lease: Lease
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLease:
    """Known to be gone upstream."""

    lease_id: str


Change = OpenSession | CloseSession | WriteIntent | NoteIds | WriteLease | SettleIntent | ExtendLease | EndLease


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLease:
    """A lease as the store has it: everything but its values and its monotonic ends."""

    lease_id: str
    session_id: str
    environment: str
    grant: str
    subpath: str
    kind: Kind
    version: int
    ids: UpstreamIds
    revocable: Revocable
    receipt: str
    issued_at: datetime
    refresh_at: datetime
    expires_at: datetime
    upstream_expires_at: datetime | None
    renewable: bool
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIntent:
    intent_id: str
    session_id: str
    grant: str
    subpath: str
    broker_id: str
    deadline: datetime
    ids: UpstreamIds


class Ledger(Protocol):
    """State and log in one place, because a state change and its entry are one transaction."""

    async def commit(self, changes: Sequence[Change], entries: Sequence[Entry]) -> None:
        """All of it durable, or none of it and an exception.

        Raises what the changes say, Unavailable(log_unavailable) when it cannot be written, and
        Unavailable(store_unavailable) when the store cannot be reached.
        """

    async def session_by_handle(self, handle_hash: bytes) -> Session | None: ...

    async def session(self, session_id: str) -> Session | None: ...

    async def live_session(self, issuer: str, jti: str) -> Session | None: ...

    async def opened(self, issuer: str, jti: str) -> int:
        """How many sessions this token has opened, whatever became of them."""

    async def live_sessions(self) -> Sequence[Session]: ...

    async def seen(self, session_id: str, at: datetime) -> None:
        """A heartbeat. Not an entry."""

    async def leases(self, session_id: str) -> Sequence[StoredLease]:
        """Those not known to be gone upstream, oldest first."""

    async def lapsed(self, now: datetime) -> Sequence[Session]:
        """Sessions that no longer live and still have leases not known to be gone and not past their upstream end."""

    async def overdue_intents(self, now: datetime) -> Sequence[StoredIntent]: ...
