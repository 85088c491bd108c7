"""Each project waits its own turn."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Code, Refused, Unavailable
from broker.identity.claims import JobIdentity
from broker.moment import Moment
from broker.web.limits import DoorLimits, GatedVerifier, ProjectGate
from tests.fakes.memory_desk import an_identity

SECOND = timedelta(seconds=1)


class Time:
    """A clock that stands, and a sleep that only notes how long it would have been."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def a_gate(time: Time, count: int = 50, per: timedelta = SECOND) -> ProjectGate:
    return ProjectGate(count, per, clock=lambda: time.now, sleep=time.sleep)


async def crowd(gate: ProjectGate, count: int) -> None:
    """So many jobs of one project at once."""
    for _ in range(count):
        await gate.enter("gitlab", "4711")


async def test_five_hundred_jobs_of_one_project_get_through_in_ten_seconds() -> None:
    """DESIGN section 5: by queueing. The first fifty do not wait at all."""
    time = Time()
    gate = a_gate(time)
    await crowd(gate, 500)
    assert len(time.slept) == 450
    assert max(time.slept) < 10


async def test_who_would_wait_too_long_is_told_when_to_come_again() -> None:
    """Instead of a queue without end."""
    time = Time()
    gate = a_gate(time)
    with pytest.raises(Unavailable, match="too many jobs of project 4711") as caught:
        await crowd(gate, 1000)
    assert caught.value.code is Code.RATE_LIMITED
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after < 1
    time.now += 1
    await gate.enter("gitlab", "4711")


async def test_one_project_does_not_wait_for_another() -> None:
    """Nor for the same id of another issuer."""
    time = Time()
    gate = a_gate(time, count=1)
    await crowd(gate, 5)
    time.slept.clear()
    await gate.enter("gitlab", "4712")
    await gate.enter("other", "4711")
    assert time.slept == []


async def test_a_quiet_project_has_its_whole_burst_again() -> None:
    """And never more than that."""
    time = Time()
    gate = a_gate(time, count=3, per=timedelta(minutes=1))
    for _ in range(3):
        await gate.enter("gitlab", "1")
    assert time.slept == []
    with pytest.raises(Unavailable):
        await gate.enter("gitlab", "1")
    time.now += 3600
    for _ in range(3):
        await gate.enter("gitlab", "1")
    assert time.slept == []


async def test_memory_is_bounded() -> None:
    """Projects whose turn is long past are forgotten."""
    time = Time()
    gate = a_gate(time)
    for number in range(10_050):
        await gate.enter("gitlab", str(number))
        time.now += 1
    assert len(gate._next) == 10_000
    for number in range(20_000, 20_100):  # all at one moment: nobody's turn is past, nobody is forgotten
        await gate.enter("gitlab", str(number))
    assert len(gate._next) == 10_000


@given(st.integers(1, 100), st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_no_second_ever_sees_more_than_the_rate_and_its_burst(count: int, pauses: list[float]) -> None:
    """Whatever the pattern of arrivals."""
    time = Time()
    gate = a_gate(time, count=count)

    async def run() -> list[float]:
        entered = []
        for pause in pauses:
            time.now += pause
            time.slept.clear()
            try:
                await gate.enter("gitlab", "1")
            except Unavailable:
                continue
            entered.append(time.now + sum(time.slept))
        return sorted(entered)

    entered = asyncio.run(run())
    for index, start in enumerate(entered):
        within = [at for at in entered[index:] if at < start + 1 - 1e-6]
        assert len(within) <= 2 * count


class OneToken:
    async def verify(self, unverified_token: str, now: Moment) -> JobIdentity:
        if unverified_token != "good":
            raise Refused(Code.TOKEN_SIGNATURE, "the signature is wrong")
        return an_identity("4711")


async def test_only_a_verified_token_takes_its_project_s_turn() -> None:
    """A stranger cannot use up a project's rate by naming it."""
    time = Time()
    verifier = GatedVerifier(verifier=OneToken(), gate=a_gate(time, count=1))
    now = Moment(datetime(2026, 11, 23, tzinfo=UTC), 0.0)
    for _ in range(20):
        with pytest.raises(Refused, match="signature is wrong"):
            await verifier.verify("forged", now)
    assert (await verifier.verify("good", now)).stable_id == "4711"
    assert time.slept == []
    await crowd(verifier.gate, 10)
    with pytest.raises(Unavailable, match="too many jobs"):
        await verifier.verify("good", now)


def test_the_limits_are_the_designs() -> None:
    """DESIGN section 5, where configuration says nothing else."""
    limits = DoorLimits()
    assert (limits.body_bytes, limits.header_bytes, limits.token_chars, limits.request_seconds) == (32768, 16384, 20_000, 10)
    assert limits.connections == 2 * limits.concurrency
