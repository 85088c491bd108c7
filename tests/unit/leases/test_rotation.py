"""The current credential: single flight, refreshed before anyone asks, never expired, never empty, a refusal final."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import pytest

from broker.errors import Code, Refused, Unavailable
from tests.rig import POLICY, Rig, read_request, rig
from tests.strategies import RealClock

AWAY = Unavailable(Code.UPSTREAM_UNAVAILABLE, "the upstream is away")
NO = Refused(Code.UPSTREAM_DENIED, "the upstream refused")


async def settle(broker: Rig) -> None:
    """Until no flight is under way."""
    flights = [slot.flight for live in broker.table for slot in live.slots.values() if slot.flight is not None]
    if flights:
        await asyncio.wait(flights)


async def test_a_fresh_lease_is_served_from_memory(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        leases = [await broker.read(handle) for _ in range(5)]
        assert {lease.version for lease in leases} == {1}
        assert broker.aws.asked == 1


DATABASE = 'rds = { host = "db.example.eu-central-1.rds.amazonaws.com", user = "etl" }'


async def test_a_token_for_a_database_is_replaced_at_half_of_its_quarter_hour_and_is_no_aws_credential(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        broker.change_policy(POLICY.replace('ttl = "1h"', DATABASE, 1))
        broker.aws.life = timedelta(minutes=15)
        handle = await broker.open()
        first = await broker.read(handle)
        assert (first.kind, first.renewable, first.revocable) == ("rds", False, "none")
        assert first.refresh_at - first.issued_at == timedelta(seconds=450)
        assert first.expires_at - first.issued_at == timedelta(minutes=15)
        with pytest.raises(Refused, match="is not an AWS grant") as caught:
            await broker.desk.read(read_request(handle, "lake", kind="aws"))
        assert caught.value.code is Code.GRANT_UNKNOWN
        assert (await broker.desk.read(read_request(handle, "seldom", kind="aws"))).kind == "aws"
        broker.clock.forward(451)
        assert (await broker.read(handle)).version == 1
        await settle(broker)
        second = await broker.read(handle)
        assert (second.kind, second.version) == ("rds", 2)
        broker.clock.forward(900)
        assert (await broker.read(handle)).version == 3


async def test_a_token_for_a_database_is_the_same_kind_after_a_restart(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        broker.change_policy(POLICY.replace('ttl = "1h"', DATABASE, 1))
        broker.aws.life = timedelta(minutes=15)
        handle = await broker.open()
        first = await broker.read(handle)
        await broker.restart()
        again = await broker.read(handle)
        assert (again.lease_id, again.kind) == (first.lease_id, "rds")


async def test_sixty_four_first_readers_cause_one_call(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        leases = await asyncio.gather(*(broker.read(handle) for _ in range(64)))
        assert {lease.lease_id for lease in leases} == {leases[0].lease_id}
        assert broker.aws.asked == 1


async def test_a_due_lease_is_served_while_its_successor_is_fetched(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        first = await broker.read(handle)
        broker.clock.forward(1801)  # past half of the hour
        assert (await broker.read(handle)).lease_id == first.lease_id
        await settle(broker)
        second = await broker.read(handle)
        assert (second.version, second.fields["password"].reveal()) == (2, "pass-2")


async def test_a_dead_lease_is_never_served(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        broker.aws.life = timedelta(minutes=20)
        handle = await broker.open()
        await broker.read(handle)
        broker.clock.forward(1200)
        assert (await broker.read(handle)).version == 2


async def test_an_outage_is_survived_to_the_lease_s_own_end_and_not_a_second_longer(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        broker.aws.life = timedelta(minutes=20)
        handle = await broker.open()
        first = await broker.read(handle)
        broker.aws.faults = [AWAY] * 100
        for seconds in (601, 300, 298):  # due; due; one second before its end
            broker.clock.forward(seconds)
            assert (await broker.read(handle)).lease_id == first.lease_id
            await settle(broker)
        broker.clock.forward(1)
        with pytest.raises(Unavailable) as caught:
            await broker.read(handle)
        assert caught.value.code is Code.UPSTREAM_UNAVAILABLE
        assert caught.value.retry_after is not None
        broker.aws.faults.clear()
        broker.clock.forward(61)
        assert (await broker.read(handle)).version == 2


async def test_while_an_upstream_is_away_it_is_not_hammered(tmp_path: Path) -> None:
    """Back-off with jitter, doubling: a thousand readers in ten minutes are a dozen calls, not a thousand."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.aws.faults = [AWAY] * 1000
        for _ in range(1000):
            with pytest.raises(Unavailable):
                await broker.read(handle)
            broker.clock.forward(0.6)
        assert 5 < broker.aws.asked < 40


async def test_a_refusal_drops_the_lease_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle)
        broker.clock.forward(1801)
        broker.aws.faults = [NO]
        await broker.read(handle)  # still the old one, while the refusal is on its way
        await settle(broker)
        with pytest.raises(Refused) as caught:
            await broker.read(handle)
        assert caught.value.code is Code.UPSTREAM_DENIED
        broker.clock.forward(61)
        assert (await broker.read(handle)).version == 2  # versions go on; the upstream gives again


async def test_a_vault_lease_is_renewed_at_two_thirds_and_keeps_its_version(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.life = timedelta(minutes=15)
        first = await broker.read(handle, "warehouse")
        broker.clock.forward(601)
        await broker.read(handle, "warehouse")
        await settle(broker)
        renewed = await broker.read(handle, "warehouse")
        assert renewed.version == 1
        assert renewed.fields["password"].reveal() == first.fields["password"].reveal()
        assert renewed.expires_at > first.expires_at
        assert broker.kinds()[-1] == "renewed"


async def test_a_vault_lease_at_its_maximum_is_issued_anew_and_the_old_one_left_to_its_end(tmp_path: Path) -> None:
    """An open transaction keeps its role: a superseded lease is not revoked (DESIGN 3.8)."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.life = timedelta(minutes=15)
        await broker.read(handle, "warehouse")
        broker.vault.maximum = timedelta(minutes=15)
        broker.clock.forward(601)
        await broker.read(handle, "warehouse")
        await settle(broker)
        second = await broker.read(handle, "warehouse")
        assert second.version == 2
        assert broker.vault.revoked == []
        assert set(broker.vault.live) == {"lease-1", "lease-3"}
        assert broker.vault.orders[-1].login is not None  # one login per (session, grant)


async def test_a_static_value_is_read_again_and_its_version_grows_only_with_its_value(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.life, broker.vault.renewable, broker.vault.revocable = None, False, "none"
        broker.vault.value = "s3cret"
        await broker.read(handle, "settings", subpath="mail")
        for _ in range(2):
            broker.clock.forward(301)
            await broker.read(handle, "settings", subpath="mail")
            await settle(broker)
        assert (await broker.read(handle, "settings", subpath="mail")).version == 1
        assert broker.vault.asked == 3
        broker.vault.value = "new"
        broker.clock.forward(301)
        await broker.read(handle, "settings", subpath="mail")
        await settle(broker)
        changed = await broker.read(handle, "settings", subpath="mail")
        assert (changed.version, changed.fields["password"].reveal()) == (2, "new")


async def test_a_static_value_with_an_end_is_read_again_at_its_end_and_not_before(tmp_path: Path) -> None:
    """A static database role: its password is good until the server rotates it (DESIGN 3.8)."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.life, broker.vault.renewable, broker.vault.revocable = timedelta(minutes=20), False, "none"
        broker.vault.value = "s3cret"
        first = await broker.read(handle, "warehouse")
        assert first.refresh_at == first.expires_at
        broker.clock.forward(1199)
        await broker.read(handle, "warehouse")
        assert broker.vault.asked == 1
        broker.clock.forward(1)
        again = await broker.read(handle, "warehouse")
        assert (again.version, broker.vault.asked) == (1, 2)
        assert again.expires_at > first.expires_at
        broker.vault.value = "rotated"
        broker.clock.forward(1200)
        assert (await broker.read(handle, "warehouse")).version == 2


async def test_a_rotation_that_cannot_be_logged_leaves_the_lease_in_use_alone(tmp_path: Path) -> None:
    """What was minted is taken back without its login, since the lease that is served was made with it."""
    async with rig(tmp_path) as broker:
        broker.vault.life, broker.vault.renewable = timedelta(minutes=15), False
        handle = await broker.open()
        first = await broker.read(handle, "warehouse")
        broker.clock.forward(601)
        broker.vault.gate = asyncio.Event()
        assert (await broker.read(handle, "warehouse")).lease_id == first.lease_id
        deadline = time.monotonic() + 20
        while broker.vault.asked < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        broker.clock.forward(61)  # past the intent's deadline: the outcome cannot be written any more
        broker.vault.gate.set()
        await settle(broker)
        assert set(broker.vault.live) == {"lease-1"}
        assert broker.vault.tokens
        assert (await broker.read(handle, "warehouse")).lease_id == first.lease_id


@pytest.mark.parametrize("step", [-600, 600])
async def test_a_step_of_the_wall_clock_neither_ends_nor_prolongs_a_lease(tmp_path: Path, step: int) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        first = await broker.read(handle)
        broker.clock.step_wall(step)
        assert (await broker.read(handle)).lease_id == first.lease_id
        assert broker.aws.asked == 1
        broker.clock.forward(3500)
        assert (await broker.read(handle)).lease_id == first.lease_id  # due, not dead


async def test_min_ttl_replaces_a_lease_that_is_too_short_and_says_so_when_none_is_long_enough(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.aws.life = timedelta(minutes=20)
        await broker.read(handle)
        broker.clock.forward(400)
        longer = await broker.read(handle, min_ttl=timedelta(minutes=19))
        assert longer.version == 2
        for impossible in (timedelta(minutes=25), timedelta(hours=3)):
            with pytest.raises(Refused) as caught:
                await broker.read(handle, min_ttl=impossible)
            assert caught.value.code is Code.TTL_UNAVAILABLE
        assert broker.aws.asked == 2


async def test_patience_ends_the_wait_and_not_the_flight(tmp_path: Path) -> None:
    """The AWS endpoint never waits longer than 0.8 s; what it started is there for the next request."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.aws.gate = asyncio.Event()
        with pytest.raises(Unavailable) as caught:
            await broker.read(handle, patience=timedelta(milliseconds=20))
        assert caught.value.retry_after == 1
        broker.aws.gate.set()
        assert (await broker.read(handle)).version == 1
        assert broker.aws.asked == 1


async def test_the_rate_of_a_grant_bounds_issuances_and_not_reads(tmp_path: Path) -> None:
    """`rate = "2/m"`."""
    async with rig(tmp_path) as broker:
        broker.aws.life = timedelta(minutes=15)
        handle = await broker.open()
        whole = timedelta(minutes=15)
        await broker.read(handle, "seldom")
        broker.clock.forward(5)
        await broker.read(handle, "seldom", min_ttl=whole)
        broker.clock.forward(5)
        with pytest.raises(Unavailable) as caught:
            await broker.read(handle, "seldom", min_ttl=whole)
        assert caught.value.code is Code.RATE_LIMITED
        assert caught.value.retry_after == pytest.approx(50)
        assert (await broker.read(handle, "seldom")).version == 2  # a read is free
        broker.clock.forward(51)
        assert (await broker.read(handle, "seldom", min_ttl=whole)).version == 3


async def test_a_credential_nobody_reads_is_left_to_lapse(tmp_path: Path) -> None:
    """Renewing for the dead is what other agents are hated for (DESIGN 3.8)."""
    async with rig(tmp_path, rotate_every=timedelta(milliseconds=60), clock=RealClock()) as broker:
        handle = await broker.open()
        await broker.read(handle)
        until = time.monotonic() + 20
        deadline = time.monotonic() + 20
        while broker.aws.asked < 2 and time.monotonic() < until:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # five more lives
        assert broker.aws.asked == 2  # once more, because it was read in its first life; then no more


async def test_a_credential_that_is_read_is_refreshed_before_anyone_asks(tmp_path: Path) -> None:
    async with rig(tmp_path, rotate_every=timedelta(milliseconds=60), clock=RealClock()) as broker:
        handle = await broker.open()
        versions: set[int] = set()
        until = time.monotonic() + 20
        while len(versions) < 5 and time.monotonic() < until:
            versions.add((await broker.read(handle)).version)
            await asyncio.sleep(0.01)
        assert len(versions) >= 5
        assert versions == set(range(1, max(versions) + 1))  # no version was skipped: each was current for a while
