"""The story: what is written when, what is refused with which word, and that nothing is half-issued."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Code, Misconfigured, Refused, Unavailable
from tests.rig import LOOPBACK, POLICY, SOCKET, exchange_request, rig
from tests.strategies import NOON, identity

RESUME = "r" * 43


async def test_an_exchange_opens_a_session_and_mints_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        opened = await broker.desk.exchange(exchange_request())
        assert opened.session.environment == "production"
        assert set(opened.session.grants) == {"lake", "warehouse", "settings", "seldom"}
        assert broker.aws.asked == broker.vault.asked == 0
        (entry,) = broker.entries()
        assert entry["kind"] == "session_opened"
        assert entry["whole"]["metadata"]["uid"] == opened.session.receipt


async def test_a_session_ends_with_the_token_or_with_the_policy_whichever_is_first(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        feature = {"ref_path": "refs/heads/x", "ref_protected": False, "environment": "review"}
        broker.tokens.known["review"] = identity(jti="j2", claims=feature)
        production = await broker.desk.exchange(exchange_request())
        review = await broker.desk.exchange(exchange_request("review"))
        assert production.session.expires_at == NOON + timedelta(hours=1)
        assert review.session.expires_at == NOON + timedelta(minutes=30)


async def test_a_token_without_a_signature_is_counted_and_makes_no_entry(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        with pytest.raises(Refused, match="signature") as caught:
            await broker.open("forged")
        assert caught.value.code is Code.TOKEN_SIGNATURE
        assert broker.entries() == []
        await broker.upkeep.write_rollup()
        assert broker.kinds() == ["rollup"]
        assert broker.rolled_up == [("token_signature", "http", 1)]
        await broker.upkeep.write_rollup()
        assert broker.kinds() == ["rollup"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"wants": ("nothing",)}, Code.GRANT_UNKNOWN),
        ({"wants": ("lake", "nothing")}, Code.GRANT_UNKNOWN),
        ({"environment": "review"}, Code.ENVIRONMENT_MISMATCH),
    ],
)
async def test_one_denied_wish_refuses_all_and_is_an_entry(tmp_path: Path, changes: dict[str, Any], code: Code) -> None:
    async with rig(tmp_path) as broker:
        with pytest.raises(Refused) as caught:
            await broker.open(**changes)
        assert caught.value.code is code
        (entry,) = broker.entries()
        assert entry["kind"] == "denied"
        assert await broker.open(wants=("lake",), environment="production")  # the allowed twin


async def test_a_job_of_no_environment_is_told_its_own_claim_and_never_the_policy_s(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        broker.tokens.known["odd"] = identity(claims={"environment": "prod-test"})
        with pytest.raises(Refused) as caught:
            await broker.open("odd")
        assert caught.value.code is Code.NO_ENVIRONMENT
        assert "prod-test" in caught.value.public
        assert "production'" not in caught.value.public


async def test_a_grant_of_another_environment_is_denied(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        broker.tokens.known["review"] = identity(claims={"ref_path": "refs/heads/x", "ref_protected": False})
        with pytest.raises(Refused) as caught:
            await broker.open("review", wants=("warehouse",))
        assert caught.value.code is Code.GRANT_DENIED
        assert await broker.open("review", wants=("lake",))


# --- one session per token ------------------------------------------------------------------------------------------


async def test_a_second_exchange_while_the_session_lives_is_refused_and_said_to_be_possible_theft(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        await broker.open(resume_key=RESUME)
        for resume in (None, "s" * 43):
            with pytest.raises(Refused, match="somebody else holds the token") as caught:
                await broker.open(resume_key=resume)
            assert caught.value.code is Code.SESSION_EXISTS
        assert broker.meter.thefts == 2
        assert broker.kinds() == ["session_opened", "denied", "denied"]


async def test_the_same_resume_key_replaces_the_session_and_takes_back_what_it_had(tmp_path: Path) -> None:
    """A lost answer, a client killed at start (DESIGN 3.5)."""
    async with rig(tmp_path) as broker:
        lost = await broker.open(resume_key=RESUME)
        await broker.read(lost, "warehouse")
        broker.clock.forward(119)
        again = await broker.open(resume_key=RESUME)
        assert broker.vault.revoked == ["lease-1"]
        with pytest.raises(Refused) as caught:
            await broker.read(lost)
        assert caught.value.code is Code.SESSION_REVOKED
        assert (await broker.read(again)).version == 1


async def test_a_resume_key_is_worth_nothing_after_two_minutes(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        await broker.open(resume_key=RESUME)
        broker.clock.forward(121)
        with pytest.raises(Refused) as caught:
            await broker.open(resume_key=RESUME)
        assert caught.value.code is Code.SESSION_EXISTS


async def test_a_closed_session_lets_the_token_open_another_up_to_max_exchanges(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        for left in (7, 6, 5, 4, 3, 2, 1, 0):
            opened = await broker.desk.exchange(exchange_request())
            assert opened.left == left
            await broker.desk.close(opened.handle.reveal(), LOOPBACK, "c")
        with pytest.raises(Refused) as caught:
            await broker.open()
        assert caught.value.code is Code.TOKEN_REPLAYED


async def test_of_fifty_clients_with_one_token_exactly_one_gets_a_session(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        answers = await asyncio.gather(*(broker.open() for _ in range(50)), return_exceptions=True)
        opened = [answer for answer in answers if isinstance(answer, str)]
        refused = [answer.code for answer in answers if isinstance(answer, Refused)]
        assert len(opened) == 1
        assert refused == [Code.SESSION_EXISTS] * 49


async def test_a_refused_exchange_does_not_burn_the_token(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        for _ in range(20):
            with pytest.raises(Refused):
                await broker.open(wants=("nothing",))
        assert await broker.open()


# --- no entry, no credential ----------------------------------------------------------------------------------------


async def test_the_promise_is_written_before_the_upstream_is_asked(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.aws.gate = asyncio.Event()
        reading = asyncio.ensure_future(broker.read(handle))
        deadline = time.monotonic() + 20
        while broker.aws.asked == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        assert broker.kinds() == ["session_opened", "intent"]
        broker.aws.gate.set()
        lease = await reading
        assert broker.kinds()[-1] == "issued"
        assert broker.entries("issued")[0]["whole"]["metadata"]["uid"] == lease.receipt


@pytest.mark.parametrize(
    "error",
    [
        Refused(Code.UPSTREAM_DENIED, "no"),
        Unavailable(Code.UPSTREAM_UNAVAILABLE, "away"),
        Misconfigured(Code.UPSTREAM_CONFIG, "wrong role"),
    ],
)
async def test_an_upstream_that_gives_nothing_leaves_an_intent_with_its_outcome(
    tmp_path: Path, error: Refused | Unavailable | Misconfigured
) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.aws.faults = [error]
        with pytest.raises(type(error)) as caught:
            await broker.read(handle)
        assert caught.value.code is error.code
        assert broker.kinds() == ["session_opened", "intent", "intent_failed"]
        broker.clock.forward(3600)
        assert await broker.ledger.overdue_intents(broker.clock().wall) == []


async def test_a_session_that_ended_meanwhile_gets_nothing_and_what_was_minted_is_taken_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.gate = asyncio.Event()
        reading = asyncio.ensure_future(broker.read(handle, "warehouse"))
        deadline = time.monotonic() + 20
        while broker.vault.asked == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        closing = asyncio.ensure_future(broker.desk.close(handle, LOOPBACK, "c"))
        await asyncio.sleep(0)
        broker.vault.gate.set()
        await closing
        with pytest.raises(Refused) as caught:
            await reading
        assert caught.value.code is Code.SESSION_REVOKED
        assert broker.vault.live == {}
        assert broker.vault.tokens == set()


async def test_an_outcome_that_comes_after_the_intent_s_deadline_is_revoked_and_not_handed_out(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.vault.gate = asyncio.Event()
        reading = asyncio.ensure_future(broker.read(handle, "warehouse"))
        deadline = time.monotonic() + 20
        while broker.vault.asked == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        broker.clock.forward(61)
        broker.vault.gate.set()
        with pytest.raises((Refused, Unavailable)):
            await reading
        assert broker.vault.live == {}
        assert "issued" not in broker.kinds()


async def test_a_handle_is_bound_to_the_uid_that_got_it_over_the_socket(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open(peer=SOCKET)
        other = type(SOCKET)(transport="unix", uid=1001)
        for peer in (LOOPBACK, other):
            with pytest.raises(Refused) as caught:
                await broker.read(handle, peer=peer)
            assert caught.value.code is Code.HANDLE_PEER
        assert (await broker.read(handle, peer=SOCKET)).version == 1


async def test_the_luigi_task_is_logged_as_a_claim_of_the_caller(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        await broker.read(handle, luigi_task="Report__99914b932b")
        assert "Report__99914b932b" in str(broker.entries("issued")[0]["claimed"])


async def test_a_policy_that_no_longer_gives_it_ends_the_session_at_the_next_issuance(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        broker.change_policy(POLICY.replace('when.environment = "production"', 'when.environment = "other"'))
        with pytest.raises(Refused) as caught:
            await broker.read(handle)
        assert caught.value.code in (Code.NO_ENVIRONMENT, Code.SESSION_REVOKED)
        await broker.ending.drain()
        with pytest.raises(Refused) as caught:
            await broker.read(handle)
        assert caught.value.code is Code.SESSION_REVOKED
        assert broker.aws.asked == 0


async def test_signed_denials_past_the_rate_are_counted(tmp_path: Path) -> None:
    """A job cannot fill the log either."""
    async with rig(tmp_path) as broker:
        for _ in range(30):
            with pytest.raises(Refused):
                await broker.open(wants=("nothing",))
        assert broker.kinds() == ["denied"] * 20
        await broker.upkeep.write_rollup()
        assert broker.kinds()[-1] == "rollup"


async def test_a_door_that_can_only_hand_out_aws_keys_mints_nothing_else(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        with pytest.raises(Refused, match="not an AWS grant") as caught:
            await broker.read(handle, "warehouse", kind="aws")
        assert caught.value.code is Code.GRANT_UNKNOWN
        assert broker.vault.asked == 0
        assert (await broker.read(handle, "lake", kind="aws")).version == 1


async def test_a_token_within_its_leeway_opens_no_session(tmp_path: Path) -> None:
    """Leeway is for clocks; a session that ends before it begins is for nobody."""
    async with rig(tmp_path) as broker:
        broker.tokens.known["late"] = identity(expires_at=NOON)
        broker.tokens.known["in time"] = identity(expires_at=NOON + timedelta(seconds=1), jti="j9")
        with pytest.raises(Refused) as caught:
            await broker.open("late")
        assert caught.value.code is Code.TOKEN_EXPIRED
        assert await broker.open("in time")


@pytest.mark.parametrize("skew", [-61, 61])
async def test_with_a_clock_that_is_a_minute_off_nothing_new_is_issued(tmp_path: Path, skew: int) -> None:
    """What is there already is served (DESIGN 3.15)."""
    async with rig(tmp_path) as broker:
        handle = await broker.open()
        first = await broker.read(handle)
        broker.skew = timedelta(seconds=skew)
        assert (await broker.read(handle)).lease_id == first.lease_id
        with pytest.raises(Unavailable) as caught:
            await broker.read(handle, "warehouse")
        assert caught.value.code is Code.CLOCK_UNSAFE
        broker.skew = timedelta(seconds=59)
        broker.clock.forward(31)
        assert (await broker.read(handle, "warehouse")).version == 1
