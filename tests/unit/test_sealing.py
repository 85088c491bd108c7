"""The seal: nothing opens without the handle, or in another place."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.errors import Broken
from broker.sealing import Place, SealKey
from broker.secret import Secret
from broker.session import new_handle
from tests.strategies import NOON

PLACE = Place(session_id="s1", grant="warehouse", subpath="", version=3, expires_at=NOON)
VALUES = {"username": Secret("v-etl-1"), "password": Secret("p\x00ä\n")}


def test_what_was_sealed_opens_in_its_place() -> None:
    handle = new_handle()
    sealed = SealKey(handle, "s1").seal(VALUES, PLACE)
    opened = SealKey(handle, "s1").open(sealed, PLACE)
    assert {n: v.reveal() for n, v in opened.items()} == {n: v.reveal() for n, v in VALUES.items()}


def test_the_sealed_bytes_hold_no_value() -> None:
    sealed = SealKey(new_handle(), "s1").seal(VALUES, PLACE)
    assert b"v-etl-1" not in sealed


@pytest.mark.parametrize(
    "moved",
    [
        replace(PLACE, session_id="s2"),
        replace(PLACE, grant="lake"),
        replace(PLACE, subpath="x"),
        replace(PLACE, version=4),
        replace(PLACE, expires_at=NOON + timedelta(seconds=1)),
    ],
)
def test_a_row_moved_to_another_place_does_not_open(moved: Place) -> None:
    """The place is the AAD: a writer of the database cannot hand one lease to another grant, or make it live longer."""
    key = SealKey(new_handle(), "s1")
    with pytest.raises(Broken):
        key.open(key.seal(VALUES, PLACE), moved)


def test_another_handle_or_session_does_not_open_it() -> None:
    handle = new_handle()
    sealed = SealKey(handle, "s1").seal(VALUES, PLACE)
    with pytest.raises(Broken):
        SealKey(new_handle(), "s1").open(sealed, PLACE)
    with pytest.raises(Broken):
        SealKey(handle, "s2").open(sealed, PLACE)


def test_no_changed_byte_opens() -> None:
    key = SealKey(new_handle(), "s1")
    sealed = key.seal(VALUES, PLACE)
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(Broken):
            key.open(changed, PLACE)
