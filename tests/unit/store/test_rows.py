from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.lease import UpstreamIds
from broker.store.rows import (
    Column,
    Faults,
    RowChanged,
    RowSeal,
    from_us,
    intent_of,
    intent_row,
    lease_of,
    lease_row,
    session_of,
    session_row,
    to_us,
    with_ids,
)
from tests.contract.ledger_stores import a_lease_of, a_session, an_intent

SEAL = RowSeal(bytes(32))
COLUMNS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.binary(max_size=5) | st.integers(-9, 9)
ROWS = st.lists(COLUMNS, min_size=1, max_size=4)


@given(st.sampled_from(["session", "lease"]), ROWS, st.sampled_from(["session", "lease"]), ROWS)
def test_two_rows_have_one_mac_only_if_they_are_one(table: str, row: list[Column], other_table: str, other: list[Column]) -> None:
    """No column runs into the next, no type passes for another, no table's row for another's."""
    same = table == other_table and [(type(c), c) for c in row] == [(type(c), c) for c in other]
    assert (SEAL.mac(table, row) == SEAL.mac(other_table, other)) is same


def test_a_row_opens_under_its_own_key_and_table_alone() -> None:
    row = ("id", b"x", None, 7)
    stored = (*row, SEAL.mac("lease", row))
    assert SEAL.opened("lease", stored) == row
    for seal, table in ((RowSeal(bytes([1]) * 32), "lease"), (SEAL, "session")):
        with pytest.raises(RowChanged) as caught:
            seal.opened(table, stored)
        assert f"the row 'id' of table {table} was changed" in caught.value.detail


def test_the_key_does_not_show() -> None:
    assert repr(SEAL) == "RowSeal(***)"


@pytest.mark.parametrize("peer_uid", [None, 0, 1000])
@pytest.mark.parametrize("resume_hash", [None, b"\x00" * 32])
def test_a_session_comes_back_as_it_was(peer_uid: int | None, resume_hash: bytes | None) -> None:
    session = a_session(peer_uid=peer_uid, resume_hash=resume_hash, last_seen=None, grants=())
    assert session_of(session_row(session)) == session
    assert session_of(session_row(a_session(session_id="x", handle_hash=b"y"))).last_seen is not None


def test_a_lease_comes_back_but_for_its_value() -> None:
    lease = a_lease_of(a_session(), subpath="a/b", upstream_expires_at=None, ids=UpstreamIds(kv_version=3, path="kv/x"))
    row = lease_row(lease, b"sealed")
    stored = lease_of(row)
    for name in {f.name for f in fields(stored)} - {"sealed"}:
        assert getattr(stored, name) == getattr(lease, name)
    assert stored.sealed == b"sealed"
    assert lease_row(stored, stored.sealed) == row
    assert b"s3cr3t" not in repr(row).encode()


def test_an_intent_comes_back_as_it_was() -> None:
    intent = an_intent(a_session(), subpath="x")
    stored = intent_of(intent_row(intent))
    assert {f.name: getattr(stored, f.name) for f in fields(stored)} == {f.name: getattr(intent, f.name) for f in fields(intent)}


def test_later_ids_add_to_what_was_known() -> None:
    known = UpstreamIds(upstream="vault", role="etl", accessor="old")
    assert with_ids(known, UpstreamIds(accessor="new", kv_version=0)) == replace(known, accessor="new", kv_version=0)
    assert with_ids(known, UpstreamIds()) == known


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001 the zone is put on below
def test_a_time_survives_to_the_microsecond(at: datetime) -> None:
    at = at.replace(tzinfo=UTC)
    assert from_us(to_us(at)) == at


def test_faults_are_kept_once_and_not_without_end() -> None:
    noted = Faults({})
    for n in range(300):
        noted.note(RowChanged(f"row {n // 2}"))
    assert len(noted.details) == 100
