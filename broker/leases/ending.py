"""The end of a session, and the sweep that finishes what a crash or an outage left."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from broker.audit.entry import About, Journal
from broker.errors import BrokerError, Refused, Unavailable
from broker.leases.revocation import Issued, Revocation
from broker.leases.rotation import Rotation
from broker.leases.table import LiveSession, Table
from broker.ledger import CloseSession, Ledger, SettleIntent, StoredIntent
from broker.moment import Moment
from broker.refusing import about_session
from broker.session import Session, SessionState, new_id
from broker.upstream import Held

log = logging.getLogger("credbroker.ending")

_SWEEP_FIRST = 5.0  # seconds until a revocation that failed is tried again; doubles up to
_SWEEP_MOST = 300.0


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
        self._busy: set[str] = set()  # sessions whose end is under way: not the sweep's business
        self._waits: dict[str, tuple[float, float]] = {}  # session id: (try again at, wait after that)

    def start(self, live: LiveSession, state: SessionState, reason: str) -> None:
        """End a session in the background. It serves nothing from this call on."""
        live.ending = True
        task = asyncio.get_running_loop().create_task(self._end_quietly(live, state, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self, live: LiveSession, state: SessionState, reason: str, correlation_id: str) -> None:
        """End a session and take back what it was issued. Idempotent.

        From this call on its handle is refused, whatever the log and the upstreams answer. Raises what the ledger or an
        upstream raised when not all of it could be done now; the sweep tries the rest again.
        """
        if live.state is not SessionState.LIVE:
            return
        live.state = state
        self._busy.add(live.session.session_id)
        try:
            issued = await self._stop(live)
            try:
                await self._close(live.session, state, reason, correlation_id, issued)
            finally:
                # Revoking never waits for the log (DESIGN 3.11).
                await self._revocation.take_back(live.session, issued, reason, correlation_id)
            live.key = None
            self._table.remove(live)
        finally:
            self._busy.discard(live.session.session_id)

    async def take_back_replaced(self, session_id: str, correlation_id: str) -> None:
        """The leases of a session that a resumed exchange has closed already."""
        live = self._table.by_id(session_id)
        if live is None or live.state is not SessionState.LIVE:
            return  # the sweep finds it in the store
        live.state = SessionState.REVOKED
        self._busy.add(session_id)
        try:
            issued = await self._stop(live)
            await self._revocation.take_back(live.session, issued, "resumed", correlation_id)
            self._table.remove(live)
        except BrokerError as error:
            log.warning("session.end_incomplete", extra={"session_id": session_id, "code": error.code.word})
        finally:
            self._busy.discard(session_id)

    async def sweep(self) -> None:
        """Sessions that ended with leases still alive, intents past their deadline.

        Raises what the ledger's reads raise. A session whose upstream is away is tried again after a growing wait.
        """
        now = self._clock()
        for session in await self._ledger.lapsed(now.wall):
            due, _ = self._waits.get(session.session_id, (0.0, 0.0))
            if session.session_id not in self._busy and now.mono >= due:
                await self._sweep_session(session, now)
        for intent in await self._ledger.overdue_intents(now.wall):
            await self._sweep_intent(intent)

    async def drain(self) -> None:
        """Until no ending is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- how ---------------------------------------------------------------------------------------------------------

    async def _end_quietly(self, live: LiveSession, state: SessionState, reason: str) -> None:
        try:
            await self.end(live, state, reason, new_id())
        except BrokerError as error:
            log.warning(
                "session.end_incomplete",
                extra={"session_id": live.session.session_id, "code": error.code.word, "detail": error.detail},
            )

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
        known = {lease.lease_id: Issued.of_lease(lease, held) for lease, held in pairs}
        if live.key is None:
            for stored in await self._ledger.leases(live.session.session_id):
                known.setdefault(stored.lease_id, Issued.of_stored(stored))
        return list(known.values())

    async def _close(
        self, session: Session, state: SessionState, reason: str, correlation_id: str, issued: Sequence[Issued]
    ) -> None:
        now = self._clock()
        beyond = [one.upstream_expires_at for one in issued if one.revocable == "none" and not one.past(now)]
        entry = self._journal.session_closed(
            at=now.wall,
            about=about_session(session, correlation_id),
            state=state.value,
            reason=reason,
            not_revocable_until=max((end for end in beyond if end is not None), default=None),
        )
        try:
            await self._ledger.commit([CloseSession(session_id=session.session_id, state=state)], [entry])
        except Refused:
            log.info("session.closed_already", extra={"session_id": session.session_id})

    async def _sweep_session(self, session: Session, now: Moment) -> None:
        live = self._table.by_id(session.session_id)
        if live is not None:
            issued = await self._issued_to(live)
        else:
            issued = [Issued.of_stored(lease) for lease in await self._ledger.leases(session.session_id)]
        try:
            await self._revocation.take_back(session, issued, "sweep", new_id())
        except BrokerError:
            _, wait = self._waits.get(session.session_id, (0.0, _SWEEP_FIRST))
            self._waits[session.session_id] = (now.mono + wait, min(_SWEEP_MOST, wait * 2))
            return
        self._waits.pop(session.session_id, None)
        if live is not None:
            self._table.remove(live)

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
            except Unavailable as error:
                log.warning("sweep.intent_waits", extra={"intent_id": intent.intent_id, "detail": error.detail})
                return
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
