"""Waiting for a broker that is away."""

from collections.abc import Callable

import pytest

from broker.errors import Code, Refused, Unavailable
from broker.job.retry import Patience


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def away(retry_after: float | None = None) -> Unavailable:
    return Unavailable(Code.BROKER_UNREACHABLE, "away", retry_after=retry_after)


def patience(clock: Clock, wait: float, told: Callable[[str], None] = lambda _: None, chance: float = 0.0) -> Patience:
    return Patience(wait=wait, told=told, clock=lambda: clock.now, sleep=clock.sleep, chance=lambda: chance)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [times]

    def ask() -> str:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return "answer"

    return ask


def test_an_answer_at_once_waits_for_nothing() -> None:
    clock = Clock()
    assert patience(clock, 120).call(failing(0, away())) == "answer"
    assert clock.slept == []


def test_pauses_double_up_to_ten_seconds_and_it_is_told_once() -> None:
    clock, said = Clock(), list[str]()
    assert patience(clock, 120, said.append).call(failing(8, away())) == "answer"
    assert clock.slept == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    assert said == ["away; trying again for up to 120 s"]


def test_jitter_lengthens_a_pause_by_up_to_its_own_length() -> None:
    clock = Clock()
    patience(clock, 120, chance=1.0).call(failing(2, away()))
    assert clock.slept == [0.5, 1.0]


def test_retry_after_is_kept() -> None:
    clock = Clock()
    patience(clock, 120).call(failing(1, away(30)))
    assert clock.slept == [30]


def test_the_wait_is_never_exceeded_and_ends_with_a_last_try() -> None:
    clock = Clock()
    with pytest.raises(Unavailable, match="away"):
        patience(clock, 3).call(failing(99, away()))
    assert sum(clock.slept) == pytest.approx(3)


def test_a_retry_after_beyond_the_wait_is_not_slept_through() -> None:
    clock = Clock()
    with pytest.raises(Unavailable):
        patience(clock, 5).call(failing(99, away(60)))
    assert clock.slept == []


def test_no_wait_is_one_try() -> None:
    clock, said = Clock(), list[str]()
    with pytest.raises(Unavailable):
        patience(clock, 0, said.append).call(failing(99, away()))
    assert (clock.slept, said) == ([], [])


def test_an_exchange_is_not_tried_past_the_end_of_its_token() -> None:
    clock = Clock()
    with pytest.raises(Unavailable):
        patience(clock, 120).call(failing(99, away()), at_most=2)
    assert sum(clock.slept) == pytest.approx(2)


def test_one_allowance_serves_the_whole_command() -> None:
    clock = Clock()
    one = patience(clock, 10)
    one.call(failing(1, away(6)))
    with pytest.raises(Unavailable):
        one.call(failing(1, away(6)))
    assert one.time_is_up("late") is None
    clock.now += 10
    assert one.time_is_up("late") is not None


def test_a_refusal_is_final() -> None:
    clock = Clock()
    with pytest.raises(Refused):
        patience(clock, 120).call(failing(1, Refused(Code.BLOCKED, "no")))
    assert clock.slept == []
