"""How long the reads of one thread keep to one version. Time is a parameter."""

import pickle
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_contrib_secrets import Reference, SecretStr
from luigi_contrib_secrets.lease import Lease, Pin
from luigi_contrib_secrets.settings import Pinning

PINNING = Pinning(idle=2, cap=30)
WAREHOUSE = Reference("warehouse")


def a_lease(expires: float = 3600, version: int = 1) -> Lease:
    return Lease(
        reference=WAREHOUSE,
        environment="production",
        version=version,
        expires_at=datetime(2026, 11, 23, tzinfo=timezone.utc),
        mono_refresh=expires / 2,
        mono_expires=expires,
        fields={name: SecretStr(f"{name}-{version}", WAREHOUSE.of(name)) for name in ("user", "password", "host")},
    )


def test_a_pair_that_is_read_together_comes_from_one_version() -> None:
    pin = Pin(a_lease(), "user", 0)
    assert pin.holds("password", 1, PINNING)


def test_a_pause_ends_a_pin() -> None:
    pin = Pin(a_lease(), "user", 0)
    assert not pin.holds("user", 2.1, PINNING)


def test_a_pause_before_a_field_not_yet_given_does_not() -> None:
    """The user was read, then something took three seconds, then the password: still of one version."""
    pin = Pin(a_lease(), "user", 0)
    assert pin.holds("password", 3, PINNING)
    assert not pin.holds("password", 6, PINNING)


def test_after_the_cap_even_a_new_field_after_a_pause_brings_a_new_version() -> None:
    assert not Pin(a_lease(), "user", 0).holds("password", 31, PINNING)


def test_reads_without_a_pause_are_renewed_at_the_cap_where_their_cycle_begins() -> None:
    pin = Pin(a_lease(), "user", 0)
    now = 0.0
    while now < 30:
        now += 1
        assert pin.holds("password", now, PINNING)
        if now < 30:
            assert pin.holds("user", now, PINNING)
    assert pin.holds("password", 30.5, PINNING), "in the middle of a cycle: not yet"
    assert not pin.holds("user", 31, PINNING)


def test_when_the_first_field_is_read_no_more_another_one_renews_the_pin() -> None:
    """A task that reads the user once and the password every second is not kept to an old version for ever."""
    pin = Pin(a_lease(), "user", 0)
    held = [now for now in range(1, 100) if pin.holds("password", now, PINNING)]
    assert held == list(range(1, 31))


def test_a_lease_with_less_left_than_the_cap_is_renewed_at_every_first_read() -> None:
    pin = Pin(a_lease(expires=20), "user", 0)
    assert pin.holds("password", 0.1, PINNING)
    assert not pin.holds("user", 0.2, PINNING)


@given(st.floats(0, 200), st.sampled_from(["user", "password", "host"]))
def test_a_lease_that_has_ended_is_never_held(past: float, field: str) -> None:
    pin = Pin(a_lease(expires=10), "user", 9.5)
    assert not pin.holds(field, 10 + past, PINNING)


@given(st.lists(st.floats(0.001, 1.9), min_size=1, max_size=300))
def test_cycles_without_a_pause_are_never_torn(steps: list[float]) -> None:
    """Key, secret, token, token, for ever, with a newer version always at hand: each cycle is of one version (R5)."""
    now, version = 0.0, 1
    names = ("user", "password", "host", "host")
    pin = Pin(a_lease(expires=1e6), names[0], now)
    cycle = [1]
    for turn, step in enumerate(steps, start=1):
        now += step
        name = names[turn % 4]
        if not pin.holds(name, now, PINNING):
            version += 1
            pin = Pin(a_lease(expires=1e6, version=version), name, now)
        cycle = [pin.lease.version] if turn % 4 == 0 else [*cycle, pin.lease.version]
        assert len(set(cycle)) == 1


def test_a_lease_shows_nothing_and_stays_in_its_process() -> None:
    lease = a_lease()
    assert "password-1" not in repr(lease)
    assert "password-1" not in repr(dict(lease.fields))
    with pytest.raises(TypeError, match="holds live values and is not pickled"):
        pickle.dumps(lease)
