"""What keeps one caller from taking everything: sizes and times at the door, and each project's turn at the exchange.

At the door a project is not known yet: only the signature says which it is. So the door bounds what strangers cost (sizes, times,
requests in flight), and the project's rate stands right behind the signature: `GatedVerifier` is a verifier that lets a verified
job wait its turn. Jobs of one project thus queue among themselves and never in front of another's.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from broker.errors import Code, Unavailable
from broker.exchanging import Verifier
from broker.identity.claims import JobIdentity
from broker.moment import Moment

_REMEMBERED_PROJECTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """DESIGN section 5's limits; the numbers come from `[limits]`."""

    body_bytes: int = 32 * 1024
    header_bytes: int = 16 * 1024
    token_chars: int = 20_000
    request_seconds: float = 10
    concurrency: int = 1024
    keep_alive_seconds: int = 65
    stop_seconds: int = 30

    @property
    def connections(self) -> int:
        """How many may be open, idle ones too."""
        return self.concurrency * 2


class ProjectGate:
    """At most `count` in `per` for each project, and a burst of `count`; the rest waits its turn, in order of arrival.

    With the default of 50/s, 500 exchanges of one project are all through within 10 s. Who would have to wait longer than
    `patience` is refused at once, with the time at which to come again.
    """

    def __init__(
        self,
        count: int,
        per: timedelta,
        *,
        patience: timedelta = timedelta(seconds=10),
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval = per.total_seconds() / count
        self._burst = per.total_seconds() - self._interval
        self._patience = patience.total_seconds()
        self._clock = clock
        self._sleep = sleep
        self._next: OrderedDict[tuple[str, str], float] = OrderedDict()  # when the next of a project is due, by GCRA

    async def enter(self, issuer: str, stable_id: str) -> None:
        """Returns when it is this project's turn. Raises Unavailable(rate_limited) when that is too far away."""
        key = (issuer, stable_id)
        now = self._clock()
        due = max(self._next.get(key, now), now)
        wait = due - self._burst - now
        if wait > self._patience:
            raise Unavailable(
                Code.RATE_LIMITED,
                f"too many jobs of project {stable_id} are opening sessions at once; try again later",
                retry_after=wait - self._patience,
            )
        self._next[key] = due + self._interval
        self._next.move_to_end(key)
        self._forget(now)
        if wait > 0:
            await self._sleep(wait)

    def _forget(self, now: float) -> None:
        """Drops projects whose turn is long past; memory is bounded by the rate at which distinct projects come."""
        while len(self._next) > _REMEMBERED_PROJECTS:
            key, due = next(iter(self._next.items()))
            if due > now:
                return
            del self._next[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedVerifier:
    """A verifier whose jobs, once verified, wait for their project's turn."""

    verifier: Verifier
    gate: ProjectGate

    async def verify(self, unverified_token: str, now: Moment) -> JobIdentity:
        """As the verifier behind it; Unavailable(rate_limited) too."""
        identity = await self.verifier.verify(unverified_token, now)
        await self.gate.enter(identity.issuer_name, identity.stable_id)
        return identity
