"""What every ledger promises (broker/ledger.py), whatever it is stored in."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from broker.errors import Broken, Code, Refused, Unavailable
from broker.lease import UpstreamIds
from broker.ledger import CloseSession, EndLease, ExtendLease, NoteIds, SettleIntent, WriteLease
from broker.session import SessionState
from tests.contract.ledger_stores import SCRIPT, SqliteStore, a_lease_of, a_session, an_intent, issued, opening
from tests.strategies import NOON
from tests.unit.audit.samples import an_identity


@pytest.fixture(params=[SqliteStore])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = request.param(tmp_path / "broker.db")
    yield made
    await made.close()


# --- one transaction --------------------------------------------------------------------------------------------------------


async def test_state_and_entry_survive_reopening(store: SqliteStore) -> None:
    ledger, session = store.open(), a_session()
    entry = SCRIPT.opened()
    await ledger.commit([opening(session)], [entry])
    lease = await issued(ledger, session)
    await ledger.close()
    again = store.open()
    assert await again.session(session.session_id) == session
    assert await again.session_by_handle(session.handle_hash) == session
    [stored] = await again.leases(session.session_id)
    assert (stored.lease_id, stored.ids, stored.sealed) == (lease.lease_id, lease.ids, b"sealed bytes")
    assert (stored.refresh_at, stored.expires_at, stored.upstream_expires_at) == (
        lease.refresh_at,
        lease.expires_at,
        lease.upstream_expires_at,
    )
    assert store.entry_ids() == [entry.entry_id]
    assert store.verified().sound
    assert again.healthy()


async def test_a_refused_commit_leaves_nothing(store: SqliteStore) -> None:
    """Neither its earlier changes nor its entries."""
    ledger, one, two = store.open(), a_session(), a_session()
    await ledger.commit([opening(one)], [])
    intent = an_intent(one)
    with pytest.raises(Refused, match="live session already") as caught:
        await ledger.commit([intent, opening(two)], [SCRIPT.opened()])
    assert caught.value.code is Code.SESSION_EXISTS
    assert await ledger.session(two.session_id) is None
    assert await ledger.overdue_intents(NOON + timedelta(days=1)) == []
    assert store.entry_ids() == []
    assert ledger.healthy()


async def test_a_refused_commit_does_not_fail_its_neighbours(store: SqliteStore) -> None:
    """Commits that become durable together each have their own result."""
    ledger = store.open()
    await ledger.commit([opening(a_session())], [])
    entries = [SCRIPT.denied() for _ in range(40)]
    commits = [ledger.commit([opening(a_session())] if n % 2 else [], [entry]) for n, entry in enumerate(entries)]
    results = await asyncio.gather(*commits, return_exceptions=True)
    assert [isinstance(result, Refused) for result in results] == [n % 2 == 1 for n in range(40)]
    assert store.entry_ids() == [entry.entry_id for n, entry in enumerate(entries) if n % 2 == 0]
    assert store.verified().sound


async def test_an_entry_is_written_once(store: SqliteStore) -> None:
    ledger, entry = store.open(), SCRIPT.denied()
    await ledger.commit([], [entry])
    with pytest.raises(Broken) as caught:
        await ledger.commit([], [entry])
    assert "contradicts what is stored" in caught.value.detail
    assert store.entry_ids() == [entry.entry_id]
    assert ledger.healthy()


async def test_entries_stand_in_the_order_of_their_commits(store: SqliteStore) -> None:
    ledger, entries = store.open(), [SCRIPT.denied() for _ in range(600)]
    await asyncio.gather(*(ledger.commit([], [entry]) for entry in entries))
    assert store.entry_ids() == [entry.entry_id for entry in entries]
    assert store.verified().sound


async def test_a_cancelled_caller_does_not_undo_its_commit(store: SqliteStore) -> None:
    ledger, entry = store.open(), SCRIPT.denied()
    waiting = asyncio.ensure_future(ledger.commit([], [entry]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await ledger.close()
    assert store.entry_ids() == [entry.entry_id]


async def test_closing_writes_everything_first_and_then_takes_nothing(store: SqliteStore) -> None:
    ledger, entries = store.open(), [SCRIPT.denied() for _ in range(300)]
    waiting = [asyncio.ensure_future(ledger.commit([], [entry])) for entry in entries]
    await asyncio.sleep(0)
    await ledger.close()
    await asyncio.gather(*waiting)
    assert len(store.entry_ids()) == 300
    assert not ledger.healthy()
    with pytest.raises(Unavailable, match="stopping") as caught:
        await ledger.commit([], [SCRIPT.denied()])
    assert caught.value.code is Code.STORE_UNAVAILABLE
    with pytest.raises(Unavailable, match="stopping"):
        await ledger.session("x")


async def test_two_brokers_on_one_store_write_one_log(store: SqliteStore) -> None:
    one, two = store.open(), store.open()
    entries = [SCRIPT.denied() for _ in range(60)]
    await asyncio.gather(*((one, two)[n % 2].commit([], [entry]) for n, entry in enumerate(entries)))
    assert sorted(store.entry_ids()) == sorted(entry.entry_id for entry in entries)
    assert store.verified().sound
    assert one.healthy()
    assert two.healthy()


# --- sessions -----------------------------------------------------------------------------------------------------------------


async def test_of_fifty_exchanges_of_one_token_one_opens_a_session(store: SqliteStore) -> None:
    """Two brokers, fifty holders of one token, all at once."""
    ledgers = [store.open(), store.open()]
    sessions = [a_session() for _ in range(50)]
    results = await asyncio.gather(
        *(ledgers[n % 2].commit([opening(session)], [SCRIPT.opened()]) for n, session in enumerate(sessions)),
        return_exceptions=True,
    )
    refusals = [result for result in results if isinstance(result, Refused)]
    assert [refusal.code for refusal in refusals] == [Code.SESSION_EXISTS] * 49
    assert len(store.entry_ids()) == 1
    live = await ledgers[0].live_session("https://gitlab.example.com", "jti-1")
    assert live is not None
    assert live.session_id == sessions[results.index(None)].session_id


async def test_another_token_opens_its_own(store: SqliteStore) -> None:
    ledger = store.open()
    await ledger.commit([opening(a_session())], [])
    await ledger.commit([opening(a_session(identity=an_identity(jti="jti-2")))], [])
    await ledger.commit([opening(a_session(identity=an_identity(issuer="https://other.example.com")))], [])
    assert len(await ledger.live_sessions()) == 3


async def test_a_session_is_replaced_in_one_commit(store: SqliteStore) -> None:
    ledger, old, new = store.open(), a_session(), a_session()
    await ledger.commit([opening(old)], [])
    closing = CloseSession(session_id=old.session_id, state=SessionState.REVOKED)
    await ledger.commit([closing, opening(new, replaces=old.session_id)], [SCRIPT.closed(), SCRIPT.opened()])
    replaced = await ledger.session(old.session_id)
    assert replaced is not None
    assert replaced.state is SessionState.REVOKED
    live = await ledger.live_session("https://gitlab.example.com", "jti-1")
    assert live is not None
    assert live.session_id == new.session_id


async def test_a_replacement_lost_to_another_one_changes_nothing(store: SqliteStore) -> None:
    """Two resume at once: the second finds the session it would replace closed already."""
    ledger, old, new, late = store.open(), a_session(), a_session(), a_session()
    await ledger.commit([opening(old)], [])
    closing = CloseSession(session_id=old.session_id, state=SessionState.REVOKED)
    await ledger.commit([closing, opening(new, replaces=old.session_id)], [])
    with pytest.raises(Refused, match="was revoked") as caught:
        await ledger.commit([closing, opening(late, replaces=old.session_id)], [])
    assert caught.value.code is Code.SESSION_REVOKED
    with pytest.raises(Refused, match="live session already"):
        await ledger.commit([opening(late, replaces=old.session_id)], [])
    assert await ledger.session(late.session_id) is None


async def test_replacing_without_closing_is_a_bug_of_ours(store: SqliteStore) -> None:
    ledger, old = store.open(), a_session()
    await ledger.commit([opening(old)], [])
    with pytest.raises(Broken) as caught:
        await ledger.commit([opening(a_session(), replaces=old.session_id)], [])
    assert "was not closed in the same commit" in caught.value.detail
    assert ledger.healthy()  # nobody touched a row


async def test_a_token_opens_so_many_sessions_and_no_more(store: SqliteStore) -> None:
    ledger = store.open()
    for _ in range(3):
        session = a_session()
        await ledger.commit([opening(session, max_exchanges=3)], [])
        await ledger.commit([CloseSession(session_id=session.session_id, state=SessionState.CLOSED)], [])
    with pytest.raises(Refused, match="has opened 3 sessions") as caught:
        await ledger.commit([opening(a_session(), max_exchanges=3)], [])
    assert caught.value.code is Code.TOKEN_REPLAYED
    assert await ledger.opened("https://gitlab.example.com", "jti-1") == 3
    assert await ledger.opened("https://gitlab.example.com", "jti-2") == 0
    await ledger.commit([opening(a_session(), max_exchanges=4)], [])
    assert await ledger.opened("https://gitlab.example.com", "jti-1") == 4


async def test_the_count_outlives_the_session_and_not_the_token(store: SqliteStore) -> None:
    """Kept until `exp` and any leeway; by then no issuer's verifier takes the token."""
    ledger, session = store.open(), a_session(expires_at=NOON + timedelta(minutes=1))
    await ledger.commit([opening(session, max_exchanges=1)], [])
    store.clock.forward(timedelta(minutes=62))
    with pytest.raises(Refused, match="has opened 1 sessions"):
        await ledger.commit([opening(a_session(), max_exchanges=1)], [])
    store.clock.forward(timedelta(minutes=4))
    await ledger.commit([], [])  # a minute later rows nobody needs are gone
    await ledger.commit([opening(a_session(expires_at=store.clock.wall + timedelta(hours=1)), max_exchanges=1)], [])


async def test_a_session_past_its_end_does_not_live(store: SqliteStore) -> None:
    """Nobody has closed it yet, and still it keeps nobody out and takes no intent."""
    ledger, session = store.open(), a_session(expires_at=NOON + timedelta(minutes=10))
    await ledger.commit([opening(session)], [])
    store.clock.forward(timedelta(minutes=10))
    assert await ledger.live_session("https://gitlab.example.com", "jti-1") is None
    assert [s.session_id for s in await ledger.live_sessions()] == [session.session_id]
    with pytest.raises(Refused, match="session is over") as caught:
        await ledger.commit([an_intent(session)], [])
    assert caught.value.code is Code.SESSION_EXPIRED
    await ledger.commit([opening(a_session())], [])
    await ledger.commit([CloseSession(session_id=session.session_id, state=SessionState.EXPIRED)], [])


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        (SessionState.CLOSED, Code.SESSION_REVOKED, "ended by its job"),
        (SessionState.REVOKED, Code.SESSION_REVOKED, "was revoked"),
        (SessionState.IDLE, Code.SESSION_IDLE, "heartbeat fell silent"),
        (SessionState.EXPIRED, Code.SESSION_EXPIRED, "session is over"),
    ],
)
async def test_an_ended_session_says_how_it_ended(store: SqliteStore, state: SessionState, code: Code, words: str) -> None:
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [])
    intent = an_intent(session)
    await ledger.commit([intent], [])  # while it lives, it may
    await ledger.commit([CloseSession(session_id=session.session_id, state=state)], [])
    again = CloseSession(session_id=session.session_id, state=SessionState.CLOSED)
    write = WriteLease(intent_id=intent.intent_id, lease=a_lease_of(session), sealed=b"")
    for change in (again, an_intent(session), write, ExtendLease(lease=a_lease_of(session), sealed=b"")):
        with pytest.raises(Refused, match=words) as caught:
            await ledger.commit([change], [])
        assert caught.value.code is code
    ended = await ledger.session_by_handle(session.handle_hash)
    assert ended is not None
    assert ended.state is state
    assert await ledger.live_sessions() == []


async def test_a_session_nobody_opened_is_not_known(store: SqliteStore) -> None:
    ledger = store.open()
    with pytest.raises(Refused, match="no such session") as caught:
        await ledger.commit([CloseSession(session_id="nobody", state=SessionState.CLOSED)], [])
    assert caught.value.code is Code.HANDLE_INVALID
    assert await ledger.session("nobody") is None
    assert await ledger.session_by_handle(b"x" * 32) is None


async def test_heartbeats_are_kept_with_the_next_commit(store: SqliteStore) -> None:
    ledger, session, closed = store.open(), a_session(), a_session(identity=an_identity(jti="jti-2"))
    await ledger.commit([opening(session), opening(closed)], [])
    await ledger.commit([CloseSession(session_id=closed.session_id, state=SessionState.CLOSED)], [])
    for name in (session.session_id, closed.session_id, "nobody"):
        await ledger.seen(name, NOON + timedelta(minutes=1))
    await ledger.commit([], [SCRIPT.denied()])
    assert await ledger.session(session.session_id) == replace(session, last_seen=NOON + timedelta(minutes=1))
    left = await ledger.session(closed.session_id)
    assert left is not None
    assert left.last_seen == NOON
    await ledger.seen(session.session_id, NOON)  # an older one does not turn the clock back
    await ledger.close()
    again = await store.open().session(session.session_id)
    assert again is not None
    assert again.last_seen == NOON + timedelta(minutes=1)


async def test_heartbeats_need_no_commit(store: SqliteStore) -> None:
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [])
    await ledger.seen(session.session_id, NOON + timedelta(minutes=1))
    async with asyncio.timeout(20):
        while (found := await ledger.session(session.session_id)) is None or found.last_seen == NOON:
            await asyncio.sleep(0.05)


# --- intents and leases -------------------------------------------------------------------------------------------------------


async def test_an_intent_becomes_a_lease_once(store: SqliteStore) -> None:
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [])
    intent = an_intent(session)
    await ledger.commit([intent], [])
    await ledger.commit([NoteIds(intent_id=intent.intent_id, ids=UpstreamIds(accessor="accessor-1"))], [])
    [noted] = await ledger.overdue_intents(intent.deadline + timedelta(seconds=1))
    assert noted.ids == replace(intent.ids, accessor="accessor-1")
    assert (noted.grant, noted.broker_id, noted.deadline) == (intent.grant, intent.broker_id, intent.deadline)
    write = WriteLease(intent_id=intent.intent_id, lease=a_lease_of(session), sealed=b"")
    await ledger.commit([write], [])
    assert await ledger.overdue_intents(intent.deadline + timedelta(seconds=1)) == []
    for change in (write, NoteIds(intent_id=intent.intent_id, ids=UpstreamIds())):
        with pytest.raises(Unavailable, match="nothing was handed out") as caught:
            await ledger.commit([change], [])
        assert caught.value.code is Code.UPSTREAM_UNAVAILABLE
    with pytest.raises(Refused, match="settled already"):
        await ledger.commit([SettleIntent(intent_id=intent.intent_id)], [])
    assert len(await ledger.leases(session.session_id)) == 1


async def test_an_intent_past_its_deadline_becomes_nothing(store: SqliteStore) -> None:
    """By the store's clock, in the transaction that would write the lease: a sweeper may be revoking already."""
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [])
    intent = an_intent(session)
    await ledger.commit([intent], [])
    store.clock.forward(timedelta(seconds=60))
    with pytest.raises(Unavailable, match="took longer") as caught:
        await ledger.commit([WriteLease(intent_id=intent.intent_id, lease=a_lease_of(session), sealed=b"")], [SCRIPT.issued("x")])
    assert caught.value.code is Code.UPSTREAM_UNAVAILABLE
    assert await ledger.leases(session.session_id) == []
    assert store.entry_ids() == []
    await ledger.commit([SettleIntent(intent_id=intent.intent_id)], [])


async def test_anothers_intent_makes_no_lease(store: SqliteStore) -> None:
    ledger, one, two = store.open(), a_session(), a_session(identity=an_identity(jti="jti-2"))
    await ledger.commit([opening(one), opening(two)], [])
    intent = an_intent(one)
    await ledger.commit([intent], [])
    with pytest.raises(Broken) as caught:
        await ledger.commit([WriteLease(intent_id=intent.intent_id, lease=a_lease_of(two), sealed=b"")], [])
    assert one.session_id in caught.value.detail


async def test_leases_come_oldest_first_until_they_are_known_to_be_gone(store: SqliteStore) -> None:
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [])
    first, second = await issued(ledger, session), await issued(ledger, session, version=2)
    assert [lease.lease_id for lease in await ledger.leases(session.session_id)] == [first.lease_id, second.lease_id]
    await ledger.commit([EndLease(lease_id=first.lease_id)], [])
    await ledger.commit([EndLease(lease_id=first.lease_id)], [])  # gone is gone
    assert [lease.lease_id for lease in await ledger.leases(session.session_id)] == [second.lease_id]


async def test_a_renewal_moves_the_ends_and_nothing_else(store: SqliteStore) -> None:
    ledger, session = store.open(), a_session()
    await ledger.commit([opening(session)], [])
    lease = await issued(ledger, session)
    later = replace(lease, expires_at=NOON + timedelta(minutes=55), upstream_expires_at=None)
    await ledger.commit([ExtendLease(lease=later, sealed=b"sealed again")], [SCRIPT.renewed()])
    [stored] = await ledger.leases(session.session_id)
    assert (stored.expires_at, stored.upstream_expires_at, stored.sealed) == (later.expires_at, None, b"sealed again")
    assert (stored.version, stored.issued_at) == (lease.version, lease.issued_at)
    await ledger.commit([EndLease(lease_id=lease.lease_id)], [])
    with pytest.raises(Refused, match="gone upstream"):
        await ledger.commit([ExtendLease(lease=later, sealed=b"")], [])


async def test_ended_sessions_with_open_leases_lapse(store: SqliteStore) -> None:
    """What somebody has to take back: not those that live, have nothing, or whose leases ended by themselves."""
    ledger = store.open()
    sessions = [a_session(identity=an_identity(jti=f"jti-{n}")) for n in range(4)]
    await ledger.commit([opening(session) for session in sessions], [])
    living, empty, ended, leased = sessions
    await issued(ledger, living)
    await issued(ledger, ended, upstream_expires_at=NOON + timedelta(minutes=1))
    await issued(ledger, leased)
    await issued(ledger, leased, upstream_expires_at=None)
    await ledger.commit([CloseSession(session_id=s.session_id, state=SessionState.CLOSED) for s in (empty, ended, leased)], [])
    lapsed = await ledger.lapsed(NOON + timedelta(minutes=2))
    assert [session.session_id for session in lapsed] == [leased.session_id]
    for lease in await ledger.leases(leased.session_id):
        await ledger.commit([EndLease(lease_id=lease.lease_id)], [])
    assert await ledger.lapsed(NOON) == [replace(ended, state=SessionState.CLOSED)]


async def test_rows_that_nobody_needs_go_and_the_version_to_count_from_stays(store: SqliteStore) -> None:
    ledger, session = store.open(), a_session(expires_at=NOON + timedelta(hours=3))
    gone = a_session(identity=an_identity(jti="jti-2"))
    await ledger.commit([opening(session), opening(gone)], [])
    await issued(ledger, session)
    second = await issued(ledger, session, version=2)
    await issued(ledger, gone)
    await ledger.commit([CloseSession(session_id=gone.session_id, state=SessionState.CLOSED)], [])
    store.clock.forward(timedelta(hours=2))
    await ledger.commit([], [SCRIPT.denied()])
    assert [lease.lease_id for lease in await ledger.leases(session.session_id)] == [second.lease_id]
    assert await ledger.leases(gone.session_id) == []
    assert await ledger.session(gone.session_id) is not None  # a late caller still hears that it was closed
    store.clock.forward(timedelta(days=1))
    await ledger.commit([], [SCRIPT.denied()])
    assert await ledger.session(gone.session_id) is None
