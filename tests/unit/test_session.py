"""The handle: its shape, its checksum, what the store knows it by."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Code, Refused
from broker.session import handle_hash, new_handle, new_id, resume_hash


def test_a_handle_has_the_shape_that_scanners_look_for() -> None:
    """`cbs_`, 43 base62 characters, 6 of CRC32 (DESIGN 3.13)."""
    for _ in range(200):
        assert re.fullmatch(r"cbs_[0-9A-Za-z]{49}", new_handle().reveal())


def test_a_fresh_handle_is_known_by_a_hash_that_is_its_own() -> None:
    """The allowed twin of every refusal below."""
    one, other = new_handle().reveal(), new_handle().reveal()
    assert handle_hash(one) == handle_hash(one)
    assert handle_hash(one) != handle_hash(other)


@given(st.integers(min_value=0, max_value=52), st.sampled_from("0Az_-= \n"))
def test_one_changed_character_is_never_taken(at: int, other: str) -> None:
    """The checksum and the alphabet see it before any lookup."""
    handle = new_handle().reveal()
    changed = handle[:at] + other + handle[at + 1 :]
    if changed == handle:
        return
    with pytest.raises(Refused) as caught:
        handle_hash(changed)
    assert caught.value.code is Code.HANDLE_INVALID


@pytest.mark.parametrize("text", ["", "cbs_", "cbs_" + "0" * 48, "cbs_" + "0" * 50, "eyJhbGciOi", "ſ" * 53, "cbs_" + "é" * 49])
def test_what_is_not_a_handle_is_refused_without_echo(text: str) -> None:
    with pytest.raises(Refused, match="not a session handle") as caught:
        handle_hash(text)
    assert not text or text not in caught.value.public


def test_hashes_of_handles_and_resume_keys_live_in_different_domains() -> None:
    """A resume key that happens to be a handle's text hashes to something else."""
    handle = new_handle().reveal()
    assert handle_hash(handle) != resume_hash(handle)


def test_ids_are_128_random_bits_in_26_characters() -> None:
    ids = {new_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(re.fullmatch(r"[a-z2-7]{26}", i) for i in ids)
