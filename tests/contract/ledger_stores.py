"""The stores that the ledger's contract is held against, and the state it is told with."""

import sqlite3
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_bytes
from typing import Any

from broker.audit.checkpoint import LogSigner
from broker.audit.entry import Journal
from broker.audit.verify import Report, verify
from broker.lease import Lease, UpstreamIds
from broker.ledger import OpenSession, WriteIntent, WriteLease
from broker.moment import Moment
from broker.session import Session, new_id
from broker.store.reading import open_readonly
from broker.store.sqlite import SqliteLedger
from tests.strategies import NOON, a_lease
from tests.unit.audit.samples import SIGNER, Script, an_identity

ROW_KEY = bytes(range(32, 64))


@dataclass
class Hands:
    """A clock whose hands the test moves."""

    wall: datetime = NOON
    mono: float = 1000.0

    def __call__(self) -> Moment:
        return Moment(wall=self.wall, mono=self.mono)

    def forward(self, length: timedelta) -> None:
        self.wall += length
        self.mono += length.total_seconds()


@dataclass
class SqliteStore:
    """Everything a test does to a SQLite store from outside."""

    path: Path
    clock: Hands = field(default_factory=Hands)
    ledgers: list[SqliteLedger] = field(default_factory=list)

    def open(self, signer: LogSigner = SIGNER, row_key: bytes = ROW_KEY) -> SqliteLedger:
        ledger = SqliteLedger.open(self.path, row_key=row_key, signer=signer, clock=self.clock, key_name="keys/store.key")
        self.ledgers.append(ledger)
        return ledger

    async def close(self) -> None:
        for ledger in self.ledgers:
            await ledger.close()

    def tamper(self, statement: str, *values: Any) -> int:
        """What somebody does who can write the database and has no key."""
        db = sqlite3.connect(self.path)
        try:
            changed = db.execute(statement, values).rowcount
            db.commit()
        finally:
            db.close()
        return changed

    def verified(self) -> Report:
        with open_readonly(self.path) as log:
            return verify(log, SIGNER.verifier)

    def entry_ids(self) -> list[str]:
        with open_readonly(self.path) as log:
            return [kept.facets.entry_id for kept in log.entries()]


SCRIPT = Script(journal=Journal("broker-1", "0.1.0"))


def a_session(**changes: Any) -> Session:
    session = Session(
        session_id=new_id(),
        handle_hash=token_bytes(32),
        identity=an_identity(),
        environment="production",
        grants=("lake", "warehouse"),
        policy_hash="sha256:abc",
        opened_at=NOON,
        expires_at=NOON + timedelta(hours=1),
        heartbeat=True,
        peer_uid=1000,
        resume_hash=b"r" * 32,
        receipt="entry-1",
        last_seen=NOON,
    )
    return replace(session, **changes)


def opening(session: Session, replaces: str | None = None, max_exchanges: int = 8) -> OpenSession:
    return OpenSession(session=session, replaces=replaces, max_exchanges=max_exchanges)


def an_intent(session: Session, **changes: Any) -> WriteIntent:
    intent = WriteIntent(
        intent_id=new_id(),
        session_id=session.session_id,
        grant="warehouse",
        subpath="",
        broker_id="broker-1",
        deadline=NOON + timedelta(seconds=60),
        ids=UpstreamIds(upstream="vault", role="etl", path="database/creds/etl"),
    )
    return replace(intent, **changes)


def a_lease_of(session: Session, **changes: Any) -> Lease:
    return a_lease(**{"lease_id": new_id(), "session_id": session.session_id} | changes)


async def issued(ledger: SqliteLedger, session: Session, **changes: Any) -> Lease:
    """A lease that went the whole way."""
    intent, lease = an_intent(session), a_lease_of(session, **changes)
    await ledger.commit([intent], [])
    await ledger.commit([WriteLease(intent_id=intent.intent_id, lease=lease, sealed=b"sealed bytes")], [])
    return lease
