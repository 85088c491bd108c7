"""What happens without anybody asking: ends of sessions, silence, the sweep, the rollup of what is only counted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from broker.audit.entry import Journal
from broker.audit.rollup import BoundedDenials
from broker.errors import BrokerError
from broker.leases.desk import IDLE_AFTER
from broker.leases.ending import Ending
from broker.leases.table import Table
from broker.ledger import Ledger
from broker.moment import Moment
from broker.session import SessionState

log = logging.getLogger("credbroker.upkeep")

_TICK = 1.0  # seconds between looks at ends and silence
_SWEEP_EVERY = 5.0
_ROLLUP_EVERY = 60.0


class Upkeep:
    """Three small loops. One that fails says so in the log and goes on: none of them may end silently."""

    def __init__(
        self,
        *,
        table: Table,
        ending: Ending,
        ledger: Ledger,
        journal: Journal,
        rollup: BoundedDenials,
        rolled_up: Callable[[str, str, int], None],
        clock: Callable[[], Moment],
    ) -> None:
        """`rolled_up` is told what each rollup entry counts: code, listener, count."""
        self._table = table
        self._ending = ending
        self._ledger = ledger
        self._journal = journal
        self._rollup = rollup
        self._rolled_up = rolled_up
        self._clock = clock
        self._rolled_at = clock()

    async def resume(self) -> None:
        """After a start: every live session of the store, cold, with its silence counted anew (DESIGN 3.6)."""
        now = self._clock()
        for session in await self._ledger.live_sessions():
            if self._table.by_id(session.session_id) is None:
                self._table.add(session, None, now)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._every(_TICK, self.end_what_is_over))
            loops.create_task(self._every(_SWEEP_EVERY, self._ending.sweep))
            loops.create_task(self._every(_ROLLUP_EVERY, self.write_rollup))

    async def end_what_is_over(self) -> None:
        """Sessions past their end, and silent ones: opened with a heartbeat that fell silent, or with a resume key and not used.

        Of the second kind the opener was killed before it had the answer: who sends a resume key uses the handle at once.
        Nobody else could end it, and it would keep the job's other commands out for as long as the token lives.
        """
        now = self._clock()
        for live in self._table:
            if live.state is not SessionState.LIVE:
                continue
            if now.mono >= live.mono_expires:
                self._ending.start(live, SessionState.EXPIRED, "its end was reached")
            elif now.mono - live.mono_seen < IDLE_AFTER.total_seconds():
                continue
            elif live.session.heartbeat:
                self._ending.start(live, SessionState.IDLE, "its heartbeat fell silent")
            elif live.session.resume_hash is not None and not live.presented:
                self._ending.start(live, SessionState.IDLE, "nobody came with its handle")

    async def write_rollup(self) -> None:
        """One entry for everything that was counted since the last one; none when nothing was.

        Raises what the ledger raises, and then everything is counted still. Of a commit whose outcome is unknown that may count
        some refusals twice, which is better than not at all.
        """
        now = self._clock()
        counts = self._rollup.drain(now)
        if counts:
            entry = self._journal.rollup(at=now.wall, since=self._rolled_at.wall, counts=counts)
            try:
                await self._ledger.commit([], [entry])
            except BaseException:
                self._rollup.restore(counts)
                raise
            for counted in counts:
                self._rolled_up(*counted)
        self._rolled_at = now

    async def stop(self) -> None:
        """The last rollup: what was refused in the broker's last minute is in the log as well, if that can be written."""
        try:
            await self.write_rollup()
        except BrokerError as error:
            log.warning("upkeep.last_rollup_unwritten", extra={"code": error.code.word, "detail": error.detail})

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except BrokerError as error:
                log.warning("upkeep.failed", extra={"code": error.code.word, "detail": error.detail})
            except Exception:
                log.exception("upkeep.broke")
