"""The live sessions of this process, and what each holds. Only the event loop touches these."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.errors import BrokerError, Code, Unavailable
from broker.lease import Lease
from broker.moment import Moment
from broker.sealing import SealKey
from broker.session import Session, SessionState, refusal_of
from broker.upstream import Held

_MOST_SLOTS = 1000
_EMPTY_KEPT = 60.0  # seconds after its back-off


@dataclass(slots=True)
class Slot:
    """One (session, grant, subpath): the current lease, what it replaced, and the one flight that may be under way."""

    grant: str
    subpath: str
    lease: Lease | None = None
    held: Held | None = None
    last: Lease | None = None  # the newest there ever was: versions go on from it
    superseded: list[tuple[Lease, Held]] = field(default_factory=list)  # live to their own end, die with the session
    flight: "asyncio.Task[None] | None" = None
    timer: asyncio.TimerHandle | None = None
    last_read: float = float("-inf")  # monotonic
    failure: BrokerError | None = None  # the last flight's, until one succeeds
    failures: int = 0
    retry_at: float = float("-inf")  # monotonic; no flight before it

    def current(self, lease: Lease, held: Held) -> None:
        """Swap in a new credential, whole. The old one is neither renewed nor revoked: an open transaction keeps its role."""
        # A value that did not change may have been read with another login; the earlier one has to end, too.
        if (self.lease is not None and self.held is not None) and (
            (self.lease.lease_id, self.held.ids.accessor) != (lease.lease_id, held.ids.accessor)
        ):
            self.superseded.append((self.lease, self.held))
        self.lease, self.held, self.last = lease, held, lease
        self.failure, self.failures, self.retry_at = None, 0, float("-inf")

    def drop(self) -> None:
        """Stop serving what there is; it is taken back with the session."""
        if self.lease is not None and self.held is not None:
            self.superseded.append((self.lease, self.held))
        self.lease = self.held = None

    def empty(self, now: Moment) -> bool:
        """Never had a lease, and its last failure is long enough ago to be forgotten."""
        return self.last is None and self.flight is None and now.mono >= self.retry_at + _EMPTY_KEPT

    def all_held(self) -> list[tuple[Lease, Held]]:
        newest = [(self.lease, self.held)] if self.lease is not None and self.held is not None else []
        return self.superseded + newest


@dataclass(slots=True)
class LiveSession:
    """A session that this process serves. Cold (`key` is None) after a restart, until its handle is presented again."""

    session: Session
    key: SealKey | None
    mono_expires: float
    mono_seen: float
    presented: bool  # somebody has come with its handle; False from the exchange until then
    state: SessionState = SessionState.LIVE
    slots: dict[tuple[str, str], Slot] = field(default_factory=dict)
    warming: "asyncio.Lock" = field(default_factory=asyncio.Lock)

    def slot(self, grant: str, subpath: str, now: Moment) -> Slot:
        """The slot of that name. Raises Unavailable(rate_limited) when subpaths are being invented without end.

        A slot whose every issuance failed is kept for its back-off, or asking again would ask the upstream again at once.
        """
        if (grant, subpath) not in self.slots and len(self.slots) >= _MOST_SLOTS:
            for name in [name for name, slot in self.slots.items() if slot.empty(now)]:
                del self.slots[name]
        if (grant, subpath) not in self.slots and len(self.slots) >= _MOST_SLOTS:
            raise Unavailable(
                Code.RATE_LIMITED, f"this session reads {_MOST_SLOTS} different paths already; it can read no further ones"
            )
        return self.slots.setdefault((grant, subpath), Slot(grant=grant, subpath=subpath))

    def require_live(self, now: Moment) -> None:
        """Raises Refused with the code of the state it is in."""
        state = SessionState.EXPIRED if self.state is SessionState.LIVE and now.mono >= self.mono_expires else self.state
        if state is not SessionState.LIVE:
            raise refusal_of(state)


class Table:
    """Every live session, found by handle or by id."""

    def __init__(self) -> None:
        self._by_id: dict[str, LiveSession] = {}
        self._by_hash: dict[bytes, LiveSession] = {}

    def add(self, session: Session, key: SealKey | None, now: Moment) -> LiveSession:
        """The session, served from now on. Its end is a monotonic deadline from here on (DESIGN 3.15)."""
        live = LiveSession(
            session=session,
            key=key,
            mono_expires=now.mono + now.until(session.expires_at).total_seconds(),
            mono_seen=now.mono,
            presented=key is None,  # what a restart found: nobody can tell any more, so it counts as used
        )
        self._by_id[session.session_id] = live
        self._by_hash[session.handle_hash] = live
        return live

    def by_hash(self, handle_hash: bytes) -> LiveSession | None:
        return self._by_hash.get(handle_hash)

    def by_id(self, session_id: str) -> LiveSession | None:
        return self._by_id.get(session_id)

    def remove(self, live: LiveSession) -> None:
        self._by_id.pop(live.session.session_id, None)
        self._by_hash.pop(live.session.handle_hash, None)

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)
