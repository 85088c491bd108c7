"""What a start would find in a store, found without one: nothing is made, migrated or written, and a broker may be serving."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.audit.checkpoint import LogSigner
from broker.errors import Broken, BrokerError, Code, Misconfigured
from broker.store.appending import head_of
from broker.store.faults import another_log, sqlite_name
from broker.store.row_key import TABLES, require_key
from broker.store.rows import RowChanged, RowSeal
from broker.store.schema import check_ours, connected, refuse_open_to_all, uri


def look(path: Path, *, row_key: bytes | None, signer: LogSigner | None, key_name: str) -> list[str]:
    """Warnings about the store in this file; none when there is no file yet. A key that could not be read is not compared.

    Raises Misconfigured(config_invalid) for what would keep `SqliteLedger.open` from opening it. Not looked at: whether every
    page and entry is whole, which `credbroker audit verify` does.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    if not stat.S_ISREG(found.st_mode):
        raise _unreadable(path, "it is not a file")
    refuse_open_to_all(path, stat.S_IMODE(found.st_mode))
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise _unreadable(path, "this user may not read and write it; check as the broker's user")
    if not found.st_size and not _size(path, "-wal"):
        return [f"the store {path} is an empty file: the broker will begin a new log in it, and knows of no session before"]
    if _size(path, "-wal") and not _beside(path, "-shm").exists():
        # To read such a copy SQLite would have to make the missing file.
        return [f"the store {path} has a -wal file without its -shm file, so it was not looked into; the start will"]
    try:
        with _snapshot(path) as db:
            return _looked(db, path, None if row_key is None else RowSeal(row_key), signer, key_name)
    except sqlite3.Error as error:
        raise _unreadable(path, error) from None


def _looked(db: sqlite3.Connection, path: Path, seal: RowSeal | None, signer: LogSigner | None, key_name: str) -> list[str]:
    if check_ours(db, path) == 0:
        return []
    begun = db.execute("SELECT (SELECT count(*) FROM head) + (SELECT count(*) FROM entry)").fetchone()[0]
    if signer is not None and begun:
        try:
            head_of(db, signer, None)
        except Broken as broken:
            raise another_log(path, broken) from None
    if seal is None:
        return []
    require_key(db, seal, path, key_name)
    changed = list(_changed(db, seal))
    return (
        [f"the store {path}: {changed[0]} ({len(changed)} such rows); the broker would start and not be ready"] if changed else []
    )


def _changed(db: sqlite3.Connection, seal: RowSeal) -> Iterator[str]:
    for table, select in TABLES:
        for row in db.execute(select):
            try:
                seal.opened(table, row)
            except RowChanged as changed:
                yield changed.detail


@contextmanager
def _snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """One state of the file. Raises sqlite3.Error.

    Without a journal beside it nobody has it open, and it is read as it lies there; with one, its index in `-shm` is read and not
    rebuilt (`readonly_shm`), so that a broker that serves from it does not notice.
    """
    how = "&readonly_shm=1" if _size(path, "-wal") else "&immutable=1"
    db = connected(uri(path, "ro") + how, "PRAGMA query_only = ON")
    try:
        db.execute("BEGIN")
        yield db
    finally:
        db.close()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path, suffix: str) -> int:
    try:
        return _beside(path, suffix).stat().st_size
    except OSError:
        return 0


def _unreadable(path: Path, why: object) -> BrokerError:
    if isinstance(why, sqlite3.Error) and sqlite_name(why).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        why = f"{why}; put back a copy, or move it away and the broker makes a new one"
    return Misconfigured(Code.CONFIG_INVALID, f"the store {path} cannot be read: {why}; see [store] url")
