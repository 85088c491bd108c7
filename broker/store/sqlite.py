"""The ledger on one SQLite file: the default store, for one node and any number of processes on it."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from broker.audit.checkpoint import LogSigner
from broker.audit.entry import Entry
from broker.errors import Broken, Code, Misconfigured
from broker.ledger import Change, StoredIntent, StoredLease
from broker.moment import Clock
from broker.session import Session, SessionState
from broker.store import faults
from broker.store.appending import begin, head_of
from broker.store.readers import Readers
from broker.store.row_key import TABLES, mark, require_key
from broker.store.rows import (
    ROW_KEY_BYTES,
    SELECT_INTENT,
    SELECT_LEASE,
    SELECT_SESSION,
    Column,
    Faults,
    Row,
    RowChanged,
    RowSeal,
    intent_of,
    lease_of,
    session_of,
    to_us,
)
from broker.store.schema import connect, create_private, prepare
from broker.store.waiting import Item
from broker.store.writer import Writer

_T = TypeVar("_T")
_READERS = 2


class SqliteLedger:
    """Implements `ledger.Ledger`. Reads go through their own connections in two threads, writes through one writer thread.

    A row that somebody else changed is never returned: a single read of it raises Broken, a list leaves it out, and either
    makes `healthy()` false until the process ends.
    """

    def __init__(self, seal: RowSeal, clock: Clock, readers: Readers, writer: Writer, noted: Faults) -> None:
        self._seal = seal
        self._clock = clock
        self._writer = writer
        self._faults = noted
        self._readers = readers
        self._reading = ThreadPoolExecutor(_READERS, thread_name_prefix="ledger-reader")
        self._closed = False

    @classmethod
    def open(
        cls, path: Path, *, row_key: bytes, signer: LogSigner, clock: Clock, key_name: str = "[keys] store"
    ) -> "SqliteLedger":
        """The ledger in this file, made (mode 0600) when it is not there; migrated, its signed head and every row checked.
        `key_name` is what messages call the row key.

        Raises Misconfigured(config_invalid) for a file that cannot be used or whose rows are under another key, and
        Unavailable(store_unavailable) while another process holds it.
        Changed rows do not keep the ledger from opening: see `healthy()`.
        """
        if len(row_key) != ROW_KEY_BYTES:
            raise Misconfigured(Code.CONFIG_INVALID, f"[keys] store must be {ROW_KEY_BYTES} bytes; `credbroker keygen` makes it")
        seal, noted = RowSeal(row_key), Faults({})
        create_private(path)
        try:
            db = connect(path)
        except sqlite3.Error as error:
            raise Misconfigured(Code.CONFIG_INVALID, f"the store {path} cannot be opened: {error}; see [store] url") from None
        try:
            prepare(db, path)
            db.execute("BEGIN IMMEDIATE")
            require_key(db, seal, path, key_name)
            mark(db, seal)
            begin(db, signer)
            head = head_of(db, signer, None)
            db.execute("COMMIT")
            _check_rows(db, seal, noted)
        except Broken as broken:
            raise faults.another_log(path, broken) from None
        except sqlite3.Error as error:
            raise Misconfigured(Code.CONFIG_INVALID, f"the store {path} cannot be written: {error}; see [store] url") from None
        finally:
            db.close()
        readers = Readers(path)
        writer = Writer(path, signer, seal, clock, head, noted, after_failure=readers.reset)
        return cls(seal, clock, readers, writer, noted)

    async def close(self) -> None:
        """Everything submitted is written and every connection closed. Later calls raise Unavailable(store_unavailable)."""
        self._closed = True
        await asyncio.to_thread(self._shut)

    def healthy(self) -> bool:
        """Whether the last write succeeded (retried each second while it did not) and no row was found changed."""
        return not self._closed and self._writer.alive and self._writer.writable and not self._faults.details

    def faults(self) -> Sequence[str]:
        """What was found changed, for our log."""
        return tuple(self._faults.details)

    # --- ledger.Ledger --------------------------------------------------------------------------------------------------

    async def commit(self, changes: Sequence[Change], entries: Sequence[Entry]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._writer.submit(Item(tuple(changes), tuple(entries), loop, done))
        await done

    async def session_by_handle(self, handle_hash: bytes) -> Session | None:
        return await self._read(lambda db: self._one(db, " WHERE handle_hash = ?", handle_hash))

    async def session(self, session_id: str) -> Session | None:
        return await self._read(lambda db: self._one(db, " WHERE session_id = ?", session_id))

    async def live_session(self, issuer: str, jti: str) -> Session | None:
        """Lives: not closed, and before its end by the store's clock."""
        now = self._clock().wall
        where = " WHERE issuer = ? AND jti = ? AND state = 'live' AND expires_us > ?"
        return await self._read(lambda db: self._one(db, where, issuer, jti, to_us(now)))

    async def opened(self, issuer: str, jti: str) -> int:
        def count(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT opened FROM exchange WHERE issuer = ? AND jti = ?", (issuer, jti)).fetchone()
            return int(row[0]) if row else 0

        return await self._read(count)

    async def live_sessions(self) -> Sequence[Session]:
        """Every session that nobody closed, those past their end included: whoever ends them has to find them here."""
        where = " WHERE state = 'live' ORDER BY rowid"
        return await self._read(lambda db: [session_of(row) for row in self._many(db, "session", SELECT_SESSION + where)])

    async def seen(self, session_id: str, at: datetime) -> None:
        self._writer.seen(session_id, at)

    async def leases(self, session_id: str) -> Sequence[StoredLease]:
        where = " WHERE session_id = ? ORDER BY seq"
        return await self._read(lambda db: [lease_of(row) for row in self._many(db, "lease", SELECT_LEASE + where, session_id)])

    async def lapsed(self, now: datetime) -> Sequence[Session]:
        return await self._read(lambda db: self._lapsed(db, now))

    async def overdue_intents(self, now: datetime) -> Sequence[StoredIntent]:
        where = " WHERE deadline_us < ? ORDER BY deadline_us"
        return await self._read(
            lambda db: [intent_of(row) for row in self._many(db, "intent", SELECT_INTENT + where, to_us(now))]
        )

    # --- reading --------------------------------------------------------------------------------------------------------

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """One query in a reader's thread. Raises Unavailable(store_unavailable), and Broken for a changed row."""
        if self._closed:
            raise faults.closed()
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._queried, query)

    def _queried(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return self._readers.query(query)
        except RowChanged as changed:
            self._faults.note(changed)
            raise
        except sqlite3.Error as error:
            raise faults.not_reached(error) from None

    def _one(self, db: sqlite3.Connection, where: str, *values: Column) -> Session | None:
        row = db.execute(SELECT_SESSION + where, values).fetchone()
        return None if row is None else session_of(self._seal.opened("session", row))

    def _many(self, db: sqlite3.Connection, table: str, statement: str, *values: Column) -> list[Row]:
        """The authentic rows. One that was changed is left out, so that it cannot keep the others from being taken back."""
        return list(_authentic(self._seal, self._faults, table, db.execute(statement, values)))

    def _lapsed(self, db: sqlite3.Connection, now: datetime) -> list[Session]:
        # Which leases are past their end is decided from authenticated rows, not in SQL.
        where = " WHERE (SELECT state FROM session WHERE session.session_id = lease.session_id) IS NOT 'live' ORDER BY seq"
        leases = [lease_of(row) for row in self._many(db, "lease", SELECT_LEASE + where)]
        open_ends = (lease for lease in leases if lease.upstream_expires_at is None or lease.upstream_expires_at > now)
        found = []
        for session_id in dict.fromkeys(lease.session_id for lease in open_ends):
            found += self._many(db, "session", SELECT_SESSION + " WHERE session_id = ?", session_id)
        sessions = [session_of(row) for row in found]
        return [session for session in sessions if session.state is not SessionState.LIVE]

    def _shut(self) -> None:
        self._writer.stop()
        self._reading.shutdown(wait=True)
        self._readers.reset()


def _check_rows(db: sqlite3.Connection, seal: RowSeal, noted: Faults) -> None:
    for table, statement in TABLES:
        for _ in _authentic(seal, noted, table, db.execute(statement)):
            pass


def _authentic(seal: RowSeal, noted: Faults, table: str, stored: Iterable[Row]) -> Iterable[Row]:
    for row in stored:
        intact = _intact(seal, noted, table, row)
        if intact is not None:
            yield intact


def _intact(seal: RowSeal, noted: Faults, table: str, row: Row) -> Row | None:
    try:
        return seal.opened(table, row)
    except RowChanged as changed:
        noted.note(changed)
        return None
