"""An upstream with opinions, for the tests of issuing and leases: it refuses what a real one, or the promise, would refuse.

It knows nothing of sessions. It hands out credentials with an end by the test's clock, revokes them, and remembers.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from broker.errors import BrokerError, Code, Refused, Unavailable
from broker.lease import Kind, Revocable, UpstreamIds
from broker.moment import Moment
from broker.secret import Secret
from broker.upstream import Held, LeftBehind, Minted, Note, Order, Renewed


class FakeUpstream:
    """Misuse is an AssertionError: a secret read before its accessor was noted, a revocation of what was never issued."""

    def __init__(
        self,
        clock: Callable[[], Moment],
        *,
        name: str = "aws",
        kind: Kind = "aws",
        life: timedelta | None = timedelta(hours=1),
        renewable: bool = False,
        revocable: Revocable = "none",
    ) -> None:
        self._clock = clock
        self._name = name
        self._kind = kind
        self.life = life
        self.renewable = renewable
        self.revocable = revocable
        self.value: str | None = None  # a static value, instead of a new one each time
        self.faults: list[BrokerError] = []  # the next calls raise these, in order
        self.gate: asyncio.Event | None = None  # issue() waits for it
        self.asked = 0
        self.orders: list[Order] = []
        self.live: dict[str, datetime | None] = {}  # by lease id
        self.tokens: set[str] = set()
        self.revoked: list[str] = []
        self.cold_revocations = 0
        self.leaves_behind = False  # a failing issue() cannot clean up after itself
        self.maximum: timedelta | None = None  # of a renewed lease, from its issue

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> Kind:
        return self._kind

    def plan(self, order: Order) -> UpstreamIds:
        return UpstreamIds(upstream=self._name, role="etl", session_name=f"gl-{order.session_id[:8]}")

    async def issue(self, order: Order, note: Note) -> Minted:
        self.asked += 1
        number = self.asked
        self.orders.append(order)
        if self.gate is not None:
            await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        ids = replace(self.plan(order), accessor=f"acc-{order.session_id[:6]}")
        token = Secret(f"token-{order.session_id}")
        await note(ids)
        if self.leaves_behind:
            self.live[f"lease-{number}"] = None
            raise LeftBehind(Unavailable(Code.UPSTREAM_UNAVAILABLE, "the connection broke"))
        lease_id = f"lease-{number}"
        now = self._clock()
        end = None if self.life is None else now.wall + min(self.life, max(order.ttl, timedelta(minutes=15)))
        self.live[lease_id] = end
        self.tokens.add(token.reveal())
        fields = {"username": Secret(f"user-{number}"), "password": Secret(f"pass-{number}")}
        return Minted(
            fields=fields if self.value is None else {"password": Secret(self.value)},
            held=Held(ids=replace(ids, lease_id=lease_id, request_id=f"req-{number}"), token=token),
            expires_at=end,
            renewable=self.renewable,
            revocable=self.revocable,
            static=self.value is not None,
        )

    async def renew(self, order: Order, held: Held) -> Renewed:
        self.asked += 1
        if self.faults:
            raise self.faults.pop(0)
        assert held.token is not None, "a renewal needs the token that made the lease"
        assert held.token.reveal() in self.tokens
        if held.ids.lease_id not in self.live or not self.renewable:
            raise Refused(Code.UPSTREAM_DENIED, "lease not found")
        assert self.life is not None
        end = self._clock().wall + self.life
        if self.maximum is not None:
            raise Refused(Code.UPSTREAM_DENIED, "near its maximum: issue a new one")
        self.live[held.ids.lease_id] = end
        return Renewed(expires_at=end, request_id="renewed")

    async def take_back(self, order: Order, minted: Minted) -> None:
        if order.login is None or order.login.ids.accessor != minted.held.ids.accessor:
            await self.revoke([minted.held])
        else:  # the login is older than this, and leases in use were made with it
            self.live.pop(minted.held.ids.lease_id, None)
            self.revoked.append(minted.held.ids.lease_id)

    async def revoke(self, helds: Sequence[Held]) -> None:
        assert helds, "nothing to revoke is not a call"
        assert len({held.ids.accessor for held in helds}) == 1, "one login at a time"
        if self.faults:
            raise self.faults.pop(0)
        for held in helds:
            self.cold_revocations += held.token is None
            if held.ids.lease_id:
                self.live.pop(held.ids.lease_id, None)
                self.revoked.append(held.ids.lease_id)
            else:
                self.live.clear()
        self.tokens.discard(next((held.token.reveal() for held in helds if held.token is not None), ""))
