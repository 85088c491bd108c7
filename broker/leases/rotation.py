"""The current credential of each (session, grant, subpath): single flight, refreshed before anyone asks, never a gap."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import timedelta

from broker.errors import Broken, BrokerError, Code, Refused, Unavailable
from broker.issuing import Issuing
from broker.lease import Freshness, Lease, freshness
from broker.leases.rates import Rates
from broker.leases.requests import ReadRequest
from broker.leases.table import LiveSession, Slot
from broker.moment import Moment
from broker.policy.model import Policy
from broker.session import SessionState, new_id

log = logging.getLogger("credbroker.leases")

_BACKOFF_FIRST = 1.0  # seconds; doubles, with jitter, up to
_BACKOFF_MOST = 60.0
_POLICY_CODES = (Code.NO_ENVIRONMENT, Code.GRANT_DENIED, Code.GRANT_UNKNOWN)


class Rotation:
    """Reads and refreshes. `on_policy_refusal` ends a session whose stored identity the policy now answers differently."""

    def __init__(
        self,
        issuing: Issuing,
        policy: Callable[[], Policy],
        clock: Callable[[], Moment],
        on_policy_refusal: Callable[[LiveSession], None],
    ) -> None:
        self._issuing = issuing
        self._policy = policy
        self._clock = clock
        self._on_policy_refusal = on_policy_refusal
        self._rates = Rates()

    async def read(self, live: LiveSession, request: ReadRequest) -> Lease:
        """A lease that is valid now, and for `min_ttl` where one is asked for.

        A lease that is due is served while its successor is fetched; a dead one is waited for, up to `patience`. While an
        upstream is away the last lease is served to its own end. Raises Refused, Unavailable or Misconfigured.
        """
        now = self._clock()
        slot = live.slot(request.grant, request.subpath, now)
        lease = _served(slot, request.min_ttl, now)
        if lease is not None:
            if freshness(lease, now) is Freshness.DUE:
                self._start(live, slot, request.luigi_task, request.correlation_id)
            return lease

        if request.min_ttl is not None:
            self._require_possible(live, slot, request.min_ttl, now)
        flight = self._start(live, slot, request.luigi_task, request.correlation_id, anew=slot.lease is not None)
        if flight is not None:
            await _wait(flight, request.patience)
        now = self._clock()
        live.require_live(now)
        lease = _served(slot, request.min_ttl, now)
        if lease is not None:
            return lease
        if slot.failure is not None:
            raise _again(slot.failure, slot.retry_at - now.mono)
        if slot.lease is not None and request.min_ttl is not None and (flight is None or flight.done()):
            raise _ttl_unavailable(request.grant)
        raise Unavailable(
            Code.UPSTREAM_UNAVAILABLE,
            f"the credential for grant {request.grant!r} is still being fetched; ask again",
            retry_after=1,
        )

    def forget(self, live: LiveSession) -> None:
        """No timer of this session fires any more. A flight under way ends by itself: its commit finds no live session."""
        for slot in live.slots.values():
            if slot.timer is not None:
                slot.timer.cancel()
                slot.timer = None

    def plan(self, live: LiveSession, slot: Slot) -> None:
        """The next refresh of a slot that has a lease: at its `refresh_at`, or after the back-off of a failure."""
        if slot.timer is not None:
            slot.timer.cancel()
        if slot.lease is None or live.state is not SessionState.LIVE:
            return  # a flight that lands after the end must not keep the session's secrets in a timer
        at = max(slot.lease.mono_refresh, slot.retry_at)
        delay = max(0.0, at - self._clock().mono)
        slot.timer = asyncio.get_running_loop().call_later(delay, self._due, live, slot)

    # --- how ---------------------------------------------------------------------------------------------------------

    def _due(self, live: LiveSession, slot: Slot) -> None:
        """Before anyone asks: but only for a credential that somebody read during its life (DESIGN 3.8)."""
        slot.timer = None
        now = self._clock()
        lease = slot.lease
        if lease is None or freshness(lease, now) is Freshness.DEAD or slot.last_read < lease.mono_issued:
            return
        if freshness(lease, now) is Freshness.FRESH:  # the timer was a hair early
            self.plan(live, slot)
            return
        self._start(live, slot, None, new_id())

    def _start(
        self, live: LiveSession, slot: Slot, luigi_task: str | None, correlation_id: str, *, anew: bool = False
    ) -> "asyncio.Task[None] | None":
        """The one flight of this slot: the one under way, or a new one, or None while backing off from a failure."""
        if slot.flight is not None:
            return slot.flight
        if self._clock().mono < slot.retry_at or live.key is None or live.state is not SessionState.LIVE:
            return None
        slot.flight = asyncio.get_running_loop().create_task(self._fly(live, slot, luigi_task, correlation_id, anew=anew))
        return slot.flight

    async def _fly(self, live: LiveSession, slot: Slot, luigi_task: str | None, correlation_id: str, *, anew: bool) -> None:
        """Bring the next credential, or record why not. Never raises: whoever waits looks at the slot."""
        try:
            await self._bring(live, slot, luigi_task, correlation_id, anew=anew)
        except BrokerError as error:
            self._record(live, slot, error)
        except Exception as error:  # a bug must not leave the slot without an answer
            log.exception("lease.flight_broke", extra={"session_id": live.session.session_id, "grant": slot.grant})
            self._record(live, slot, Broken(f"{type(error).__name__} while issuing"))
        finally:
            slot.flight = None
            self.plan(live, slot)

    async def _bring(self, live: LiveSession, slot: Slot, luigi_task: str | None, correlation_id: str, *, anew: bool) -> None:
        key = live.key
        assert key is not None, "no flight starts for a cold session"
        lease, held, now = slot.lease, slot.held, self._clock()
        if (
            lease is not None
            and held is not None
            and lease.renewable
            and not anew
            and freshness(lease, now) is not Freshness.DEAD
        ):
            try:
                longer = await self._issuing.renew(live.session, key, lease, held, correlation_id)
            except Refused as refusal:
                if refusal.code in _POLICY_CODES:
                    raise
                # Gone upstream, or at its maximum: a new one, before the old one ends.
            else:
                slot.current(longer, held)
                return
        self._rates.admit(self._policy(), live.session, slot.grant, now)
        fresh, fresh_held = await self._issuing.issue(
            live.session,
            key,
            slot.grant,
            slot.subpath,
            previous=slot.last,
            login=held,
            luigi_task=luigi_task,
            correlation_id=correlation_id,
        )
        slot.current(fresh, fresh_held)
        log.info(
            "lease.issued",
            extra={
                "session_id": live.session.session_id,
                "grant": slot.grant,
                "lease_id": fresh.lease_id,
                "version": fresh.version,
                "correlation_id": correlation_id,
            },
        )

    def _record(self, live: LiveSession, slot: Slot, error: BrokerError) -> None:
        now = self._clock()
        slot.failure = error
        slot.failures += 1
        wait = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2 ** (slot.failures - 1)) * random.uniform(0.5, 1.0)  # noqa: S311  (spread, not secret)
        slot.retry_at = now.mono + max(wait, error.retry_after or 0.0)
        log.warning(
            "lease.refresh_failed",
            extra={
                "session_id": live.session.session_id,
                "grant": slot.grant,
                "code": error.code.word,
                "detail": error.detail,
                "failures": slot.failures,
            },
        )
        if isinstance(error, Refused):
            # Final: what policy or upstream no longer gives is not handed out from memory either. It dies with the session.
            slot.drop()
            if error.code in _POLICY_CODES:
                self._on_policy_refusal(live)

    def _require_possible(self, live: LiveSession, slot: Slot, min_ttl: timedelta, now: Moment) -> None:
        """Refuse what cannot be had before a credential is minted for it."""
        rest = live.mono_expires - now.mono
        full_life = None if slot.lease is None else slot.lease.mono_expires - slot.lease.mono_issued
        # Not a second more than the whole life, or each such request would mint a credential and then refuse it.
        if min_ttl.total_seconds() > rest or (full_life is not None and min_ttl.total_seconds() > full_life):
            raise _ttl_unavailable(slot.grant)


def _served(slot: Slot, min_ttl: timedelta | None, now: Moment) -> Lease | None:
    """The slot's lease, if it lives and lasts as long as it has to; it has been read then."""
    lease = slot.lease
    if lease is None or freshness(lease, now) is Freshness.DEAD:
        return None
    if min_ttl is not None and lease.mono_expires - now.mono < min_ttl.total_seconds():
        return None
    slot.last_read = now.mono
    return lease


def _ttl_unavailable(grant: str) -> Refused:
    return Refused(
        Code.TTL_UNAVAILABLE,
        f"no credential of grant {grant!r} lasts as long as min_ttl asks: the grant's ttl or the rest of the session is shorter",
    )


def _again(failure: BrokerError, wait: float) -> BrokerError:
    """The recorded failure as a fresh exception (one raised twice would grow a traceback), with the wait that is left."""
    retry_after = max(1.0, wait) if isinstance(failure, Unavailable) else None
    if isinstance(failure, Broken):
        return Broken(failure.detail)
    return type(failure)(failure.code, failure.public, detail=failure.detail, retry_after=retry_after)


async def _wait(flight: "asyncio.Task[None]", patience: timedelta | None) -> None:
    """Until the flight has landed, or patience ends; the flight goes on either way."""
    await asyncio.wait([flight], timeout=None if patience is None else patience.total_seconds())
