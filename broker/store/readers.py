"""Connections that read, beside the one that writes."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from broker.store.schema import connect_reading

_T = TypeVar("_T")


class Readers:
    """Idle reading connections to one file, shared by threads; each is used by one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._generation = 0

    def query(self, ask: Callable[[sqlite3.Connection], _T]) -> _T:
        """What `ask` finds on a connection opened no longer ago than the last `reset`. Raises sqlite3.Error."""
        with self._lock:
            generation = self._generation
            db = self._idle.pop() if self._idle else None
        if db is None:
            db = connect_reading(self._path)
        try:
            return ask(db)
        finally:
            with self._lock:
                current = generation == self._generation
                if current:
                    self._idle.append(db)
            if not current:
                db.close()

    def reset(self) -> None:
        """Every connection is opened anew before its next use.

        After a failed write they may read a file that was replaced; and one that found the file read-only makes SQLite open
        the shared memory read-only for the whole process, the writer included, for as long as it is open.
        """
        with self._lock:
            idle, self._idle = self._idle, []
            self._generation += 1
        for db in idle:
            db.close()
