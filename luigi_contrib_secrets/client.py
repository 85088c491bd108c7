"""
The current lease of each grant, in this process: fetched when it is read, never by a thread.

A forked child starts with nothing: no lease, no lock that somebody held, no connection. The broker is the shared cache and
the place where concurrent requests become one; it renews, replaces and revokes. Here a lease is asked for again once its
`refresh_at` is past, served through an outage until its true end, and dropped at a refusal.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from luigi_contrib_secrets import session_file, settings, wire
from luigi_contrib_secrets.errors import SecretRefused, SecretUnavailable
from luigi_contrib_secrets.lease import ASK_AGAIN, Lease, Pin
from luigi_contrib_secrets.reference import Reference
from luigi_contrib_secrets.secret_str import SecretStr
from luigi_contrib_secrets.settings import Pinning

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
# With a valid lease at hand nobody waits long for a newer one; without, a broker may need an upstream's time to mint it.
_PATIENCE_WITH_A_LEASE = 5.0
_PATIENCE = 30.0


class _Entry:
    """What is known of one grant and subpath."""

    __slots__ = ("ask_at", "flight", "lease", "pins")

    def __init__(self) -> None:
        self.flight = threading.Lock()
        self.lease: Lease | None = None
        self.ask_at = 0.0
        self.pins: dict[int, Pin] = {}

    def serves(self, now: float, min_ttl: float) -> Lease | None:
        """The lease, if it is alive and has `min_ttl` left."""
        lease = self.lease
        return lease if lease is not None and lease.left(now) > min_ttl else None

    def swap(self, lease: Lease) -> None:
        self.lease = lease
        self.ask_at = lease.mono_refresh

    def drop(self) -> None:
        """A refusal is final: not for this read alone, but for what the threads are pinned to as well."""
        self.lease = None
        self.pins = {}


class Client:
    """One process's leases. `client()` gives the process's own."""

    def __init__(self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._now = now
        self._sleep = sleep
        self._entries: dict[str, _Entry] = {}
        self._pinning = Pinning()
        self.pid = os.getpid()

    def read(self, reference: Reference, *, task: str = "") -> SecretStr:
        """The live value of one field, of the version that this thread is pinned to. Raises SecretError."""
        entry = self._entry(reference)
        thread, now = threading.get_ident(), self._now()
        pin = entry.pins.get(thread)
        if pin is None or entry.lease is None or not pin.holds(reference.field, now, self._pinning):
            lease = self.current(reference, task=task)
            value = lease.value(reference.field)
            entry.pins[thread] = Pin(lease, reference.field, self._now())
            return value
        return pin.lease.value(reference.field)

    def current(self, reference: Reference, *, min_ttl: float = 0, task: str = "") -> Lease:
        """The newest lease worth having, alive for more than `min_ttl` seconds.

        Raises SecretRefused (final; what was cached is gone), SecretUnavailable (an outage, and nothing valid is left) and
        SecretMisconfigured.
        """
        entry = self._entry(reference)
        while True:
            now = self._now()
            usable = entry.serves(now, min_ttl)
            if usable is not None and now < entry.ask_at:
                return usable
            # With a lease to go on with, one caller asks and the others go on; without one, they wait for the one who asks.
            if not entry.flight.acquire(blocking=usable is None):
                assert usable is not None
                return usable
            try:
                now = self._now()
                usable = entry.serves(now, min_ttl)
                if usable is None or now >= entry.ask_at:
                    return self._ask(entry, reference, usable, min_ttl, task)
            finally:
                entry.flight.release()

    def _entry(self, reference: Reference) -> _Entry:
        path = reference.path
        entry = self._entries.get(path)
        # setdefault is atomic: two threads that come at once get the same entry, and so the same lock.
        return entry if entry is not None else self._entries.setdefault(path, _Entry())

    def _ask(self, entry: _Entry, reference: Reference, usable: Lease | None, min_ttl: float, task: str) -> Lease:
        try:
            if usable is None:
                lease = self._until_answered(reference, min_ttl, task)
            else:
                lease = self._once(reference, min_ttl, task, min(_PATIENCE_WITH_A_LEASE, usable.left(self._now())))
        except SecretUnavailable as outage:
            # Asked again soon, but not at every read; and only what is still alive by now goes on being served.
            entry.ask_at = self._now() + max(outage.retry_after, ASK_AGAIN)
            usable = entry.serves(self._now(), min_ttl)
            if usable is None:
                raise
            logger.warning("%s; version %d is served until %s", outage, usable.version, usable.expires_at)
            return usable
        except SecretRefused as refusal:
            if refusal.code != "ttl_unavailable":  # which says nothing against the lease that is there
                entry.drop()
            raise
        entry.swap(lease)
        return lease

    def _until_answered(self, reference: Reference, min_ttl: float, task: str) -> Lease:
        """Waits for a broker that is away, with growing jittered pauses, up to `[secrets] wait` and never past the session."""
        began, pause = self._now(), _FIRST_PAUSE
        while True:
            try:
                return self._once(reference, min_ttl, task, _PATIENCE)
            except SecretUnavailable as outage:
                left = self._patience_left(began)
                # Full jitter: forty children that saw the broker go do not all come back at once.
                wait = max(outage.retry_after, random.uniform(pause / 2, pause))  # noqa: S311  jitter, not a secret
                if not outage.again or wait >= left:
                    raise
            self._sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _patience_left(self, began: float) -> float:
        session_left = (session_file.load().expires_at - datetime.now(timezone.utc)).total_seconds()
        return min(settings.load().wait - (self._now() - began), session_left)

    def _once(self, reference: Reference, min_ttl: float, task: str, timeout: float) -> Lease:
        stated = settings.load()
        self._pinning = stated.pinning
        return wire.fetch(reference, stated, session_file.load(), min_ttl=min_ttl, task=task, timeout=timeout, clock=self._now)


_client = Client()


def client() -> Client:
    """The client of this process."""
    if _client.pid != os.getpid():
        _start_afresh()  # a fork that Python did not see, in a C extension
    return _client


def _start_afresh() -> None:
    """In a forked child the parent's locks may be held by threads that are not here, and its pins belong to them."""
    global _client  # noqa: PLW0603  the one process-wide state, and the reason for this function
    _client = Client()


os.register_at_fork(after_in_child=_start_afresh)
