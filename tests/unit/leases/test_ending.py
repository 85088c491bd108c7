"""The end of a session: at once for its holder, revoked upstream, written down; and what a crash leaves is swept."""

from datetime import timedelta
from pathlib import Path

import pytest

from broker.errors import Code, Misconfigured, Refused, Unavailable
from broker.issuing import INTENT_DEADLINE
from broker.lease import UpstreamIds
from broker.leases.requests import Offer
from broker.ledger import NoteIds, WriteIntent
from broker.session import SessionState
from tests.rig import LOOPBACK, POLICY, rig

AWAY = Unavailable(Code.UPSTREAM_UNAVAILABLE, "away")


async def test_closing_revokes_every_lease_and_says_so(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        await broker.desk.close(handle, LOOPBACK, "c9")
        assert broker.vault.live == {}
        assert broker.kinds()[-2:] == ["session_closed", "revoked"]
        assert broker.entries("revoked")[0]["lease_id"]
        with pytest.raises(Refused) as caught:
            await broker.read(handle)
        assert caught.value.code is Code.SESSION_REVOKED


async def test_closing_twice_is_silent_and_writes_nothing_more(tmp_path: Path) -> None:
    """RFC 7009: idempotent."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.desk.close(handle, LOOPBACK, "c")
        before = broker.kinds()
        await broker.desk.close(handle, LOOPBACK, "c")
        assert broker.kinds() == before


async def test_what_cannot_be_taken_back_is_said_with_its_end(tmp_path: Path) -> None:
    """An AWS session lapses by itself; `session_closed` says when, and nothing claims that it was revoked."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        lease = await broker.read(handle)
        await broker.desk.close(handle, LOOPBACK, "c")
        (closed,) = broker.entries("session_closed")
        assert lease.upstream_expires_at is not None
        assert closed["not_revocable_until"].startswith(lease.upstream_expires_at.strftime("%Y-%m-%dT%H:%M:%S"))
        assert "revoked" not in broker.kinds()


async def test_an_upstream_that_is_away_ends_the_session_all_the_same_and_is_tried_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        broker.vault.faults = [AWAY]
        with pytest.raises(Unavailable):
            await broker.desk.close(handle, LOOPBACK, "c")
        with pytest.raises(Refused):
            await broker.read(handle)
        assert broker.kinds()[-1] == "revoke_failed"
        await broker.ending.sweep()
        assert broker.vault.live == {}
        assert broker.kinds()[-1] == "revoked"
        before = broker.kinds()
        await broker.ending.sweep()
        assert broker.kinds() == before


async def test_a_session_past_its_end_is_ended_without_anybody_asking(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        broker.clock.forward(3599)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert "session_closed" not in broker.kinds()
        broker.clock.forward(1)
        with pytest.raises(Refused) as caught:
            await broker.read(handle)
        assert caught.value.code is Code.SESSION_EXPIRED
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert broker.entries("session_closed")[0]["state"] == "expired"
        assert broker.vault.tokens == set()


async def test_silence_of_a_heartbeat_ends_the_session_and_a_heartbeat_keeps_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open(heartbeat=True)
        for _ in range(4):
            broker.clock.forward(240)
            await broker.desk.heartbeat(handle, LOOPBACK)
            await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert "session_closed" not in broker.kinds()
        broker.clock.forward(300)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert broker.entries("session_closed")[0]["state"] == "idle"
        with pytest.raises(Refused) as caught:
            await broker.read(handle)
        assert caught.value.code is Code.SESSION_IDLE


async def test_a_session_opened_without_a_heartbeat_is_not_idle(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.clock.forward(3000)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert (await broker.read(handle)).version == 1


async def test_a_session_whose_answer_got_lost_is_ended_after_five_minutes(tmp_path: Path) -> None:
    """Its opener was killed before it had the handle, and its resume key is good for two minutes only; then the token is free."""
    async with rig(tmp_path) as broker:
        await broker.open(resume_key="k" * 43)
        broker.clock.forward(299)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        with pytest.raises(Refused) as caught:
            await broker.open(resume_key="l" * 43)
        assert caught.value.code is Code.SESSION_EXISTS
        broker.clock.forward(1)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert broker.entries("session_closed")[0]["state"] == "idle"
        assert await broker.open(resume_key="l" * 43)


async def test_a_session_that_was_used_once_is_left_alone(tmp_path: Path) -> None:
    """The allowed twin: `get` has printed from it, and what was printed is to live."""
    async with rig(tmp_path) as broker:
        handle = await broker.open(resume_key="k" * 43)
        first = await broker.read(handle)
        broker.clock.forward(1500)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert (await broker.read(handle)).lease_id == first.lease_id


async def test_a_session_says_what_its_grants_are_before_anything_is_read(tmp_path: Path) -> None:
    """Kind, region, and which is a folder; without an intent, and without a grant that the policy has no longer."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        view = await broker.desk.view(handle, LOOPBACK)
        assert view.offers == (
            Offer(grant="lake", kind="aws", subpath=False, region="eu-central-1"),
            Offer(grant="warehouse", kind="vault", subpath=False, region=None),
            Offer(grant="settings", kind="vault", subpath=True, region=None),
            Offer(grant="seldom", kind="aws", subpath=False, region="eu-central-1"),
        )
        assert view.leases == ()
        assert broker.kinds() == ["session_opened"]
        broker.change_policy(POLICY.replace('name = "warehouse"', 'name = "other"'))
        view = await broker.desk.view(handle, LOOPBACK)
        assert [offer.grant for offer in view.offers] == ["lake", "settings", "seldom"]
        assert "warehouse" in view.session.grants


async def test_a_grant_that_the_policy_has_no_longer_ends_the_session_at_the_aws_door_too(tmp_path: Path) -> None:
    """As at the other door: decided again, refused, and the session that had it is over."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.change_policy(POLICY.replace('name = "lake"', 'name = "pond"'))
        with pytest.raises(Refused) as caught:
            await broker.read(handle, "lake", kind="aws")
        assert caught.value.code is Code.SESSION_REVOKED
        assert broker.entries("denied")[0]["code"] == "grant_unknown"
        assert broker.aws.asked == 0


async def test_after_a_restart_a_session_is_cold_until_its_handle_comes_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        first = await broker.read(handle, "warehouse")
        await broker.restart()
        (live,) = list(broker.table)
        assert live.key is None
        again = await broker.read(handle, "warehouse")
        assert again.lease_id == first.lease_id
        assert broker.vault.asked == 1


async def test_after_a_restart_a_lease_is_held_for_thirty_seconds_shorter(tmp_path: Path) -> None:
    """There is no monotonic end any more, so the wall clock's is not trusted to the last second (DESIGN 3.15)."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.aws.life = timedelta(minutes=20)
        await broker.read(handle)
        await broker.restart()
        broker.clock.forward(1165)
        assert (await broker.read(handle)).version == 1
        broker.clock.forward(6)
        assert (await broker.read(handle)).version == 2


async def test_a_cold_session_is_ended_by_id_without_its_handle(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        await broker.restart()
        broker.clock.forward(3601)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert broker.vault.cold_revocations == 0  # its lease has died by itself an hour after its birth
        assert broker.entries("session_closed")[0]["state"] == "expired"


async def test_a_cold_idle_session_is_revoked_upstream_by_maintenance(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open(heartbeat=True)
        await broker.read(handle, "warehouse")
        await broker.restart()
        broker.clock.forward(301)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        assert broker.vault.cold_revocations == 1
        assert broker.vault.live == {}


async def test_a_cold_lease_that_no_maintenance_may_revoke_waits_for_its_end(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open(heartbeat=True)
        await broker.read(handle, "warehouse")
        await broker.restart()
        broker.vault.faults = [Misconfigured(Code.UPSTREAM_CONFIG, "no maintenance_role")] * 50
        broker.clock.forward(301)
        await broker.upkeep.end_what_is_over()
        await broker.ending.drain()
        for _ in range(100):
            await broker.ending.sweep()
        assert broker.kinds().count("revoke_failed") <= 2  # it is tried again, with growing waits
        broker.clock.forward(3600)
        broker.vault.faults.clear()
        await broker.ending.sweep()
        assert await broker.ledger.lapsed(broker.clock().wall) == []


async def test_an_orphaned_intent_is_revoked_by_its_accessor_and_settled(tmp_path: Path) -> None:
    """What a crash between the login and the outcome leaves (DESIGN 3.4)."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        session = (await broker.desk.view(handle, LOOPBACK)).session
        now = broker.clock()
        intent = WriteIntent(
            intent_id="orphan",
            session_id=session.session_id,
            grant="warehouse",
            subpath="",
            broker_id="broker-0",
            deadline=now.wall + INTENT_DEADLINE,
            ids=UpstreamIds(upstream="vault", role="etl"),
        )
        await broker.ledger.commit([intent], [])
        await broker.ledger.commit([NoteIds(intent_id="orphan", ids=UpstreamIds(upstream="vault", accessor="acc-1"))], [])
        broker.vault.live["unseen"] = None
        await broker.ending.sweep()
        assert "intent_swept" not in broker.kinds()
        broker.clock.forward(61)
        await broker.ending.sweep()
        assert broker.vault.live == {}
        (swept,) = broker.entries("intent_swept")
        assert "revoked by accessor" in str(swept)
        before = broker.kinds()
        await broker.ending.sweep()
        assert broker.kinds() == before


async def test_an_orphaned_aws_intent_is_settled_with_the_name_of_the_session_that_may_exist(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        session = (await broker.desk.view(handle, LOOPBACK)).session
        intent = WriteIntent(
            intent_id="orphan",
            session_id=session.session_id,
            grant="lake",
            subpath="",
            broker_id="broker-0",
            deadline=broker.clock().wall + INTENT_DEADLINE,
            ids=UpstreamIds(upstream="aws", session_name="gl-4711-302-abcdefgh"),
        )
        await broker.ledger.commit([intent], [])
        broker.clock.forward(61)
        await broker.ending.sweep()
        (swept,) = broker.entries("intent_swept")
        assert "gl-4711-302-abcdefgh" in str(swept)
        assert "lapses" in str(swept)


async def test_what_a_failed_issuance_could_not_clean_up_is_swept_by_accessor(tmp_path: Path) -> None:
    """The caller has its error at once; the intent stays open until the sweeper has ended the login."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.leaves_behind = True
        with pytest.raises(Unavailable):
            await broker.read(handle, "warehouse")
        assert "intent_failed" not in broker.kinds()
        assert broker.vault.live
        broker.clock.forward(61)
        await broker.ending.sweep()
        assert broker.vault.live == {}
        assert broker.kinds()[-1] == "intent_swept"


async def test_an_orphan_of_a_login_that_is_in_use_does_not_cut_the_session_off(tmp_path: Path) -> None:
    """A crash in a rotation: the intent has the accessor that the served lease was made with."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        lease = await broker.read(handle, "warehouse")
        session = (await broker.desk.view(handle, LOOPBACK)).session
        ids = UpstreamIds(upstream="vault", accessor=lease.ids.accessor)
        intent = WriteIntent(
            intent_id="orphan",
            session_id=session.session_id,
            grant="warehouse",
            subpath="",
            broker_id="broker-0",
            deadline=broker.clock().wall + INTENT_DEADLINE,
            ids=ids,
        )
        await broker.ledger.commit([intent], [])
        broker.clock.forward(61)
        await broker.ending.sweep()
        assert set(broker.vault.live) == {"lease-1"}
        assert "the session's own login" in str(broker.entries("intent_swept")[0])
        await broker.desk.close(handle, LOOPBACK, "c")
        assert broker.vault.tokens == set()


async def test_an_unknown_handle_and_an_unknown_grant_each_have_their_code(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open(wants=("lake",))
        with pytest.raises(Refused) as caught:
            await broker.read(handle, "warehouse")
        assert caught.value.code is Code.GRANT_DENIED
        with pytest.raises(Refused, match="there is no grant 'nothing'; this session's grants are: lake") as caught:
            await broker.read(handle, "nothing")
        assert caught.value.code is Code.GRANT_UNKNOWN
        from broker.session import new_handle

        with pytest.raises(Refused) as caught:
            await broker.read(new_handle().reveal())
        assert caught.value.code is Code.HANDLE_INVALID


async def test_a_session_whose_end_was_started_serves_nothing_from_that_call_on(tmp_path: Path) -> None:
    """Not even to a reader who comes before the end has had its first turn."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, "warehouse")  # the allowed twin
        (live,) = broker.table
        broker.ending.start(live, SessionState.REVOKED, "an operator's reason")
        with pytest.raises(Refused, match="revoked") as caught:
            live.require_live(broker.clock())
        assert caught.value.code is Code.SESSION_REVOKED
        broker.ending.start(live, SessionState.IDLE, "a second reason, which comes too late")
        await broker.ending.drain()
        (closed,) = broker.entries("session_closed")
        assert (closed["state"], closed["reason"]) == ("revoked", "an operator's reason")
        assert broker.vault.live == {}
