"""A stored log as auditors read it: read only, one snapshot, no secret needed, beside a running broker or from a copy."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from broker.audit.facets import Facets, facets_of
from broker.audit.kept import Kept, KeptHead, KeptPolicy
from broker.audit.query import Query
from broker.errors import Code, Misconfigured
from broker.moment import epoch_ms
from broker.store.schema import check_ours, connected, uri

_ENTRIES = (
    "SELECT idx, leaf, body, entry_id, kind, time_ms, project_id, project_path, job_id, session_id, environment, grant_name,"
    " intent_id, policy_hash FROM entry"
)


_LOOK = "SELECT count(*) FROM sqlite_master"  # a connection that cannot read says so only when it is asked something


class LogFile:
    """Implements `audit.kept.LogReader` on a SQLite store. What is read is one snapshot, taken when it is opened."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def head(self) -> KeptHead | None:
        row = next(self._rows("SELECT size, nodes, note FROM head"), None)
        return None if row is None else KeptHead(*row)

    def size(self) -> int:
        """How many entries there are: for progress, not for belief."""
        counted: int = next(self._rows("SELECT count(*) FROM entry"))[0]
        return counted

    def entries(self) -> Iterator[Kept]:
        named = self._names()
        waiting = next(named, None)
        for row in self._rows(_ENTRIES + " ORDER BY idx"):
            names: list[str] = []
            # Of the index only whole numbers are looked at: SQLite keeps a text where its writer puts one, and sorts it last.
            while waiting is not None and isinstance(waiting[1], int) and waiting[1] <= row[0]:
                if waiting[1] == row[0]:
                    names.append(waiting[0])
                waiting = next(named, None)
            yield _kept(row, names)

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        yield from self._rows("SELECT size, note FROM checkpoint ORDER BY size")

    def policies(self) -> Iterator[KeptPolicy]:
        for row in self._rows("SELECT text_sha256, policy_hash, text FROM policy ORDER BY text_sha256"):
            yield KeptPolicy(*(column if isinstance(column, str) else repr(column) for column in row))

    def find(self, query: Query) -> list[tuple[int, bytes]]:
        """(index, body) of the newest `limit` entries that match, in the log's order.

        The index beside the log says where to look; what is returned was asked again of the entry's own bytes. An index that
        was changed can hide an entry from here, and `audit verify` tells. Raises ValueError for bytes that are no entry.
        """
        wheres, values = _conditions(query)
        statement = _ENTRIES + (" WHERE " + " AND ".join(wheres) if wheres else "") + " ORDER BY idx DESC"
        found: list[tuple[int, bytes]] = []
        for row in self._rows(statement, values):
            if len(found) == query.limit:
                break
            if query.matches(_said(row[0], row[2])):
                found.append((row[0], row[2]))
        return found[::-1]

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _names(self) -> Iterator[tuple[str, Any]]:
        yield from self._rows("SELECT id, idx FROM credential ORDER BY idx, id")

    def _rows(self, statement: str, values: Sequence[str | int] = ()) -> Iterator[Any]:
        """Raises ValueError when the file itself is damaged."""
        try:
            yield from self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise ValueError(f"the database file is damaged or cannot be read: {error}") from None


def open_readonly(path: Path) -> LogFile:
    """The log in this file. Raises Misconfigured(config_invalid) when it is not the store of a credbroker."""
    try:
        db = _connect(path)
    except sqlite3.Error as error:
        raise Misconfigured(Code.CONFIG_INVALID, f"{path} cannot be read as a credbroker store: {error}") from None
    try:
        _check(db, path)
    except BaseException:
        db.close()
        raise
    return LogFile(db)


def _check(db: sqlite3.Connection, path: Path) -> None:
    try:
        db.execute("BEGIN")
        migrations = check_ours(db, path)
    except sqlite3.Error as error:
        raise Misconfigured(Code.CONFIG_INVALID, f"{path} cannot be read as a credbroker store: {error}") from None
    if migrations == 0:
        raise Misconfigured(Code.CONFIG_INVALID, f"{path} is an empty database, not a credbroker store")


def _connect(path: Path) -> sqlite3.Connection:
    """Read only. A copy on a medium that nobody can write has no room for WAL's side files and is read as it lies there."""
    try:
        return connected(uri(path, "ro"), _LOOK)
    except sqlite3.OperationalError:
        unmerged = path.with_name(path.name + "-wal")
        if not path.is_file() or (unmerged.exists() and unmerged.stat().st_size):
            raise
        return connected(uri(path, "ro") + "&immutable=1", _LOOK)


def _said(index: int, body: object) -> Facets:
    try:
        return facets_of(body) if isinstance(body, bytes) else facets_of(b"")
    except ValueError as error:
        raise ValueError(f"entry {index}: {error}; run `credbroker audit verify`") from None


def _kept(row: tuple[Any, ...], names: list[str]) -> Kept:
    index, leaf, body, entry_id, kind, time_ms, project_id, project_path, job_id, session_id, environment, grant, *rest = row
    intent_id, policy_hash = rest
    said = Facets(
        entry_id=entry_id,
        kind=kind,
        time_ms=time_ms,
        project_id=project_id,
        project_path=project_path,
        job_id=job_id,
        session_id=session_id,
        environment=environment,
        grant=grant,
        intent_id=intent_id,
        policy_hash=policy_hash,
        credentials=tuple(names),
    )
    return Kept(index, leaf, body if isinstance(body, bytes) else str(body).encode(), said)


def _conditions(query: Query) -> tuple[list[str], list[str | int]]:
    wheres, values = [], list[str | int]()
    exact = (
        ("job_id = ?", query.job),
        ("session_id = ?", query.session),
        ("environment = ?", query.environment),
        ("grant_name = ?", query.grant),
        ("kind = ?", query.kind),
        ("idx IN (SELECT idx FROM credential WHERE id = ?)", query.credential),
    )
    for condition, value in exact:
        if value:
            wheres.append(condition)
            values.append(value)
    if query.project:
        wheres.append("(project_id = ? OR project_path = ?)")
        values += [query.project, query.project]
    if query.since is not None:
        wheres.append("time_ms >= ?")
        values.append(epoch_ms(query.since))
    if query.until is not None:
        wheres.append("time_ms < ?")
        values.append(epoch_ms(query.until))
    return wheres, values
