"""One job that asks and asks: no upstream is called, no entry written and no credential minted for each of its questions."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from broker.errors import BrokerError, Code, Refused, Unavailable
from tests.rig import Rig, rig
from tests.strategies import NOON, identity

NO = Refused(Code.UPSTREAM_DENIED, "no")


async def open_long(broker: Rig) -> str:
    broker.tokens.known["long"] = identity(jti="long", expires_at=NOON + timedelta(hours=5))
    return await broker.open("long")


async def test_a_min_ttl_of_the_whole_life_mints_no_credential_each_time(tmp_path: Path) -> None:
    """`min_ttl` of exactly the grant's ttl minted a credential, refused it for the milliseconds it had aged, and did so again."""
    async with rig(tmp_path) as broker:
        handle = await open_long(broker)
        await broker.read(handle)
        broker.clock.forward(0.2)
        for _ in range(20):
            with pytest.raises(Refused) as caught:
                await broker.read(handle, min_ttl=timedelta(hours=1, seconds=0.5))
            assert caught.value.code is Code.TTL_UNAVAILABLE
        assert broker.aws.asked == 1
        assert (await broker.read(handle, min_ttl=timedelta(minutes=59))).version == 1


@pytest.mark.parametrize("subpath", ["", "nothing"])
async def test_what_the_upstream_refused_is_not_asked_again_at_once(tmp_path: Path, subpath: str) -> None:
    """Every read of a refused grant was a login upstream and two entries in the log, as fast as a job could ask."""
    async with rig(tmp_path) as broker:
        handle = await open_long(broker)
        grant = "settings" if subpath else "warehouse"
        broker.vault.faults = [NO] * 50
        for _ in range(50):
            with pytest.raises(Refused) as caught:
                await broker.read(handle, grant, subpath=subpath)
            assert caught.value.code is Code.UPSTREAM_DENIED
        assert broker.vault.asked == 1
        assert broker.kinds().count("intent") == 1
        broker.vault.faults = []
        broker.clock.forward(61)
        assert (await broker.read(handle, grant, subpath=subpath)).version == 1


async def test_invented_subpaths_are_bounded_and_forgotten_later(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await open_long(broker)
        broker.vault.faults = [NO] * 1100
        for number in range(1000):
            with pytest.raises(Refused):
                await broker.read(handle, "settings", subpath=f"x{number}")
        for number in range(1000, 1100):
            with pytest.raises(Unavailable) as caught:
                await broker.read(handle, "settings", subpath=f"x{number}")
            assert caught.value.code is Code.RATE_LIMITED
        broker.vault.faults = []
        broker.clock.forward(125)
        assert await broker.read(handle, "settings", subpath="real")
        (live,) = broker.table
        assert len(live.slots) == 1


async def test_the_end_of_a_session_is_no_reason_for_more_and_more_credentials(tmp_path: Path) -> None:
    """Halves of what was left: eleven STS sessions in one hour, the last ones a quarter of an hour longer than the session."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        with suppress(BrokerError):
            while True:
                lease = await broker.read(handle)
                assert lease.mono_expires > broker.clock.mono
                for slot in next(iter(broker.table)).slots.values():
                    if slot.flight is not None:
                        await asyncio.wait([slot.flight])
                broker.clock.forward(5)
        assert broker.clock.mono >= 1000 + 3600
        assert broker.aws.asked == 3
        over = [end - (NOON + timedelta(hours=1)) for end in broker.aws.live.values() if end is not None]
        assert max(over) <= timedelta(0)
