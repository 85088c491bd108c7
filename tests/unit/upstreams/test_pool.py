"""The pool: a total deadline, a bound on threads, and nothing lost when nobody waits any more."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from broker.errors import Code, Refused, Unavailable
from broker.upstreams.pool import UpstreamPool


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    made = UpstreamPool(2)
    yield made
    made.close()


async def test_a_result_and_an_error_come_back_as_they_are(pool: UpstreamPool) -> None:
    """What the function returns or raises is what the caller gets."""

    def refuse() -> None:
        raise Refused(Code.UPSTREAM_DENIED, "no")

    assert await pool.run(lambda a, b: a + b, 2, 3, deadline=5) == 5
    with pytest.raises(Refused) as refusal:
        await pool.run(refuse, deadline=5)
    assert refusal.value.code is Code.UPSTREAM_DENIED


async def test_a_call_past_its_deadline_is_an_outage_and_its_late_result_is_taken_back(pool: UpstreamPool) -> None:
    """The caller gets Unavailable at the deadline; the result that comes later is handed to `late` in a thread."""
    go = threading.Event()
    taken: list[tuple[str, str]] = []
    took = threading.Event()

    def slow() -> str:
        go.wait(30)
        return "a token nobody waits for"

    def late(result: str) -> None:
        taken.append((result, threading.current_thread().name))
        took.set()

    with pytest.raises(Unavailable) as outage:
        await pool.run(slow, deadline=0.05, late=late)
    assert outage.value.code is Code.UPSTREAM_UNAVAILABLE
    assert "did not answer in time" in outage.value.public
    go.set()
    assert await asyncio.to_thread(took.wait, 10)
    assert taken[0][0] == "a token nobody waits for"
    assert taken[0][1].startswith("upstream")


async def test_a_late_error_is_nobodys(pool: UpstreamPool) -> None:
    """A call that fails after its deadline made nothing, so there is nothing to take back."""
    go, ended = threading.Event(), threading.Event()
    taken: list[object] = []

    def slow() -> None:
        go.wait(30)
        ended.set()
        raise Refused(Code.UPSTREAM_DENIED, "no")

    with pytest.raises(Unavailable):
        await pool.run(slow, deadline=0.05, late=taken.append)
    go.set()
    assert await asyncio.to_thread(ended.wait, 10)
    assert await pool.run(lambda: "still working", deadline=5) == "still working"
    assert taken == []


async def test_a_call_that_no_thread_has_begun_never_begins(pool: UpstreamPool) -> None:
    """Waiting for a thread counts against the deadline, and giving up while waiting leaves nothing behind."""
    go = threading.Event()
    busy = [asyncio.ensure_future(pool.run(go.wait, 30, deadline=30)) for _ in range(pool.size)]
    await asyncio.sleep(0)
    begun: list[str] = []
    with pytest.raises(Unavailable):
        await pool.run(begun.append, "begun", deadline=0.05)
    go.set()
    await asyncio.gather(*busy)
    assert begun == []


async def test_a_cancelled_caller_leaves_nothing_minted_behind(pool: UpstreamPool) -> None:
    """A caller that goes away is like a deadline that passes: a late result is taken back."""
    go, begun, took = threading.Event(), threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        go.wait(30)
        return "minted"

    caller = asyncio.ensure_future(pool.run(slow, deadline=30, late=lambda _: took.set()))
    assert await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    assert await asyncio.to_thread(took.wait, 10)


async def test_closing_begins_nothing_new() -> None:
    """After close a late result has no thread to go to, and that raises nothing anywhere."""
    pool = UpstreamPool(1)
    go = threading.Event()
    with pytest.raises(Unavailable):
        await pool.run(go.wait, 30, deadline=0.05, late=lambda _: None)
    pool.close()
    go.set()
    with pytest.raises(RuntimeError):
        await pool.run(lambda: None, deadline=1)
