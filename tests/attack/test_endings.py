"""Ends that are cut short: by a log that is away, an upstream that breaks, a request in the middle of it.

Whoever was told that a session is over must not meet it again, and one bad item must not keep the others from being revoked.
"""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.audit.entry import Entry
from broker.errors import Code, Refused, Unavailable
from broker.ledger import Change, StoredLease
from broker.secret import Secret
from broker.session import SessionState
from broker.store.sqlite import SqliteLedger
from broker.upstream import Held, Minted, Note, Order
from tests.rig import LOOPBACK, Rig, rig
from tests.strategies import identity

AWAY = Unavailable(Code.UPSTREAM_UNAVAILABLE, "away")


class Switched:
    """A ledger whose writes fail while `down`, and whose reads of leases wait for `gate`."""

    def __init__(self, behind: SqliteLedger) -> None:
        self._behind = behind
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    async def commit(self, changes: Sequence[Change], entries: Sequence[Entry]) -> None:
        if self.down:
            raise Unavailable(Code.LOG_UNAVAILABLE, "the log is away")
        await self._behind.commit(changes, entries)

    async def leases(self, session_id: str) -> Sequence[StoredLease]:
        await self.gate.wait()
        return await self._behind.leases(session_id)


def switched(broker: Rig) -> Switched:
    ledger = Switched(broker.ledger)
    broker.ledger = ledger  # type: ignore[assignment]  # the test's own, with the same methods
    broker.build()
    return ledger


async def sweeps(broker: Rig, times: int = 4) -> None:
    for _ in range(times):
        broker.clock.forward(31)
        await broker.ending.sweep()


async def test_a_session_closed_while_the_log_was_away_is_closed_once_it_is_back(tmp_path: Path) -> None:
    """It was served again after a restart, with credentials that had been revoked."""
    async with rig(tmp_path) as broker:
        ledger = switched(broker)
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        await broker.read(handle, "lake")
        ledger.down = True
        with pytest.raises(Unavailable) as caught:
            await broker.desk.close(handle, LOOPBACK, "c")
        assert caught.value.code is Code.LOG_UNAVAILABLE
        assert broker.vault.live == {}  # revoking does not wait for the log
        ledger.down = False
        await sweeps(broker)
        (closed,) = broker.entries("session_closed")
        assert closed["state"] == "closed"
        assert closed["not_revocable_until"]
        assert len(broker.entries("revoked")) == 1
        assert len(broker.table) == 0
        await broker.restart()
        with pytest.raises(Refused) as refused:
            await broker.read(handle, "warehouse")
        assert refused.value.code is Code.SESSION_REVOKED
        await broker.open()  # and the token opens another


async def test_asking_again_to_revoke_is_answered_by_what_is_left(tmp_path: Path) -> None:
    """The second POST /v1/revoke said 200 while the first one's lease was still alive."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        broker.vault.faults = [AWAY, AWAY]
        for _ in range(2):
            with pytest.raises(Unavailable):
                await broker.desk.close(handle, LOOPBACK, "c")
        assert broker.vault.live
        await broker.desk.close(handle, LOOPBACK, "c")
        assert broker.vault.live == {}
        before = broker.kinds()
        await broker.desk.close(handle, LOOPBACK, "c")
        assert broker.kinds() == before


async def test_two_who_revoke_at_once_both_wait_for_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        await asyncio.gather(*(broker.desk.close(handle, LOOPBACK, "c") for _ in range(2)))
        assert broker.vault.live == {}
        assert broker.kinds().count("revoked") == 1


async def test_a_request_that_warms_a_session_while_it_ends_is_refused(tmp_path: Path) -> None:
    """It was handed a lease that was being revoked, and its key stayed in memory."""
    async with rig(tmp_path) as broker:
        ledger = switched(broker)
        handle = await broker.open(heartbeat=True)
        await broker.read(handle, "warehouse")
        broker.table = type(broker.table)()
        broker.build()
        await broker.upkeep.resume()
        (live,) = broker.table
        ledger.gate.clear()
        reading = asyncio.create_task(broker.read(handle, "warehouse"))
        await asyncio.sleep(0)
        deadline = time.monotonic() + 20
        while not live.warming.locked():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        broker.clock.forward(301)
        await broker.upkeep.end_what_is_over()
        await asyncio.sleep(0)
        ledger.gate.set()
        with pytest.raises(Refused) as caught:
            await reading
        assert caught.value.code is Code.SESSION_IDLE
        await broker.ending.drain()
        assert broker.vault.live == {}
        assert live.key is None
        assert not live.slots


async def test_the_order_of_lease_rows_says_nothing(tmp_path: Path) -> None:
    """`seq` is not under the row's MAC: a writer of the file could bring an older credential back as the current one."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        (live,) = broker.table
        (slot,) = live.slots.values()
        assert slot.lease is not None
        slot.lease = replace(slot.lease, renewable=False)
        broker.clock.forward(2500)
        broker.vault.renewable = False
        await broker.read(handle, "warehouse")
        assert slot.flight is not None
        await slot.flight
        assert (await broker.read(handle, "warehouse")).version == 2
        db = sqlite3.connect(broker.path)
        db.execute("UPDATE lease SET seq = 100 - seq")
        db.commit()
        db.close()
        await broker.restart()
        assert (await broker.read(handle, "warehouse")).version == 2


async def test_an_upstream_that_breaks_for_one_session_keeps_no_other_from_being_revoked(tmp_path: Path) -> None:
    """An exception that is no BrokerError ended every sweep at the first bad session, for ever."""
    async with rig(tmp_path) as broker:
        broker.tokens.known["two"] = identity(jti="two")
        handles = [await broker.open(), await broker.open("two")]
        for handle in handles:
            await broker.read(handle, "warehouse")
        (poisoned, _) = broker.vault.live
        real = broker.vault.revoke

        async def revoke(helds: Sequence[Held]) -> None:
            if helds[0].ids.lease_id == poisoned:
                raise RecursionError("a bug, or a hostile answer")
            await real(helds)

        broker.vault.revoke = revoke  # type: ignore[method-assign]  # the fault
        broker.vault.faults = [AWAY]
        for handle in handles:
            with pytest.raises(Exception, match=r"failed|away"):
                await broker.desk.close(handle, LOOPBACK, "c")
        await sweeps(broker)
        assert set(broker.vault.live) == {poisoned}
        broker.vault.revoke = real  # type: ignore[method-assign]
        await sweeps(broker, times=8)
        assert broker.vault.live == {}


async def test_a_changed_row_keeps_no_intent_from_being_swept(tmp_path: Path) -> None:
    """One session row that a writer of the file broke stopped the sweep before every later intent."""
    async with rig(tmp_path) as broker:
        broker.tokens.known["two"] = identity(jti="two")
        broker.vault.leaves_behind = True
        for token in ("main", "two"):
            handle = await broker.open(token)
            with pytest.raises(Unavailable):
                await broker.read(handle, "warehouse")
            broker.clock.forward(1)
        db = sqlite3.connect(broker.path)
        db.execute("UPDATE session SET expires_us = expires_us + 1 WHERE rowid = 1")
        db.commit()
        db.close()
        broker.clock.forward(61)
        await sweeps(broker)
        assert len(broker.entries("intent_swept")) == 1


async def test_an_end_that_could_not_be_finished_keeps_no_secret_and_ends_with_its_leases(tmp_path: Path) -> None:
    """Key and values stayed in memory for as long as the process, when the upstream never came back."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        (live,) = broker.table
        broker.vault.faults = [AWAY] * 100
        with pytest.raises(Unavailable):
            await broker.desk.close(handle, LOOPBACK, "c")
        assert live.key is None
        assert not live.slots
        for _ in range(12):
            broker.clock.forward(301)
            await broker.ending.sweep()
        assert len(broker.table) == 0


async def test_a_flight_that_lands_after_the_end_leaves_no_timer(tmp_path: Path) -> None:
    """The timer of its next refresh held the ended session's secrets for as long as the lease would have lived."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.gate = asyncio.Event()
        reading = asyncio.create_task(broker.read(handle, "warehouse"))
        deadline = time.monotonic() + 20
        while not broker.vault.asked:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        (live,) = broker.table
        (slot,) = live.slots.values()
        closing = asyncio.create_task(broker.desk.close(handle, LOOPBACK, "c"))
        deadline = time.monotonic() + 20
        while live.state is SessionState.LIVE:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        broker.vault.gate.set()
        with pytest.raises(Refused):
            await reading
        await closing
        assert broker.vault.live == {}
        assert slot.timer is None


async def test_an_upstream_that_hangs_keeps_no_other_from_being_revoked(tmp_path: Path) -> None:
    """The sweep went one by one: sixty seconds for each session of a hanging server, before the next server's turn."""
    async with rig(tmp_path) as broker:
        for number in range(4):
            broker.tokens.known[str(number)] = identity(jti=str(number))
        handles = [await broker.open(str(number)) for number in range(4)]
        for handle in handles:
            await broker.read(handle, "warehouse")
        hanging, gate, real = set(list(broker.vault.live)[:3]), asyncio.Event(), broker.vault.revoke

        async def revoke(helds: Sequence[Held]) -> None:
            if helds[0].ids.lease_id in hanging:
                await gate.wait()
            await real(helds)

        broker.vault.faults = [AWAY] * 4
        for handle in handles:
            with pytest.raises(Unavailable):
                await broker.desk.close(handle, LOOPBACK, "c")
        broker.vault.revoke = revoke  # type: ignore[method-assign]  # the fault
        sweep = asyncio.create_task(broker.ending.sweep())
        async with asyncio.timeout(10):
            deadline = time.monotonic() + 20
            while set(broker.vault.live) != hanging:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
        gate.set()
        await sweep
        assert broker.vault.live == {}


async def test_the_login_that_read_an_unchanged_value_first_is_ended_too(tmp_path: Path) -> None:
    """A static value that is read again with another login stays the same lease; the first login was forgotten, alive."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.life, broker.vault.value, broker.vault.revocable, broker.vault.renewable = None, "s3cret", "none", False
        ended: list[str] = []
        issue, revoke = broker.vault.issue, broker.vault.revoke

        async def with_a_new_login(order: Order, note: Note) -> Minted:
            minted = await issue(order, note)
            ids = replace(minted.held.ids, accessor=f"acc-{broker.vault.asked}")
            return replace(minted, held=Held(ids=ids, token=Secret(f"token-{broker.vault.asked}")))

        async def revoked(helds: Sequence[Held]) -> None:
            ended.extend(held.ids.accessor for held in helds)
            await revoke(helds)

        broker.vault.issue = with_a_new_login  # type: ignore[method-assign]  # the first login had come near its end
        broker.vault.revoke = revoked  # type: ignore[method-assign]
        await broker.read(handle, "settings", subpath="mail")
        broker.clock.forward(301)
        await broker.read(handle, "settings", subpath="mail")
        (live,) = broker.table
        (slot,) = live.slots.values()
        assert slot.flight is not None
        await slot.flight
        assert (await broker.read(handle, "settings", subpath="mail")).version == 1
        await broker.desk.close(handle, LOOPBACK, "c")
        assert sorted(ended) == ["acc-1", "acc-2"]
