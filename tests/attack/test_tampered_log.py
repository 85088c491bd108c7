"""A writer of the database against `audit verify`: whatever is put into the file, the answer is a report that names it."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from broker.audit.query import Query
from broker.audit.verify import verify
from broker.store.reading import open_readonly
from tests.rig import LOOPBACK, rig

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
CHANGE = "UPDATE entry SET body = ? WHERE idx = 2"


@pytest.mark.parametrize(
    ("statement", "value", "names"),
    [
        (CHANGE, DEEP, "not an entry"),
        (CHANGE, "a text", "not an entry"),
        ("INSERT INTO policy VALUES (x'00', x'ff', ?)", b"\xff", "policy"),
        ("UPDATE credential SET idx = ? || idx", "at ", "the index beside the log"),
        ("UPDATE credential SET id = ?", b"\xff", "the index beside the log"),
        ("UPDATE head SET size = ?", "many", "the head counts"),
    ],
)
async def test_whatever_is_in_the_file_is_reported(tmp_path: Path, statement: str, value: Any, names: str) -> None:
    """Three of these ended `audit verify` with a traceback: the one who changed the log could keep anybody from reading why."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        await broker.desk.close(handle, LOOPBACK, "c")
    with open_readonly(broker.path) as log:
        assert verify(log, broker.signer.verifier).sound
    db = sqlite3.connect(broker.path)
    try:
        db.execute(statement.replace("UPDATE credential SET id", "UPDATE OR REPLACE credential SET id"), (value,))
        db.commit()
    finally:
        db.close()
    with open_readonly(broker.path) as log:
        report = verify(log, broker.signer.verifier)
    assert not report.sound
    assert any(names in str(problem) for problem in report.problems), report.problems


async def test_a_query_over_a_broken_entry_says_where_to_look(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        await broker.read(await broker.open(), "warehouse")
    db = sqlite3.connect(broker.path)
    try:
        db.execute(CHANGE, (DEEP,))
        db.commit()
    finally:
        db.close()
    with open_readonly(broker.path) as log, pytest.raises(ValueError, match="audit verify"):
        log.find(Query(limit=100))
