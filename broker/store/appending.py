"""The log's side of a transaction: the head that was signed last, entries behind it, and the next signed head."""

import sqlite3
from dataclasses import dataclass
from hashlib import sha256

from broker.audit.checkpoint import LogSigner
from broker.audit.entry import Entry
from broker.audit.tree import Frontier, leaf_hash
from broker.errors import Broken

_INSERT_ENTRY = (
    "INSERT INTO entry (idx, leaf, body, entry_id, kind, time_ms, project_id, project_path, job_id, session_id, environment,"
    " grant_name, intent_id, policy_hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the log: the tree so far, and the note that signs it."""

    frontier: Frontier
    note: bytes


def head_of(db: sqlite3.Connection, signer: LogSigner, known: Head | None) -> Head:
    """The stored head, believed only as far as it is signed.

    Raises Broken when the note is not ours, does not sign this frontier, or is behind `known`: signing on from there would
    make two histories of one log. Does not check that another process's head extends `known`; `audit verify` does.
    """
    row = db.execute("SELECT size, nodes, note FROM head").fetchone()
    if row is None:
        raise Broken("the log has lost its head row")
    size, nodes, note = row
    if not (isinstance(size, int) and isinstance(nodes, bytes) and isinstance(note, bytes)):
        raise Broken("the head row of the log holds other types than were written")
    if known is not None and (size, nodes, note) == (known.frontier.size, known.frontier.to_bytes(), known.note):
        return known
    try:
        checkpoint = signer.verifier.open(note)
        frontier = Frontier.from_bytes(size, nodes)
    except ValueError as error:
        raise Broken(f"the head of the log is not what this key signed: {error}") from None
    if (checkpoint.size, checkpoint.root) != (size, frontier.root()):
        raise Broken(f"the head of the log has {size} entries and is not what its checkpoint of {checkpoint.size} signs")
    if known is not None and size <= known.frontier.size:
        raise Broken(f"the log was put back: its head has {size} entries, and {known.frontier.size} were signed")
    last = db.execute("SELECT max(idx) FROM entry").fetchone()[0]
    if size != (0 if last is None else last + 1):
        raise Broken(f"the log's head has {size} entries, but the last one stored is {last}")
    return Head(frontier, note)


def begin(db: sqlite3.Connection, signer: LogSigner) -> None:
    """An empty log has a head, too: a signed checkpoint of size 0. Nothing happens to a log that has one."""
    if db.execute("SELECT (SELECT count(*) FROM head) + (SELECT count(*) FROM entry)").fetchone()[0] == 0:
        note = signer.sign(0, Frontier().root())
        db.execute("INSERT INTO head (one, size, nodes, note) VALUES (1, 0, x'', ?)", (note,))
        db.execute("INSERT INTO checkpoint (size, note) VALUES (0, ?)", (note,))


def append(db: sqlite3.Connection, frontier: Frontier, entry: Entry) -> Frontier:
    """The entry stands at the next index. Nothing is signed yet."""
    index, leaf, said = frontier.size, leaf_hash(entry.body), entry.facets
    db.execute(
        _INSERT_ENTRY,
        (
            index, leaf, entry.body, entry.entry_id, said.kind, said.time_ms, said.project_id, said.project_path, said.job_id,
            said.session_id, said.environment, said.grant, said.intent_id, said.policy_hash,
        ),
    )  # fmt: skip
    for name in said.credentials:
        db.execute("INSERT OR IGNORE INTO credential (id, idx) VALUES (?, ?)", (name, index))
    if entry.policy_text:
        db.execute(
            "INSERT OR IGNORE INTO policy (text_sha256, policy_hash, text) VALUES (?, ?, ?)",
            (sha256(entry.policy_text.encode()).hexdigest(), said.policy_hash, entry.policy_text),
        )
    return frontier.appended(leaf)


def sign(db: sqlite3.Connection, frontier: Frontier, signer: LogSigner) -> Head:
    """The new end of the log, signed, in the same transaction as the entries it covers."""
    note = signer.sign(frontier.size, frontier.root())
    db.execute("UPDATE head SET size = ?, nodes = ?, note = ?", (frontier.size, frontier.to_bytes(), note))
    db.execute("INSERT INTO checkpoint (size, note) VALUES (?, ?)", (frontier.size, note))
    return Head(frontier, note)


def holds(db: sqlite3.Connection, entry_id: str) -> bool:
    """Whether an entry of this id is in the log."""
    return db.execute("SELECT 1 FROM entry WHERE entry_id = ?", (entry_id,)).fetchone() is not None
