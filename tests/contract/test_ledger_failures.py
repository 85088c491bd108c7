"""What a SQLite ledger does when the disk, another process, or somebody with write access is against it."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit.checkpoint import LogSigner
from broker.errors import Broken, Code, Misconfigured, Unavailable
from broker.lease import UpstreamIds
from broker.ledger import CloseSession, ExtendLease, NoteIds
from broker.session import SessionState
from broker.store import schema
from broker.store.sqlite import SqliteLedger
from broker.store.waiting import Item
from tests.contract.ledger_stores import SCRIPT, SqliteStore, a_lease_of, a_session, an_intent, issued, opening
from tests.strategies import NOON
from tests.unit.audit.samples import SIGNER, an_identity

NOBODY = 65534


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "broker.db")
    yield made
    await made.close()


@contextlib.contextmanager
def _as_nobody() -> Iterator[SqliteStore]:
    """A store in a folder of somebody to whom permissions mean something: root may write anything."""
    # Not under pytest's own folder, which other people cannot even enter.
    with tempfile.TemporaryDirectory(prefix="credbroker-") as folder:
        root = os.geteuid() == 0
        if root:
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield SqliteStore(Path(folder) / "broker.db")
        finally:
            if root:
                os.seteuid(0)


async def _until_healthy(ledger: SqliteLedger) -> None:
    async with asyncio.timeout(20):
        while not ledger.healthy():
            await asyncio.sleep(0.05)


async def _refused_and_nothing_written(store: SqliteStore, ledger: SqliteLedger) -> None:
    before = store.entry_ids()
    session = a_session(identity=an_identity(jti="never"))
    with pytest.raises(Unavailable, match="cannot be written, so nothing was done") as caught:
        await ledger.commit([opening(session)], [SCRIPT.denied(trail=()) for _ in range(50)])
    assert caught.value.code is Code.LOG_UNAVAILABLE
    assert caught.value.retry_after
    assert not ledger.healthy()
    assert store.entry_ids() == before
    assert await ledger.session(session.session_id) is None


# --- the disk -----------------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_an_outage_and_nothing_is_half_written(store: SqliteStore) -> None:
    """The kernel refuses every byte past the limit, as a full file system does. What can be read still can."""
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [SCRIPT.opened()])
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = store.path.with_name("broker.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (written + 4096, most))
    try:
        await _refused_and_nothing_written(store, ledger)
        assert await ledger.session(session.session_id) == session
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await _until_healthy(ledger)  # without being asked
    await ledger.commit([], [SCRIPT.denied()])
    assert store.verified().sound


async def test_a_database_that_somebody_else_holds_is_an_outage(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    ledger = store.open()
    await ledger.commit([], [SCRIPT.denied()])
    holder = sqlite3.connect(store.path, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        await _refused_and_nothing_written(store, ledger)
        with pytest.raises(Unavailable, match="held by another process") as caught:
            store.open()
        assert caught.value.code is Code.STORE_UNAVAILABLE
    finally:
        holder.close()
    await _until_healthy(ledger)
    await ledger.commit([], [SCRIPT.denied()])
    assert store.verified().size == 2


async def test_a_read_only_database_file_is_an_outage() -> None:
    """Nothing is half written, what is there can be read, and it works again as soon as it may be written."""
    with _as_nobody() as store:
        ledger = store.open()
        store.path.chmod(0o400)
        await _refused_and_nothing_written(store, ledger)
        for path in store.path.parent.iterdir():
            path.chmod(0o600)
        await _until_healthy(ledger)
        await ledger.commit([], [SCRIPT.denied()])
        assert store.verified().size == 1
        await store.close()


async def test_a_database_that_was_moved_away_is_an_outage(store: SqliteStore) -> None:
    """Or every commit would go to a file that nobody finds."""
    ledger = store.open()
    await ledger.commit([], [SCRIPT.denied()])
    aside = store.path.with_name("aside.db")
    store.path.rename(aside)
    with pytest.raises(Unavailable, match="cannot be written") as caught:
        await ledger.commit([], [SCRIPT.denied()])
    assert caught.value.code is Code.LOG_UNAVAILABLE
    assert not ledger.healthy()
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        await ledger.commit([], [SCRIPT.denied()])
    assert caught.value.code is Code.STORE_UNAVAILABLE
    assert not store.path.exists()  # no empty database was made in its place
    aside.rename(store.path)
    await _until_healthy(ledger)
    await ledger.commit([], [SCRIPT.denied()])
    assert store.verified().size == 2


async def test_a_commit_whose_outcome_is_unknown_is_looked_up(store: SqliteStore) -> None:
    """A COMMIT that failed after it reached the disk: whoever is in the log is told so, whoever is not is told that."""
    ledger, written, lost = store.open(), SCRIPT.denied(), SCRIPT.denied()
    await ledger.commit([], [written])
    loop = asyncio.get_running_loop()
    items = [Item((), (entry,), loop, loop.create_future()) for entry in (written, lost)]
    items.append(Item((), (), loop, loop.create_future()))
    results = await asyncio.to_thread(ledger._writer._after, sqlite3.OperationalError("disk I/O error"), items)
    assert results[0] is None
    assert [r.code for r in results[1:] if r is not None] == [Code.LOG_UNAVAILABLE] * 2


# --- at start -----------------------------------------------------------------------------------------------------------------


async def test_a_database_that_may_not_be_written_is_a_configuration_error() -> None:
    with _as_nobody() as store:
        await store.open().close()
        store.path.chmod(0o400)
        with pytest.raises(Misconfigured, match=r"broker\.db cannot be opened for writing") as caught:
            store.open()
        assert caught.value.code is Code.CONFIG_INVALID
        store.path.chmod(0o600)
        await store.open().close()


async def test_a_new_store_is_its_owners_alone(store: SqliteStore) -> None:
    old = os.umask(0)
    try:
        ledger = store.open()
        await ledger.commit([], [SCRIPT.denied()])
        files = sorted(path for path in store.path.parent.iterdir() if path.name.startswith("broker.db"))
        assert [oct(path.stat().st_mode & 0o777) for path in files] == ["0o600"] * len(files)
        assert len(files) == 3
    finally:
        os.umask(old)


async def test_a_store_that_everybody_may_read_is_refused(store: SqliteStore) -> None:
    await store.open().close()
    store.path.chmod(0o640)
    await store.open().close()  # a group of auditors is the operator's business
    store.path.chmod(0o644)
    with pytest.raises(Misconfigured, match="open to every user"):
        store.open()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is not a database, but a text that is long enough to look at" * 20, "cannot be opened: file is not a database"),
        (None, "cannot be opened for writing"),
    ],
)
async def test_a_file_that_is_no_store_is_a_configuration_error(store: SqliteStore, content: bytes | None, words: str) -> None:
    if content is None:
        store.path = store.path.parent / "no such folder" / "broker.db"
    else:
        store.path.touch(0o600)
        store.path.write_bytes(content)
    with pytest.raises(Misconfigured, match=words) as caught:
        store.open()
    assert str(store.path) in caught.value.public


async def test_a_database_of_another_program_is_left_alone(store: SqliteStore) -> None:
    store.path.touch(0o600)
    store.tamper("CREATE TABLE theirs (x)")
    with pytest.raises(Misconfigured, match="another program"):
        store.open()
    store.tamper("INSERT INTO theirs VALUES (1)")
    assert store.path.read_bytes()[18] == 1  # not even turned into WAL mode


async def test_a_store_of_a_newer_broker_is_refused(store: SqliteStore) -> None:
    await store.open().close()
    store.tamper(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    with pytest.raises(Misconfigured, match="written by a newer credbroker"):
        store.open()


async def test_a_short_row_key_is_a_configuration_error(store: SqliteStore) -> None:
    with pytest.raises(Misconfigured, match="must be 32 bytes"):
        store.open(row_key=b"short")


async def test_another_log_key_does_not_go_on_with_this_log(store: SqliteStore) -> None:
    await store.open().close()
    for signer in (LogSigner(SIGNER._key, "other.example.com/log"), LogSigner(Ed25519PrivateKey.generate(), SIGNER.origin)):
        with pytest.raises(Misconfigured, match="does not go with this"):
            store.open(signer=signer)


OTHER_KEY = bytes(reversed(range(32)))


@pytest.mark.parametrize("before", ["", "DROP TABLE row_key", "DELETE FROM row_key", "UPDATE row_key SET mac = x'00'"])
async def test_another_row_key_does_not_serve_what_is_stored(store: SqliteStore, before: str) -> None:
    """With it no session could be ended and no lease taken back, and nobody would say so. Also when the file is from before
    there was a mark, or somebody changed the mark: then the rows say whose they are.
    """
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [SCRIPT.opened()])
    await issued(ledger, session)
    await ledger.close()
    if before:
        store.tamper(before)
    if before.startswith("DROP"):
        store.tamper("PRAGMA user_version = 1")
    for _ in range(2):  # a refused start changes nothing
        with pytest.raises(
            Misconfigured, match=r"were written with another key than keys/store\.key; put that key back"
        ) as caught:
            store.open(row_key=OTHER_KEY)
        assert caught.value.code is Code.CONFIG_INVALID
        assert str(store.path) in caught.value.public
    again = store.open()
    assert again.healthy()
    assert [one.session_id for one in await again.live_sessions()] == [session.session_id]
    assert store.tamper("UPDATE row_key SET one = 1") == 1


async def test_a_store_without_rows_takes_a_new_row_key_and_is_then_its(store: SqliteStore) -> None:
    await store.open().close()
    ledger = store.open(row_key=OTHER_KEY)
    await ledger.commit([opening(a_session())], [])
    await ledger.close()
    with pytest.raises(Misconfigured, match="another key than"):
        store.open()
    assert store.open(row_key=OTHER_KEY).healthy()


async def test_all_rows_changed_under_the_right_key_are_changed_rows_not_another_key(store: SqliteStore) -> None:
    """The mark tells the two apart: a broker goes on, not ready, and says which."""
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [])
    await ledger.close()
    store.tamper("UPDATE session SET expires_us = expires_us + 1")
    again = store.open()
    assert "table session was changed" in again.faults()[0]
    assert not again.healthy()


# --- somebody who can write the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "record = CAST(replace(CAST(record AS TEXT), 'production', 'reviewxxxx') AS BLOB)",
        "handle_hash = zeroblob(32)",
        "expires_us = expires_us + 1",
        "peer = NULL",
        "state = 'revoked'",
        "last_seen_us = NULL",
        "jti = 'jti-9'",
        "mac = zeroblob(32)",
        "mac = 'text'",
    ],
)
async def test_a_changed_session_is_refused(store: SqliteStore, change: str) -> None:
    ledger, session = store.open(), a_session()
    other = a_session(identity=an_identity(jti="jti-2"))
    await ledger.commit([opening(session), opening(other)], [])
    change = change.replace("peer = NULL", "record = CAST(replace(CAST(record AS TEXT), '1000', '1001') AS BLOB)")
    assert store.tamper(f"UPDATE session SET {change} WHERE session_id = ?", session.session_id) == 1
    with pytest.raises(Broken) as caught:
        await ledger.session(session.session_id)
    assert f"the row '{session.session_id}' of table session was changed" in caught.value.detail
    assert "changed" not in caught.value.public
    assert not ledger.healthy()
    assert "table session was changed" in ledger.faults()[0]
    # Nothing that goes through the writer believes it either, or signs it anew.
    for what in (CloseSession(session_id=session.session_id, state=SessionState.CLOSED), an_intent(session)):
        with pytest.raises(Broken):
            await ledger.commit([what], [])
    await ledger.seen(session.session_id, NOON)
    await ledger.commit([], [])
    # The untouched one next to it lives on.
    assert [s.session_id for s in await ledger.live_sessions()] == [other.session_id]
    await ledger.commit([an_intent(other)], [])
    # Seen at the next start, too, before anybody asks.
    await ledger.close()
    assert not store.open().healthy()


async def test_a_row_put_in_anothers_place_is_refused(store: SqliteStore) -> None:
    """Authentic columns under another name are no authentic row."""
    ledger, review = store.open(), a_session(environment="review")
    production = a_session(identity=an_identity(jti="jti-2"))
    await ledger.commit([opening(review), opening(production)], [])
    store.tamper(
        "UPDATE session SET record = other.record, mac = other.mac"
        " FROM (SELECT record, mac FROM session WHERE session_id = ?) AS other WHERE session_id = ?",
        production.session_id,
        review.session_id,
    )
    with pytest.raises(Broken):
        await ledger.session_by_handle(review.handle_hash)


async def test_a_changed_lease_or_intent_is_refused(store: SqliteStore) -> None:
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [])
    changed, whole = await issued(ledger, session), await issued(ledger, session, version=2)
    intent = an_intent(session)
    await ledger.commit([intent], [])
    store.tamper("UPDATE lease SET sealed = x'00' WHERE lease_id = ?", changed.lease_id)
    store.tamper("UPDATE intent SET deadline_us = deadline_us * 2")
    assert [lease.lease_id for lease in await ledger.leases(session.session_id)] == [whole.lease_id]
    assert await ledger.overdue_intents(NOON.replace(year=2200)) == []
    for what in (
        ExtendLease(lease=a_lease_of(session, lease_id=changed.lease_id), sealed=b""),
        NoteIds(intent_id=intent.intent_id, ids=UpstreamIds()),
    ):
        with pytest.raises(Broken):
            await ledger.commit([what], [])
    assert len(ledger.faults()) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("size = size + 1", "a frontier of 3 leaves"),
        ("size = 1, nodes = zeroblob(32)", "is not what its checkpoint"),
        ("note = zeroblob(100)", "not what this key signed"),
        ("size = 'two'", "other types"),
    ],
)
async def test_a_changed_head_is_not_signed_on_from(store: SqliteStore, change: str, words: str) -> None:
    """Or two histories of one log would carry our signature."""
    ledger = store.open()
    await ledger.commit([], [SCRIPT.denied(), SCRIPT.denied()])
    store.tamper(f"UPDATE head SET {change}")
    with pytest.raises(Unavailable, match="is damaged and takes no entries") as caught:
        await ledger.commit([], [SCRIPT.denied()])
    assert caught.value.code is Code.LOG_UNAVAILABLE
    assert words in caught.value.detail
    assert not ledger.healthy()
    assert not store.verified().sound


async def test_a_log_put_back_is_not_signed_on_from(store: SqliteStore) -> None:
    """The database of an hour ago, all of it authentic: this process remembers having signed more."""
    ledger = store.open()
    await ledger.commit([], [SCRIPT.denied()])
    await ledger.commit([], [SCRIPT.denied()])
    store.tamper("UPDATE head SET size = 1, nodes = (SELECT leaf FROM entry WHERE idx = 0),"
                 " note = (SELECT note FROM checkpoint WHERE size = 1)")  # fmt: skip
    store.tamper("DELETE FROM entry WHERE idx = 1")
    store.tamper("DELETE FROM checkpoint WHERE size = 2")
    assert store.verified().sound  # which is why a witness is needed
    with pytest.raises(Unavailable) as caught:
        await ledger.commit([], [SCRIPT.denied()])
    assert "was put back" in caught.value.detail


async def test_a_head_without_its_entries_or_no_head_at_all_does_not_open(store: SqliteStore) -> None:
    ledger = store.open()
    await ledger.commit([], [SCRIPT.denied(), SCRIPT.denied()])
    await ledger.close()
    store.tamper("DELETE FROM entry WHERE idx = 1")
    with pytest.raises(Misconfigured, match="the last one stored is 0"):
        store.open()
    store.tamper("DELETE FROM head")
    with pytest.raises(Misconfigured, match="lost its head"):
        store.open()


async def test_a_bug_in_one_commit_is_not_the_others_fault(store: SqliteStore) -> None:
    """What cannot even be turned into a row fails alone, and the writer lives."""
    ledger, entry = store.open(), SCRIPT.denied()
    odd = a_session(session_id="\ud800")
    results = await asyncio.gather(ledger.commit([opening(odd)], []), ledger.commit([], [entry]), return_exceptions=True)
    assert isinstance(results[0], Broken)
    assert "could not be written" in results[0].detail
    assert results[1] is None
    assert ledger.healthy()


# --- kill -9 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_", range(2))
async def test_a_killed_process_loses_nothing_it_was_told_is_durable(store: SqliteStore, round_: int) -> None:
    """A real process under load, killed in the middle, twice on one store; then the log has every acknowledged entry."""
    store.open()  # a second broker on the same file sees it all happen
    acknowledged: list[str] = []
    for attempt in range(2):
        acknowledged += await asyncio.to_thread(_killed, store.path, f"{round_}-{attempt}")
    assert len(acknowledged) > 100
    report = store.verified()
    assert report.sound, report.problems
    assert set(acknowledged) <= set(store.entry_ids())
    again = store.open()
    await again.commit([], [SCRIPT.denied()])
    assert again.healthy()
    assert store.verified().sound


def _killed(path: Path, name: str) -> list[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.contract.ledger_under_load", str(path), name]
    output = path.with_name(f"acknowledged-{name}")
    with output.open("wb") as sink:
        child = subprocess.Popen(command, cwd=root, stdout=sink)
        try:
            until = time.monotonic() + 60
            while output.stat().st_size < 27 * 300:
                assert time.monotonic() < until
                assert child.poll() is None
                time.sleep(0.01)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    whole = output.read_text().rpartition("\n")[0]  # a line cut by the kill was not read by anybody
    return whole.split("\n")
