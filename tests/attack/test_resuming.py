"""The same token twice: its own client, that lost an answer or asks twice at once, and somebody else."""

import asyncio
from pathlib import Path

import pytest

from broker.errors import Code, Refused, Unavailable
from broker.exchanging import Exchanged
from tests.rig import exchange_request, rig

KEY = "k" * 43
OTHER = "o" * 43


@pytest.mark.parametrize("opened_before", [False, True])
async def test_a_client_that_races_itself_is_no_thief(tmp_path: Path, opened_before: bool) -> None:
    """A retry that overtook its first try was told `session_exists` and counted as theft, or got a 401 for its token."""
    async with rig(tmp_path) as broker:
        if opened_before:
            await broker.desk.exchange(exchange_request(resume_key=KEY))
        racing = [broker.desk.exchange(exchange_request(resume_key=KEY)) for _ in range(3)]
        won = await asyncio.gather(*racing)
        assert broker.meter.thefts == 0
        (live,) = await broker.ledger.live_sessions()
        assert live.session_id in {one.session.session_id for one in won}
        assert broker.kinds().count("session_closed") == 2 + opened_before
        assert len(broker.table) == 1


async def test_of_two_keys_that_race_one_is_a_thief(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        racing = [broker.desk.exchange(exchange_request(resume_key=key)) for key in (KEY, OTHER)]
        results = await asyncio.gather(*racing, return_exceptions=True)
        assert sum(isinstance(result, Exchanged) for result in results) == 1
        (refused,) = [result for result in results if isinstance(result, Refused)]
        assert refused.code is Code.SESSION_EXISTS
        assert broker.meter.thefts == 1


async def test_racing_does_not_open_more_sessions_than_a_token_may(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        racing = [broker.desk.exchange(exchange_request(resume_key=KEY)) for _ in range(20)]
        results = await asyncio.gather(*racing, return_exceptions=True)
        assert sum(isinstance(result, Exchanged) for result in results) <= 8
        others = [result for result in results if not isinstance(result, Exchanged)]
        # Refused, or told to come again: twenty at once is nobody's second try.
        assert all(
            isinstance(other, Refused) or (isinstance(other, Unavailable) and other.code is Code.RATE_LIMITED) for other in others
        )
        assert len(await broker.ledger.live_sessions()) == 1


async def test_what_a_resumed_session_leaves_alive_is_said_with_its_end(tmp_path: Path) -> None:
    """An STS session lives on whoever resumed: `session_closed` said nothing of it when the reason was `resumed`."""
    async with rig(tmp_path) as broker:
        first = await broker.open(resume_key=KEY)
        lease = await broker.read(first)
        assert lease.upstream_expires_at is not None
        second = await broker.open(resume_key=KEY)
        (closed,) = broker.entries("session_closed")
        assert closed["reason"] == "resumed"
        assert closed["not_revocable_until"].startswith(lease.upstream_expires_at.strftime("%Y-%m-%dT%H:%M:%S"))

        # Nothing to say: it holds only what was taken back.
        await broker.read(second, "warehouse")
        await broker.open(resume_key=KEY)
        assert "not_revocable_until" not in broker.entries("session_closed")[1]
