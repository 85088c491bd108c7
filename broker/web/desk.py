"""What the doors call. Implemented in `leases`, handed in by wiring; nothing in this room knows how a credential is made."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from broker.exchanging import Exchanged, ExchangeRequest, Peer
from broker.lease import Lease
from broker.leases.requests import ReadRequest, SessionView


class Desk(Protocol):
    """Every method raises Refused, Unavailable, Misconfigured or Broken, and nothing else on purpose."""

    async def exchange(self, request: ExchangeRequest) -> Exchanged:
        """A job token becomes a session; nothing is minted."""

    async def read(self, request: ReadRequest) -> Lease:
        """The current, valid lease of a grant: from memory, or minted within `patience`."""

    async def view(self, unverified_handle: str, peer: Peer) -> SessionView:
        """The session and its current leases, without their values."""

    async def heartbeat(self, unverified_handle: str, peer: Peer) -> None:
        """The job is alive."""

    async def close(self, unverified_handle: str, peer: Peer, correlation_id: str) -> None:
        """Ends the session; returns when its leases are gone upstream, or raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Why no credential can be issued now; nothing when it can. The sentences are for the admin socket alone."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The broker as an OIDC issuer: what others fetch to check its assertions. Public by nature."""

    discovery: Callable[[], Mapping[str, Any]]
    jwks: Callable[[], Mapping[str, Any]]


Ready = Callable[[], Awaitable[Readiness]]
