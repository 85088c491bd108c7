"""What a start would find in a SQLite store, told without touching it."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit.checkpoint import LogSigner
from broker.errors import Code, Misconfigured
from broker.store import schema
from broker.store.looking import look
from tests.contract.ledger_stores import ROW_KEY, SCRIPT, SqliteStore, a_session, issued, opening
from tests.contract.test_ledger_failures import _as_nobody as as_nobody
from tests.unit.audit.samples import SIGNER


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """With a session, a lease and some entries; its broker is still running."""
    made = SqliteStore(tmp_path / "broker.db")
    ledger, session = made.open(), a_session()
    await ledger.commit([opening(session)], [SCRIPT.opened()])
    await issued(ledger, session)
    await ledger.commit([], [SCRIPT.denied() for _ in range(20)])
    yield made
    await made.close()


def _looked(path: Path, row_key: bytes | None = ROW_KEY, signer: LogSigner | None = SIGNER) -> list[str]:
    """What it says; and that nothing in the folder changed by it (`-shm` apart, where a process keeps its readers)."""
    before = _folder(path)
    try:
        return look(path, row_key=row_key, signer=signer, key_name="keys/store.key")
    finally:
        assert _folder(path) == before


def _folder(path: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in path.parent.iterdir() if file.is_file()]
    return {file.name: (b"" if file.suffix == ".db-shm" else file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def _refused(path: Path, words: str, row_key: bytes | None = ROW_KEY, signer: LogSigner | None = SIGNER) -> None:
    with pytest.raises(Misconfigured, match=words) as caught:
        _looked(path, row_key, signer)
    assert caught.value.code is Code.CONFIG_INVALID
    assert str(path) in caught.value.public


async def test_a_good_store_has_nothing_to_say_running_stopped_or_killed(store: SqliteStore, tmp_path: Path) -> None:
    assert _looked(store.path) == []
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in _folder(store.path):
        shutil.copy(tmp_path / name, killed)
    index = (killed / "broker.db-shm").read_bytes()
    assert _looked(killed / "broker.db") == []
    assert (killed / "broker.db-shm").read_bytes() == index
    (killed / "broker.db-shm").unlink()
    (warning,) = _looked(killed / "broker.db")
    assert "a -wal file without its -shm file, so it was not looked into" in warning
    await store.close()
    assert _looked(store.path) == []


def test_no_store_yet_is_fine_and_an_empty_file_is_worth_a_word(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    assert _looked(path) == []
    assert not path.exists()
    path.touch(0o600)
    (warning,) = _looked(path)
    assert "is an empty file: the broker will begin a new log in it" in warning


async def test_a_truncated_database_is_said(store: SqliteStore) -> None:
    await store.close()
    whole = store.path.read_bytes()
    for length in (50, 4096, len(whole) // 2, len(whole) - 4096):
        store.path.write_bytes(whole[:length])
        _refused(store.path, "put back a copy, or move it away")
    store.path.write_bytes(whole)
    assert _looked(store.path) == []


@pytest.mark.parametrize("running", [True, False])
async def test_keys_and_origin_of_another_store_are_said(store: SqliteStore, running: bool) -> None:
    if not running:
        await store.close()
    for signer in (LogSigner(SIGNER._key, "other.example.com/log"), LogSigner(Ed25519PrivateKey.generate(), SIGNER.origin)):
        _refused(store.path, "does not go with this", signer=signer)
    _refused(store.path, r"another key than keys/store\.key; put that key back", row_key=bytes(32))
    _refused(store.path, r"another key than keys/store\.key", row_key=bytes(32), signer=None)
    assert _looked(store.path, row_key=None, signer=None) == []


async def test_a_store_of_before_is_not_migrated_and_one_of_later_is_refused(store: SqliteStore) -> None:
    await store.close()
    store.tamper("DROP TABLE row_key")
    store.tamper("PRAGMA user_version = 1")
    assert _looked(store.path) == []
    _refused(store.path, "another key than", row_key=bytes(32))
    store.tamper(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    _refused(store.path, "written by a newer credbroker")


async def test_changed_rows_are_a_warning_since_a_broker_would_start_with_them(store: SqliteStore) -> None:
    store.tamper("UPDATE session SET expires_us = expires_us + 1")
    (warning,) = _looked(store.path)
    assert "table session was changed by somebody else" in warning
    assert "(1 such rows); the broker would start and not be ready" in warning


async def test_a_store_that_this_user_may_not_write_is_said() -> None:
    with as_nobody() as theirs:
        await theirs.open().close()
        assert _looked(theirs.path) == []
        theirs.path.chmod(0o400)
        _refused(theirs.path, "this user may not read and write it; check as the broker's user")


async def test_what_is_no_store_is_said(store: SqliteStore, tmp_path: Path) -> None:
    await store.close()
    store.path.chmod(0o644)
    _refused(store.path, "open to every user")
    other = tmp_path / "other"
    other.touch(0o600)
    other.write_bytes(b"a text that is no database" * 100)
    _refused(other, "file is not a database")
    theirs = SqliteStore(tmp_path / "theirs.db")
    theirs.path.touch(0o600)
    theirs.tamper("CREATE TABLE theirs (x)")
    _refused(theirs.path, "another program")
    (tmp_path / "folder").mkdir()
    _refused(tmp_path / "folder", "it is not a file")
