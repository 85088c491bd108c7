import shutil
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker.audit.query import Query
from broker.audit.verify import verify
from broker.errors import Code, Misconfigured
from broker.store.reading import open_readonly
from tests.contract.ledger_stores import SqliteStore
from tests.strategies import NOON
from tests.unit.audit.samples import SIGNER, Script


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "a store #1?.db")  # characters that mean something in SQLite's URIs
    ledger = made.open()
    await ledger.commit([], Script().day())
    yield made
    await made.close()


def _found(store: SqliteStore, query: Query) -> list[int]:
    with open_readonly(store.path) as log:
        return [index for index, _ in log.find(query)]


def test_every_condition_finds_what_the_entries_say(store: SqliteStore) -> None:
    assert _found(store, Query()) == list(range(18))
    assert _found(store, Query(kind="issued")) == [4]
    assert _found(store, Query(kind="denied")) == [12, 13]
    assert _found(store, Query(project="4711", grant="lake", kind="denied")) == [12]
    assert _found(store, Query(project="group/etl", kind="rollup")) == []
    assert _found(store, Query(credential="accessor-1")) == [4, 5, 9, 11, 15, 16]
    assert _found(store, Query(credential="accessor-1", kind="issued", job="900", session="session-1")) == [4]
    assert _found(store, Query(environment="review")) == []
    assert _found(store, Query(since=NOON, until=NOON + timedelta(seconds=1))) == list(range(18))
    assert _found(store, Query(until=NOON)) == []


def test_a_limit_keeps_the_newest_in_the_logs_order(store: SqliteStore) -> None:
    assert _found(store, Query(limit=3)) == [15, 16, 17]


def test_an_index_that_was_changed_shows_nothing_that_is_not_there(store: SqliteStore) -> None:
    store.tamper("UPDATE entry SET kind = 'issued' WHERE idx = 12")
    assert _found(store, Query(kind="issued")) == [4]
    assert not store.verified().sound


@pytest.mark.parametrize("change", ["body = x'00'", "body = 'text'"])
def test_bytes_that_are_no_entry_are_said_to_be_none(store: SqliteStore, change: str) -> None:
    store.tamper(f"UPDATE entry SET {change} WHERE idx = 3")
    with pytest.raises(ValueError, match=r"entry 3: not an entry of this log.*audit verify"):
        _found(store, Query())
    assert "entry 3" in str(store.verified().problems[0])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entry SET leaf = zeroblob(32) WHERE idx = 3",
        "UPDATE entry SET job_id = NULL WHERE idx = 3",
        "DELETE FROM entry WHERE idx = 3",
        "DELETE FROM credential WHERE idx = 4",
        "INSERT INTO credential VALUES ('somebody', 4)",
        "INSERT INTO credential VALUES ('somebody', 99)",
        "UPDATE checkpoint SET note = 'text'",
        "UPDATE checkpoint SET size = size + 1",
        "DELETE FROM checkpoint",
        "DELETE FROM head",
        "UPDATE policy SET text = 'other'",
        "DELETE FROM policy",
    ],
)
def test_whatever_is_changed_in_the_database_is_found(store: SqliteStore, change: str) -> None:
    assert store.verified().sound
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        if "NULL" in change:
            change = change.replace("NULL", "'somebody'")
        db.execute(change)
    db.close()
    if "99" in change:  # a name that points beyond the log leads nowhere
        assert _found(store, Query(credential="somebody")) == []
    else:
        assert not store.verified().sound


async def test_a_copy_without_room_for_side_files_can_be_read(store: SqliteStore, tmp_path: Path) -> None:
    """An auditor's copy on a medium that nobody can write."""
    await store.close()
    copy = tmp_path / "copy.db"
    shutil.copy(store.path, copy)
    copy.chmod(0o400)
    with open_readonly(copy) as log:
        assert verify(log, SIGNER.verifier).sound


def test_a_running_broker_is_read_without_stopping_it(store: SqliteStore) -> None:
    """One snapshot: what is committed meanwhile is not half in it."""
    with open_readonly(store.path) as log:
        assert log.size() == 18
        db = sqlite3.connect(store.path)
        db.execute("DELETE FROM entry")
        db.commit()
        db.close()
        assert verify(log, SIGNER.verifier).sound


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"not a database at all" * 99, "cannot be read"), (b"", "is an empty database"), (None, "cannot be read")],
)
def test_what_is_no_store_is_said_to_be_none(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "x.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Misconfigured, match=words) as caught:
        open_readonly(path)
    assert caught.value.code is Code.CONFIG_INVALID
    assert str(path) in caught.value.public


async def test_a_damaged_file_is_said_to_be_damaged(store: SqliteStore) -> None:
    await store.close()
    raw = bytearray(store.path.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    store.path.write_bytes(raw)
    with open_readonly(store.path) as log, pytest.raises(ValueError, match="damaged"):
        verify(log, SIGNER.verifier)
