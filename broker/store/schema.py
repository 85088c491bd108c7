"""The tables, and how a file comes to have them: numbered migrations, applied in order, each in one transaction.

`PRAGMA user_version` is the number of migrations a file has had, `PRAGMA application_id` says that it is ours.
"""

import os
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from broker.errors import Code, Misconfigured, Unavailable
from broker.store.faults import sqlite_name

APPLICATION_ID = 0x63726564  # "cred"
BUSY_SECONDS = 5.0

_FIRST = """
-- The log. `leaf`, `body` and the row of `head` are the truth; every other column is read from `body` and checked against it
-- by `audit verify`.
CREATE TABLE entry (
    idx INTEGER PRIMARY KEY,            -- from the head row, never from a sequence: no gaps, no reordering
    leaf BLOB NOT NULL,
    body BLOB NOT NULL,
    entry_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    project_id TEXT NOT NULL,
    project_path TEXT NOT NULL,
    job_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    environment TEXT NOT NULL,
    grant_name TEXT NOT NULL,
    intent_id TEXT NOT NULL,
    policy_hash TEXT NOT NULL
);
CREATE INDEX entry_time ON entry (time_ms);
CREATE INDEX entry_project ON entry (project_id, idx);
CREATE INDEX entry_job ON entry (job_id, idx);
CREATE INDEX entry_session ON entry (session_id, idx);
CREATE TABLE credential (id TEXT NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (id, idx)) WITHOUT ROWID;
CREATE INDEX credential_entry ON credential (idx, id);
CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note BLOB NOT NULL);
CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    size INTEGER NOT NULL,
    nodes BLOB NOT NULL,
    note BLOB NOT NULL
);
CREATE TABLE policy (text_sha256 TEXT PRIMARY KEY, policy_hash TEXT NOT NULL, text TEXT NOT NULL) WITHOUT ROWID;

-- State. Rows with a `mac` are authenticated as a whole.
CREATE TABLE session (
    session_id TEXT PRIMARY KEY,
    handle_hash BLOB NOT NULL UNIQUE,
    issuer TEXT NOT NULL,
    jti TEXT NOT NULL,
    state TEXT NOT NULL,
    expires_us INTEGER NOT NULL,
    last_seen_us INTEGER,
    record BLOB NOT NULL,
    mac BLOB NOT NULL
);
CREATE INDEX session_token ON session (issuer, jti);
CREATE INDEX session_state ON session (state);
CREATE TABLE exchange (
    issuer TEXT NOT NULL,
    jti TEXT NOT NULL,
    opened INTEGER NOT NULL,            -- sessions this token has opened
    until_us INTEGER NOT NULL,          -- kept until the token is past its `exp` and any leeway
    PRIMARY KEY (issuer, jti)
) WITHOUT ROWID;
CREATE TABLE intent (
    intent_id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    deadline_us INTEGER NOT NULL,
    record BLOB NOT NULL,
    mac BLOB NOT NULL
);
CREATE TABLE lease (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    lease_id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    grant_name TEXT NOT NULL,
    subpath TEXT NOT NULL,
    upstream_end_us INTEGER,
    record BLOB NOT NULL,
    sealed BLOB NOT NULL,
    mac BLOB NOT NULL
);
CREATE INDEX lease_session ON lease (session_id, seq);
"""

_ROW_KEY = """
CREATE TABLE row_key (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    mac BLOB NOT NULL                   -- made with the key that the rows with a `mac` are under
);
"""

MIGRATIONS = (_FIRST, _ROW_KEY)
"""Never edited once released; a change is another one at the end."""


def create_private(path: Path) -> None:
    """The database file exists and is its owner's: made with mode 0600, refused when everybody may read or write it.

    Raises Misconfigured(config_invalid). A group is left alone: auditors may share one.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise Misconfigured(
            Code.CONFIG_INVALID, f"the store {path} cannot be opened for writing: {error.strerror}; see [store] url"
        ) from None
    refuse_open_to_all(path, mode)


def refuse_open_to_all(path: Path, mode: int) -> None:
    """Raises Misconfigured(config_invalid) when everybody may read or write the store."""
    if mode & stat.S_IRWXO:
        raise Misconfigured(
            Code.CONFIG_INVALID, f"the store {path} is open to every user (mode {mode:04o}); run `chmod o-rwx` on it"
        )


def connect(path: Path) -> sqlite3.Connection:
    """A connection for the writer: every commit is on disk before it returns. Makes no file. Raises sqlite3.Error."""
    return connected(uri(path, "rw"), "PRAGMA synchronous = FULL")


def connect_reading(path: Path) -> sqlite3.Connection:
    """A connection that only reads, usable from any one thread at a time. Raises sqlite3.Error."""
    return connected(uri(path, "rw"), "PRAGMA query_only = ON")


def connected(address: str, first: str) -> sqlite3.Connection:
    """A connection on which `first` has run. Raises sqlite3.Error."""
    db = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA trusted_schema = OFF")  # a writer of the file must not get code run through its schema
        db.execute(first).fetchall()
    except sqlite3.Error:
        db.close()
        raise
    return db


def uri(path: Path, mode: str) -> str:
    """`path` as SQLite's URI, whatever characters are in it."""
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """The file is ours, in WAL mode and has every migration. Two processes may do this at once.

    Raises Misconfigured(config_invalid) for a file of another program or of a newer credbroker, or a file system without WAL,
    and Unavailable(store_unavailable) while another process holds the file.
    """
    try:
        _prepare(db, path)
    except sqlite3.Error as error:
        if sqlite_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise Unavailable(
                Code.STORE_UNAVAILABLE, f"the store {path} is held by another process", retry_after=BUSY_SECONDS
            ) from None
        raise Misconfigured(Code.CONFIG_INVALID, f"the store {path} cannot be used as a database: {error}") from None


def check_ours(db: sqlite3.Connection, path: Path) -> int:
    """How many migrations this file has had. Raises Misconfigured(config_invalid) when it is not ours or is newer than we are."""
    version = _pragma(db, "user_version")
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and _pragma(db, "application_id") != APPLICATION_ID:
        raise Misconfigured(Code.CONFIG_INVALID, f"{path} is a database of another program, not a credbroker store")
    if version > len(MIGRATIONS):
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"{path} was written by a newer credbroker (schema {version}, this one knows {len(MIGRATIONS)}); upgrade this one",
        )
    return version


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    check_ours(db, path)  # before anything is changed in a file that is not ours
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise Misconfigured(
            Code.CONFIG_INVALID, f"the store {path} is on a file system without SQLite's WAL mode ({mode}); use a local disk"
        )
    while True:
        db.execute("BEGIN IMMEDIATE")
        try:
            version = check_ours(db, path)
            if version < len(MIGRATIONS):
                for statement in _statements(MIGRATIONS[version]):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        if version >= len(MIGRATIONS):
            return


def _statements(script: str) -> list[str]:
    """One migration's statements: `executescript` would commit the transaction they have to share."""
    lines = (line.partition("--")[0] for line in script.splitlines())
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value = db.execute(f"PRAGMA {name}").fetchone()[0]
    assert isinstance(value, int)
    return value
