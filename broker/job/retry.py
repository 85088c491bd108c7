"""Waiting for a broker that is away, for as long as the caller said and no longer."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from broker.errors import Code, Unavailable

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 10.0
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Patience:
    """One allowance of time, shared by everything that a command has to wait for.

    `wait` counts from the first failure of the command, so a slow success costs nothing. `told` hears of the first failure only.
    """

    wait: float
    told: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    _deadline: float | None = field(default=None, init=False)

    def call(self, ask: Callable[[], T], *, at_most: float | None = None) -> T:
        """What `ask` returns, asked again while it raises Unavailable and time is left; then its last error.

        `at_most` (seconds from now) is what remains of the job token: an exchange is never tried past its `exp`. A pause is
        what Retry-After says, else it doubles; jitter keeps jobs that failed together from coming back together.
        """
        ends = None if at_most is None else self.clock() + at_most
        pause = _FIRST_PAUSE
        while True:
            try:
                return ask()
            except Unavailable as error:
                now = self.clock()
                if self._deadline is None:
                    self._deadline = now + self.wait
                    if self.wait > 0:
                        self.told(f"{error.public}; trying again for up to {self.wait:g} s")
                deadline = self._deadline if ends is None else min(self._deadline, ends)
                delay = (error.retry_after or pause) + pause * self.chance()
                if now + delay > deadline:
                    delay = deadline - now  # one last try at the very end, when Retry-After allows it
                    if delay <= 0 or (error.retry_after or 0) > delay:
                        raise
            self.sleep(delay)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def time_is_up(self, what: str) -> Unavailable | None:
        """For a wait that is not a request (a lock): None while there is time, the error to raise when it has run out."""
        now = self.clock()
        if self._deadline is None:
            self._deadline = now + self.wait
        return None if now < self._deadline else Unavailable(Code.BROKER_UNREACHABLE, what)
