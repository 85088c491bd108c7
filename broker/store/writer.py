"""The one thread that writes: commits that wait together become durable together, each with its own result.

Nothing waits for company: an idle writer takes what comes at once, and what arrives while it is on the disk is the next group.
"""

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

from broker.audit.checkpoint import LogSigner
from broker.audit.tree import Frontier
from broker.errors import Broken, BrokerError, Code, Unavailable
from broker.moment import Clock
from broker.store import faults
from broker.store.appending import Head, append, head_of, holds, sign
from broker.store.changes import Changing
from broker.store.rows import Faults, RowChanged, RowSeal
from broker.store.schema import connect
from broker.store.waiting import Item, deliver

MOST_PER_GROUP = 256
_SEEN_DELAY = 2.0  # heartbeats are written together
_PROBE_EVERY = 1.0  # while the log is away: whether it is back
_TIDY_EVERY = timedelta(minutes=1)


class _Signal(Enum):
    WAKE = 0
    STOP = 1


class Writer:
    """Owns the writing connection and its thread. Started by its constructor, ended by `stop`."""

    def __init__(
        self,
        path: Path,
        signer: LogSigner,
        seal: RowSeal,
        clock: Clock,
        head: Head,
        noted: Faults,
        *,
        after_failure: Callable[[], None],
    ) -> None:
        self._path = path
        self._signer = signer
        self._seal = seal
        self._clock = clock
        self._head = head
        self._faults = noted
        self._after_failure = after_failure
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._queue: queue.SimpleQueue[Item | _Signal] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the three below
        self._seen: dict[str, datetime] = {}
        self._seen_due = 0.0
        self._stopped = False
        self._tidied: datetime | None = None
        self.writable = True
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Queues a commit. Raises Unavailable(store_unavailable) once the writer is stopping."""
        with self._lock:
            if self._stopped:
                raise faults.closed()
            self._queue.put(item)

    def seen(self, session_id: str, at: datetime) -> None:
        """Queues a heartbeat; it is written with the next group, or two seconds later. Lost with the process."""
        with self._lock:
            if not self._seen:
                self._seen_due = time.monotonic() + _SEEN_DELAY
                self._queue.put(_Signal.WAKE)
            self._seen[session_id] = at

    def stop(self) -> None:
        """Writes everything that was submitted, then closes the connection. Blocks; idempotent."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._queue.put(_Signal.STOP)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    # --- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group, stopping = self._next()
            heartbeats = self._due(now=stopping or bool(group))
            if group or heartbeats or not self.writable:
                deliver(group, self._write(group, heartbeats))
        if self._db is not None:
            self._db.close()

    def _next(self) -> tuple[list[Item], bool]:
        """What waits, at most 256 of it; blocks while nothing does. True beside it once there will be no more."""
        group: list[Item] = []
        try:
            taken = self._queue.get(timeout=self._patience())
            while True:
                if taken is _Signal.STOP:
                    # Nothing is submitted after it, so this group is the last one however long it is.
                    return group, True
                if isinstance(taken, Item):
                    group.append(taken)
                    if len(group) == MOST_PER_GROUP:
                        break
                taken = self._queue.get_nowait()
        except queue.Empty:
            pass
        return group, False

    def _patience(self) -> float | None:
        with self._lock:
            if self._seen:
                return max(0.0, self._seen_due - time.monotonic())
        return None if self.writable else _PROBE_EVERY

    def _due(self, *, now: bool) -> dict[str, datetime]:
        with self._lock:
            if not self._seen or not (now or time.monotonic() >= self._seen_due):
                return {}
            taken, self._seen = self._seen, {}
            return taken

    def _write(self, group: Sequence[Item], heartbeats: dict[str, datetime]) -> Sequence[BrokerError | None]:
        try:
            results = self._transaction(self._opened(), group, heartbeats)
        except sqlite3.Error as error:
            self.writable = False
            results = self._after(error, group)
        except Broken as broken:  # the head is not ours to sign on from
            self.writable = False
            self._faults.note(broken)
            results = [_damaged(broken) for _ in group]
        else:
            self.writable = True
        return results

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect(self._path)
            self._file = _identity(self._path)
        return self._db

    def _same_file(self) -> None:
        """A file that was moved or replaced still takes our writes, and nobody would ever find them."""
        if _identity(self._path) != self._file:
            raise sqlite3.OperationalError(f"{self._path} is no longer the file that was opened")

    def _transaction(
        self, db: sqlite3.Connection, group: Sequence[Item], heartbeats: dict[str, datetime]
    ) -> Sequence[BrokerError | None]:
        """The whole group on disk, but for items whose own changes were refused. Raises sqlite3.Error for all of it."""
        self._same_file()
        now = self._clock().wall
        changing = Changing(db, self._seal, now)
        db.execute("BEGIN IMMEDIATE")
        try:
            head = head_of(db, self._signer, self._head)
            if not group:
                db.execute("UPDATE head SET size = size")  # a probe has to write, or it proves nothing
            frontier = head.frontier
            results: list[BrokerError | None] = []
            for item in group:
                frontier, refused = self._item(changing, frontier, item)
                results.append(refused)
            self._upkeep(changing, heartbeats, now)
            if frontier.size > head.frontier.size:
                head = sign(db, frontier, self._signer)
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        self._head = head
        return results

    def _item(self, changing: Changing, frontier: Frontier, item: Item) -> tuple[Frontier, BrokerError | None]:
        """One commit inside the group's transaction: all of it, or none of it and why."""
        db = changing.db
        db.execute("SAVEPOINT item")
        try:
            after = frontier
            for change in item.changes:
                changing.apply(change)
            for entry in item.entries:
                after = append(db, after, entry)
        except BrokerError as refusal:
            refused = refusal
        except sqlite3.IntegrityError as error:
            refused = Broken(f"a commit contradicts what is stored: {error}")
        except sqlite3.Error:
            raise  # of the disk, so of the whole group
        except Exception as bug:  # noqa: BLE001 its neighbours in the group are not to blame
            refused = Broken(f"a commit could not be written: {bug!r}")
        else:
            db.execute("RELEASE item")
            return after, None
        db.execute("ROLLBACK TO item")
        db.execute("RELEASE item")
        if isinstance(refused, RowChanged):
            self._faults.note(refused)
        return frontier, refused

    def _upkeep(self, changing: Changing, heartbeats: dict[str, datetime], now: datetime) -> None:
        for session_id, at in heartbeats.items():
            self._heartbeat(changing, session_id, at)
        if self._tidied is None or not timedelta(0) <= now - self._tidied < _TIDY_EVERY:
            changing.tidy()
            self._tidied = now

    def _heartbeat(self, changing: Changing, session_id: str, at: datetime) -> None:
        try:
            changing.seen(session_id, at)
        except RowChanged as changed:
            self._faults.note(changed)

    def _after(self, error: sqlite3.Error, group: Sequence[Item]) -> Sequence[BrokerError | None]:
        """What to tell a group whose transaction failed.

        A failed COMMIT may have reached the disk. Each item is looked up by the ids of its entries on a new connection before
        anybody is told that nothing happened; when that fails as well, the outcome stays unknown and is told as "not written".
        """
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        self._after_failure()
        try:
            db = self._opened()
            return [None if _written(db, item) else faults.not_written(error) for item in group]
        except sqlite3.Error:
            return [faults.not_written(error) for _ in group]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _written(db: sqlite3.Connection, item: Item) -> bool:
    return bool(item.entries) and holds(db, item.entries[0].entry_id)


def _damaged(broken: Broken) -> BrokerError:
    return Unavailable(
        Code.LOG_UNAVAILABLE, "the issuance log is damaged and takes no entries, so nothing was done", detail=broken.detail
    )
