"""The windows of a lease, pure: time is a parameter."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.lease import STATIC_REFRESH, Freshness, UpstreamIds, freshness, refresh_after
from tests.strategies import a_lease, moment

LEASE = a_lease(mono_issued=1000.0, mono_refresh=1050.0, mono_expires=1100.0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, Freshness.FRESH),
        (49.9, Freshness.FRESH),
        (50, Freshness.DUE),
        (99.9, Freshness.DUE),
        (100, Freshness.DEAD),
        (1e6, Freshness.DEAD),
    ],
)
def test_a_lease_is_fresh_then_due_then_dead(seconds: float, expected: Freshness) -> None:
    assert freshness(LEASE, moment(seconds)) is expected


@given(st.integers(-600, 600), st.floats(0, 200))
def test_a_step_of_the_wall_clock_never_ends_or_prolongs_a_lease(step: int, seconds: float) -> None:
    """Only the monotonic reading is compared (DESIGN 3.15)."""
    honest = moment(seconds)
    stepped = replace(honest, wall=honest.wall + timedelta(seconds=step))
    assert freshness(LEASE, stepped) is freshness(LEASE, honest)


@pytest.mark.parametrize(("kind", "share"), [("aws", 1 / 2), ("rds", 1 / 2), ("vault", 2 / 3)])
def test_the_next_value_comes_at_half_or_two_thirds_of_the_life(kind: str, share: float) -> None:
    assert kind in ("aws", "rds", "vault")
    life = timedelta(hours=1)
    assert refresh_after(kind, life, spread=0, rotate_every=None) == life * share  # type: ignore[arg-type]  # narrowed by the assert


def test_a_value_without_an_end_is_read_again_every_five_minutes() -> None:
    assert refresh_after("vault", None, spread=0, rotate_every=None) == STATIC_REFRESH


@given(st.floats(0, 0.999), st.integers(1, 100_000))
def test_the_spread_takes_off_at_most_a_tenth_and_never_adds(spread: float, life: int) -> None:
    """Sessions opened together do not rotate together, and none rotates late."""
    whole = timedelta(seconds=life)
    after = refresh_after("aws", whole, spread=spread, rotate_every=None)
    assert whole / 2 * 0.899 <= after <= whole / 2


def test_rotate_every_bounds_a_lease_s_age_and_never_prolongs_it() -> None:
    five = timedelta(seconds=5)
    assert refresh_after("aws", timedelta(hours=1), spread=0, rotate_every=five) == five
    assert refresh_after("aws", timedelta(seconds=4), spread=0, rotate_every=five) == timedelta(seconds=2)


def test_ids_name_what_is_set_and_nothing_else() -> None:
    ids = UpstreamIds(upstream="aws", access_key_id="ASIA1", kv_version=0)
    assert ids.named() == {"upstream": "aws", "access_key_id": "ASIA1", "kv_version": 0}
