"""Which key the rows are authenticated with: a mark in the file that only that key makes.

With another key every row looks changed: sessions could be neither served nor ended, leases neither renewed nor taken back, and
each of them silently. So the key is compared before anything is served.
"""

import sqlite3
from itertools import chain
from pathlib import Path

from broker.errors import Code, Misconfigured
from broker.store.rows import SELECT_INTENT, SELECT_LEASE, SELECT_SESSION, RowChanged, RowSeal

TABLES = (("session", SELECT_SESSION), ("intent", SELECT_INTENT), ("lease", SELECT_LEASE))
_MARK = ("rows",)


def require_key(db: sqlite3.Connection, seal: RowSeal, path: Path, key_name: str) -> None:
    """The rows of this file are under this key, or there are none. Writes nothing.

    A file without a mark, or with one that is not this key's, is judged by its rows: one that opens shows the key. So a mark that
    somebody changed keeps no broker from its own rows. Raises Misconfigured(config_invalid), and sqlite3.Error.
    """
    if _mark(db) == seal.mac("row_key", _MARK):
        return
    rows = chain.from_iterable((_opens(seal, table, row) for row in db.execute(select)) for table, select in TABLES)
    opened = next(rows, None)
    if opened is not None and not opened and not any(rows):
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"the sessions and leases in the store {path} were written with another key than {key_name}; put that key back, "
            f"because with this one none of them can be served or taken back (if it is lost, move {path.name} and the files "
            "beside it away: a new store is made, the old leases end when they expire, and the old log can still be verified)",
        )


def mark(db: sqlite3.Connection, seal: RowSeal) -> None:
    """From here on the file is this key's. Call in a transaction, after `require_key`."""
    mac = seal.mac("row_key", _MARK)
    if _mark(db) != mac:
        db.execute("INSERT OR REPLACE INTO row_key (one, mac) VALUES (1, ?)", (mac,))


def _mark(db: sqlite3.Connection) -> object:
    if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'row_key'").fetchone()[0]:
        return None  # a file of before there was one, not migrated yet
    row = db.execute("SELECT mac FROM row_key").fetchone()
    return None if row is None else row[0]


def _opens(seal: RowSeal, table: str, row: tuple[str | bytes | int | None, ...]) -> bool:
    try:
        seal.opened(table, row)
    except RowChanged:
        return False
    return True
