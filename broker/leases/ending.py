"""The end of a session, and the sweep that finishes what a crash or an outage left."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from broker.audit.entry import About, Journal
from broker.errors import BrokerError, Refused, Unavailable
from broker.leases.revocation import Issued, Revocation
from broker.leases.rotation import Rotation
from broker.leases.table import LiveSession, Table
from broker.leasing import not_revocable_until
from broker.ledger import CloseSession, Ledger, SettleIntent, StoredIntent
from broker.moment import Moment
from broker.refusing import about_session
from broker.session import Session, SessionState, new_id
from broker.upstream import Held

log = logging.getLogger("credbroker.ending")

_SWEEP_FIRST = 5.0  # seconds until a revocation that failed is tried again; doubles up to
_SWEEP_MOST = 300.0
_SWEEP_AT_ONCE = 8  # half of the upstream pool's threads: the rest is for who is waiting for a credential


@dataclass(slots=True)
class _Unfinished:
    """An end on its way: what is still to be written and taken back."""

    live: LiveSession
    reason: str
    closed: bool  # the store knows that it is over
    issued: Sequence[Issued] | None = None  # None: not gathered yet
    not_revocable_until: datetime | None = None
    trying: asyncio.Lock = field(default_factory=asyncio.Lock)


class Ending:
    """Ends sessions. Every step is tried again until it is done or nothing is left to do."""

    def __init__(
        self,
        *,
        table: Table,
        rotation: Rotation,
        revocation: Revocation,
        ledger: Ledger,
        journal: Journal,
        clock: Callable[[], Moment],
    ) -> None:
        self._table = table
        self._rotation = rotation
        self._revocation = revocation
        self._ledger = ledger
        self._journal = journal
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished: dict[str, _Unfinished] = {}  # by session id
        self._waits: dict[str, tuple[float, float]] = {}  # session or intent id: (try again at, wait after that)

    def start(self, live: LiveSession, state: SessionState, reason: str) -> None:
        """End a session in the background. It serves nothing from this call on. Nothing happens to one that is over."""
        if self._begin(live, state, reason, closed=False):
            task = asyncio.get_running_loop().create_task(self._finish_quietly(live.session.session_id, reason, new_id()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self, live: LiveSession, state: SessionState, reason: str, correlation_id: str) -> None:
        """End a session and take back what it was issued. Idempotent.

        From this call on its handle is refused, whatever the log and the upstreams answer. Raises what the ledger or an
        upstream raised when not all of it could be done now; the sweep tries the rest again.
        """
        if self._begin(live, state, reason, closed=False):
            await self._finish(live.session.session_id, reason, correlation_id)

    async def end_again(self, live: LiveSession, correlation_id: str) -> None:
        """What an end that was asked for before has left, if anything. Raises as `end` does."""
        await self._finish(live.session.session_id, "sweep", correlation_id)

    async def take_back_replaced(self, session_id: str, correlation_id: str) -> None:
        """The leases of a session that a resumed exchange has closed already."""
        live = self._table.by_id(session_id)  # one that is not here the sweep finds in the store
        if live is not None and self._begin(live, SessionState.REVOKED, "resumed", closed=True):
            await self._finish_quietly(session_id, "resumed", correlation_id)

    async def sweep(self) -> None:
        """Ends that were not completed, sessions that ended with leases still alive, intents past their deadline.

        Raises what the ledger's reads raise. Each is tried whatever the others meet, and what fails again after a growing wait.
        """
        works: dict[str, Callable[[], Awaitable[None]]] = {
            session_id: partial(self._finish, session_id, "sweep", new_id()) for session_id in self._unfinished
        }
        now = self._clock().wall
        for session in await self._ledger.lapsed(now):
            works.setdefault(session.session_id, partial(self._sweep_session, session))
        for intent in await self._ledger.overdue_intents(now):
            works[intent.intent_id] = partial(self._sweep_intent, intent)
        # Several at once: an upstream that hangs must not keep what another one would revoke at once waiting behind it.
        turns = asyncio.Semaphore(_SWEEP_AT_ONCE)
        await asyncio.gather(*(self._try(name, work, turns) for name, work in works.items()))
        self._waits = {name: wait for name, wait in self._waits.items() if name in works}

    async def drain(self) -> None:
        """Until no ending is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- how ---------------------------------------------------------------------------------------------------------

    def _begin(self, live: LiveSession, state: SessionState, reason: str, *, closed: bool) -> bool:
        """The session is over for whoever asks, and its end is on the list; False when it was already."""
        if live.state is not SessionState.LIVE:
            return False
        live.state = state
        self._unfinished[live.session.session_id] = _Unfinished(live, reason, closed=closed)
        return True

    async def _finish(self, session_id: str, reason: str, correlation_id: str) -> None:
        """One more try at an end. When it raises, what is left stays for the next one."""
        rest = self._unfinished.get(session_id)
        if rest is None:
            return
        async with rest.trying:
            if session_id in self._unfinished:
                await self._go_on(session_id, rest, reason, correlation_id)

    async def _go_on(self, session_id: str, rest: _Unfinished, reason: str, correlation_id: str) -> None:
        live = rest.live
        if rest.issued is None:
            rest.issued = await self._stop(live)
            rest.not_revocable_until = not_revocable_until(rest.issued, self._clock())
            # From here on the ids, and the tokens that revoke, are all that is kept.
            live.key = None
            live.slots.clear()
        try:
            if not rest.closed:
                await self._close(rest, correlation_id)
        finally:
            # Revoking never waits for the log (DESIGN 3.11).
            rest.issued, error = await self._revocation.take_back(live.session, rest.issued, reason, correlation_id)
        if not rest.issued:
            del self._unfinished[session_id]
            self._table.remove(live)
        if error is not None:
            raise error

    async def _try(self, name: str, work: Callable[[], Awaitable[None]], turns: asyncio.Semaphore) -> None:
        """One item of the sweep. A failure is this item's alone, a bug too: it must not keep the others from being revoked."""
        now = self._clock()
        due, wait = self._waits.get(name, (0.0, _SWEEP_FIRST))
        under_way = name in self._unfinished and self._unfinished[name].trying.locked()
        if under_way or now.mono < due:
            return
        try:
            async with turns:
                await work()
        except BrokerError as error:
            log.warning("sweep.waits", extra={"id": name, "code": error.code.word, "detail": error.detail})
        except Exception:
            log.exception("sweep.broke", extra={"id": name})
        else:
            self._waits.pop(name, None)
            return
        self._waits[name] = (now.mono + wait, min(_SWEEP_MOST, wait * 2))

    async def _finish_quietly(self, session_id: str, reason: str, correlation_id: str) -> None:
        """One try that nobody waits for. What it leaves, the sweep goes on with."""
        try:
            await self._finish(session_id, reason, correlation_id)
        except BrokerError as error:
            log.warning(
                "session.end_incomplete", extra={"session_id": session_id, "code": error.code.word, "detail": error.detail}
            )
        except Exception:
            log.exception("session.end_broke", extra={"session_id": session_id})

    async def _stop(self, live: LiveSession) -> list[Issued]:
        """No further credential comes to this session; all that did."""
        self._rotation.forget(live)
        flights = [slot.flight for slot in live.slots.values() if slot.flight is not None]
        if flights:
            await asyncio.wait(flights)  # each ends by itself within its upstream's deadline
        return await self._issued_to(live)

    async def _issued_to(self, live: LiveSession) -> list[Issued]:
        """As memory knows it, with the tokens that made it; and what only the store knows (a cold session)."""
        pairs = [pair for slot in live.slots.values() for pair in slot.all_held()]
        known = [Issued.of_lease(lease, held) for lease, held in pairs]
        if live.key is None:
            names = {one.lease_id for one in known}
            stored = await self._ledger.leases(live.session.session_id)
            known += [Issued.of_stored(lease) for lease in stored if lease.lease_id not in names]
        return known

    async def _close(self, rest: _Unfinished, correlation_id: str) -> None:
        session, state = rest.live.session, rest.live.state
        entry = self._journal.session_closed(
            at=self._clock().wall,
            about=about_session(session, correlation_id),
            state=state.value,
            reason=rest.reason,
            not_revocable_until=rest.not_revocable_until,
        )
        try:
            await self._ledger.commit([CloseSession(session_id=session.session_id, state=state)], [entry])
        except Refused:
            log.info("session.closed_already", extra={"session_id": session.session_id})
        rest.closed = True

    async def _sweep_session(self, session: Session) -> None:
        """One that ended while another process kept its leases, before a restart above all."""
        issued = [Issued.of_stored(lease) for lease in await self._ledger.leases(session.session_id)]
        _, error = await self._revocation.take_back(session, issued, "sweep", new_id())
        if error is not None:
            raise error

    async def _shares_login(self, session: Session, intent: StoredIntent) -> bool:
        """Whether a live session holds leases of the login that this intent used: revoking it now would cut them off."""
        live = self._table.by_id(session.session_id)
        if not intent.ids.accessor or live is None or live.state is not SessionState.LIVE:
            return False
        return any(lease.ids.accessor == intent.ids.accessor for lease in await self._ledger.leases(session.session_id))

    async def _sweep_intent(self, intent: StoredIntent) -> None:
        session = await self._ledger.session(intent.session_id)
        outcome = "nothing was issued under it that could be revoked"
        if session is not None and await self._shares_login(session, intent):
            outcome = "what it may have issued was made with the session's own login, and ends with that"
        elif intent.ids.accessor:
            try:
                await self._revocation.upstream(intent.ids.upstream).revoke([Held(ids=intent.ids, token=None)])
            except Unavailable:
                raise
            except BrokerError as error:
                outcome = f"could not be revoked ({error.code.word}): it waits for its expiry"
            else:
                outcome = "revoked by accessor"
        elif intent.ids.session_name:
            outcome = "an STS session of that name may exist: it lapses within its hour"
        entry = self._journal.intent_swept(
            at=self._clock().wall,
            about=About(
                correlation_id=new_id(),
                identity=session.identity if session else None,
                session_id=intent.session_id,
                environment=session.environment if session else "",
                grant=intent.grant,
                subpath=intent.subpath,
                policy_hash=session.policy_hash if session else "",
            ),
            upstream=intent.ids.upstream,
            intent_id=intent.intent_id,
            ids=intent.ids.named(),
            outcome=outcome,
        )
        try:
            await self._ledger.commit([SettleIntent(intent_id=intent.intent_id)], [entry])
        except Refused:
            log.info("sweep.intent_settled_meanwhile", extra={"intent_id": intent.intent_id})
