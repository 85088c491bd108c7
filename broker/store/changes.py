"""What each change requires and does. Runs on the writer's connection, inside its transaction, one savepoint per commit.

Nothing here overwrites an authenticated row without having checked it: a forged row would otherwise come out signed.
"""

import sqlite3
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from broker.errors import Broken, BrokerError, Code, Refused, Unavailable
from broker.ledger import (
    Change,
    CloseSession,
    EndLease,
    ExtendLease,
    NoteIds,
    OpenSession,
    SettleIntent,
    WriteIntent,
    WriteLease,
)
from broker.session import Session, SessionState, refusal_of
from broker.store.rows import (
    INSERT_INTENT,
    INSERT_LEASE,
    INSERT_SESSION,
    SELECT_INTENT,
    SELECT_LEASE,
    SELECT_SESSION,
    Row,
    RowSeal,
    intent_of,
    intent_row,
    lease_row,
    session_of,
    session_row,
    to_us,
    with_ids,
)

_TOKEN_LEEWAY = timedelta(minutes=5)  # above any issuer's leeway: the count outlives the token's last acceptance
_SESSIONS_KEPT = timedelta(days=1)  # past the token's end, so that a late caller hears "expired" and not "unknown"
_LEASES_KEPT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Changing:
    """Applies changes at one instant of the store's clock."""

    db: sqlite3.Connection
    seal: RowSeal
    now: datetime

    def apply(self, change: Change) -> None:
        """The change is in the transaction, or what it requires does not hold and the exception says what.

        Raises Refused or Unavailable as `ledger.py` says, and Broken for a row that somebody else changed.
        """
        match change:
            case OpenSession():
                self._open(change)
            case CloseSession():
                self._close(change)
            case WriteIntent():
                self._living(change.session_id)
                self._insert("intent", INSERT_INTENT, intent_row(change))
            case NoteIds():
                self._note(change)
            case WriteLease():
                self._issue(change)
            case SettleIntent():
                self._settle(change)
            case ExtendLease():
                self._extend(change)
            case EndLease():
                self.db.execute("DELETE FROM lease WHERE lease_id = ?", (change.lease_id,))
            case _:
                assert_never(change)

    def seen(self, session_id: str, at: datetime) -> None:
        """A heartbeat of a session that lives. One that does not, or is not known, is left as it is."""
        session = self._session(session_id)
        if session is None or session.state is not SessionState.LIVE:
            return
        if session.last_seen is None or at > session.last_seen:
            self._replace(replace(session, last_seen=at))

    def tidy(self) -> None:
        """Rows that nothing can refer to any more are gone. The log keeps what they said."""
        now = to_us(self.now)
        ended = to_us(self.now - _LEASES_KEPT)
        # The newest lease of a living session's grant stays: the next one's version is counted from it.
        self.db.execute(
            "DELETE FROM lease WHERE upstream_end_us < ? AND ("
            " (SELECT state FROM session WHERE session.session_id = lease.session_id) IS NOT 'live' OR EXISTS ("
            "  SELECT 1 FROM lease AS newer WHERE newer.session_id = lease.session_id"
            "  AND newer.grant_name = lease.grant_name AND newer.subpath = lease.subpath AND newer.seq > lease.seq))",
            (ended,),
        )
        self.db.execute("DELETE FROM exchange WHERE until_us < ?", (now,))
        self.db.execute(
            "DELETE FROM session WHERE state != 'live' AND expires_us < ?"
            " AND NOT EXISTS (SELECT 1 FROM lease WHERE lease.session_id = session.session_id)"
            " AND NOT EXISTS (SELECT 1 FROM intent WHERE intent.session_id = session.session_id)",
            (to_us(self.now - _SESSIONS_KEPT),),
        )

    # --- the changes that take more than a line ---------------------------------------------------------------------

    def _open(self, change: OpenSession) -> None:
        token = (change.session.identity.issuer, change.session.identity.jti)
        rows = self.db.execute(SELECT_SESSION + " WHERE issuer = ? AND jti = ? AND state = 'live'", token)
        for row in rows.fetchall():
            other = session_of(self.seal.opened("session", row))
            if other.session_id == change.replaces:
                raise Broken(f"session {other.session_id} is to be replaced and was not closed in the same commit")
            if other.expires_at > self.now:
                raise Refused(
                    Code.SESSION_EXISTS,
                    "this job token has a live session already; close that one first, or resume it within two minutes",
                )
        found = self.db.execute("SELECT opened FROM exchange WHERE issuer = ? AND jti = ?", token).fetchone()
        opened = found[0] if found else 0
        if opened >= change.max_exchanges:
            raise Refused(
                Code.TOKEN_REPLAYED,
                f"this job token has opened {opened} sessions, which is all that one token may; a new job gets a new token",
            )
        until = to_us(change.session.identity.expires_at + _TOKEN_LEEWAY)
        self.db.execute(
            "INSERT INTO exchange (issuer, jti, opened, until_us) VALUES (?, ?, 1, ?)"
            " ON CONFLICT (issuer, jti) DO UPDATE SET opened = opened + 1, until_us = max(until_us, excluded.until_us)",
            (*token, until),
        )
        self._insert("session", INSERT_SESSION, session_row(change.session))

    def _close(self, change: CloseSession) -> None:
        session = self._known(change.session_id)
        if session.state is not SessionState.LIVE:
            raise refusal_of(session.state)
        self._replace(replace(session, state=change.state))

    def _note(self, change: NoteIds) -> None:
        row = self._intent(change.intent_id)
        if row is None:
            raise _too_late()
        intent = intent_of(row)
        self._drop_intent(change.intent_id)
        self._insert("intent", INSERT_INTENT, intent_row(replace(intent, ids=with_ids(intent.ids, change.ids))))

    def _issue(self, change: WriteLease) -> None:
        self._living(change.lease.session_id)
        row = self._intent(change.intent_id)
        if row is None:
            raise _too_late()
        intent = intent_of(row)
        if intent.session_id != change.lease.session_id:
            raise Broken(f"the intent {change.intent_id} is of session {intent.session_id}, not {change.lease.session_id}")
        if intent.deadline <= self.now:
            raise _too_late()
        self._drop_intent(change.intent_id)
        self._insert("lease", INSERT_LEASE, lease_row(change.lease, change.sealed))

    def _settle(self, change: SettleIntent) -> None:
        if self._intent(change.intent_id) is None:
            raise Refused(
                Code.UPSTREAM_UNAVAILABLE,
                "this issuance was settled already, after its deadline; nothing of it was handed out, ask again",
            )
        self._drop_intent(change.intent_id)

    def _extend(self, change: ExtendLease) -> None:
        lease = change.lease
        self._living(lease.session_id)
        row = self.db.execute(SELECT_LEASE + " WHERE lease_id = ?", (lease.lease_id,)).fetchone()
        if row is None:
            raise Refused(Code.UPSTREAM_DENIED, "this credential is known to be gone upstream; ask again for a new one")
        self.seal.opened("lease", row)
        extended = lease_row(lease, change.sealed)
        self.db.execute(
            "UPDATE lease SET upstream_end_us = ?, record = ?, sealed = ?, mac = ? WHERE lease_id = ?",
            (extended[4], extended[5], extended[6], self.seal.mac("lease", extended), lease.lease_id),
        )

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _session(self, session_id: str) -> Session | None:
        row = self.db.execute(SELECT_SESSION + " WHERE session_id = ?", (session_id,)).fetchone()
        return None if row is None else session_of(self.seal.opened("session", row))

    def _known(self, session_id: str) -> Session:
        session = self._session(session_id)
        if session is None:
            raise Refused(Code.HANDLE_INVALID, "this broker knows no such session; open one with `credbroker exec`")
        return session

    def _living(self, session_id: str) -> None:
        session = self._known(session_id)
        if session.state is not SessionState.LIVE:
            raise refusal_of(session.state)
        if session.expires_at <= self.now:
            raise refusal_of(SessionState.EXPIRED)

    def _replace(self, session: Session) -> None:
        row = session_row(session)
        self.db.execute(
            "UPDATE session SET state = ?, last_seen_us = ?, mac = ? WHERE session_id = ?",
            (row[4], row[6], self.seal.mac("session", row), session.session_id),
        )

    def _intent(self, intent_id: str) -> Row | None:
        row = self.db.execute(SELECT_INTENT + " WHERE intent_id = ?", (intent_id,)).fetchone()
        return None if row is None else self.seal.opened("intent", row)

    def _drop_intent(self, intent_id: str) -> None:
        self.db.execute("DELETE FROM intent WHERE intent_id = ?", (intent_id,))

    def _insert(self, table: str, statement: str, row: Row) -> None:
        self.db.execute(statement, (*row, self.seal.mac(table, row)))


def _too_late() -> BrokerError:
    """An outage of the upstream, not a refusal by it: asking again is right."""
    return Unavailable(
        Code.UPSTREAM_UNAVAILABLE, "the upstream took longer than an issuance may take, and nothing was handed out; ask again"
    )
