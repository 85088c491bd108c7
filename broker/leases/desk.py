"""What the doors call: one method per thing that a holder of a token or a handle may ask for."""

import logging
from collections.abc import Callable
from datetime import timedelta

from broker.errors import Broken, Code, Refused
from broker.exchanging import Exchanged, ExchangeRequest, Exchanging, Peer
from broker.lease import Lease
from broker.leases.ending import Ending
from broker.leases.requests import LeaseLine, Offer, ReadRequest, SessionView
from broker.leases.rotation import Rotation
from broker.leases.table import LiveSession, Table
from broker.leasing import open_lease
from broker.ledger import Ledger
from broker.moment import Moment
from broker.policy.decide import decide
from broker.policy.model import Allow, Deny, Grant, Policy
from broker.policy.target import AwsGrant
from broker.policy.templates import wildcard
from broker.refusing import Refusing, about_session, answer_now
from broker.sealing import SealKey
from broker.secret import Secret
from broker.session import Session, SessionState, handle_hash, refusal_of
from broker.upstream import kind_of

log = logging.getLogger("credbroker.desk")

IDLE_AFTER = timedelta(minutes=5)


class SessionDesk:
    """Implements what `web` calls a Desk."""

    def __init__(
        self,
        *,
        exchanging: Exchanging,
        refusing: Refusing,
        ledger: Ledger,
        table: Table,
        rotation: Rotation,
        ending: Ending,
        policy: Callable[[], Policy],
        region: Callable[[AwsGrant], str],
        clock: Callable[[], Moment],
    ) -> None:
        """`region` says where an AWS grant is used: its own region, or its upstream's."""
        self._exchanging = exchanging
        self._refusing = refusing
        self._ledger = ledger
        self._table = table
        self._rotation = rotation
        self._ending = ending
        self._policy = policy
        self._region = region
        self._clock = clock

    async def exchange(self, request: ExchangeRequest) -> Exchanged:
        """`Exchanging.exchange`, and the session is served from here on; what a resumed one was issued is taken back."""
        exchanged = await self._exchanging.exchange(request)
        session = exchanged.session
        live = self._table.add(session, SealKey(exchanged.handle, session.session_id), self._clock())
        if exchanged.replaced is not None:
            await self._ending.take_back_replaced(exchanged.replaced, request.correlation_id)
        await self._require_still_allowed(live, request.correlation_id)
        return exchanged

    async def read(self, request: ReadRequest) -> Lease:
        """The grant's current credential. Raises Refused, Unavailable or Misconfigured."""
        live = await self._enter(request.unverified_handle, request.peer)
        if request.grant not in live.session.grants:
            known = self._is_known(live, request.grant)
            raise await self._refusing.grant(live.session, request.grant, known, request.correlation_id)
        if request.kind == "aws" and not self._has_keys(live, request.grant):
            raise Refused(
                Code.GRANT_UNKNOWN, f"grant {request.grant!r} is not an AWS grant; read it at /v1/credentials/{request.grant}"
            )
        return await self._rotation.read(live, request)

    async def view(self, unverified_handle: str, peer: Peer) -> SessionView:
        live = await self._enter(unverified_handle, peer)
        lines = tuple(
            LeaseLine(
                grant=slot.grant,
                subpath=slot.subpath,
                version=slot.lease.version,
                refresh_at=slot.lease.refresh_at,
                expires_at=slot.lease.expires_at,
            )
            for slot in live.slots.values()
            if slot.lease is not None
        )
        answers = (answer_now(self._policy(), live.session, (name,)) for name in live.session.grants)
        offers = tuple(self._offer(answer.definitions[0]) for answer in answers if isinstance(answer, Allow))
        return SessionView(session=live.session, offers=offers, leases=lines)

    async def heartbeat(self, unverified_handle: str, peer: Peer) -> None:
        live = await self._enter(unverified_handle, peer)
        now = self._clock()
        live.mono_seen = now.mono
        await self._ledger.seen(live.session.session_id, now.wall)

    async def close(self, unverified_handle: str, peer: Peer, correlation_id: str) -> None:
        """RFC 7009: after this the session is over and its leases are revoked. Silent about one that is over already.

        Raises Refused(handle_invalid, handle_peer) and, when not everything could be revoked now, what stood in the way.
        """
        try:
            live = await self._enter(unverified_handle, peer)
        except Refused as refusal:
            if refusal.code not in (Code.SESSION_EXPIRED, Code.SESSION_IDLE, Code.SESSION_REVOKED):
                raise
            # Who was told that not everything is gone yet asks again: the answer is about the leases, not the state.
            ended = self._table.by_hash(handle_hash(unverified_handle))
            if ended is not None:
                await self._ending.end_again(ended, correlation_id)
            return
        await self._ending.end(live, SessionState.CLOSED, "closed by its holder", correlation_id)

    # --- how ---------------------------------------------------------------------------------------------------------

    def _offer(self, grant: Grant) -> Offer:
        kind = kind_of(grant.target)
        if isinstance(grant.target, AwsGrant):
            return Offer(grant=grant.name, kind=kind, subpath=False, region=self._region(grant.target) if kind == "aws" else None)
        return Offer(grant=grant.name, kind=kind, subpath=bool(wildcard(grant.target.path)), region=None)

    async def _require_still_allowed(self, live: LiveSession, correlation_id: str) -> None:
        """A policy that came into force while the session was written has not seen it."""
        policy = self._policy()
        if policy.hash == live.session.policy_hash:
            return
        answer = answer_now(policy, live.session, live.session.grants)
        if isinstance(answer, Deny):
            self._ending.start(live, SessionState.REVOKED, "the policy changed while the session was opened")
            about = about_session(live.session, correlation_id, policy_hash=policy.hash)
            raise await self._refusing.denied(answer, about, "session", self._clock())

    def _is_known(self, live: LiveSession, grant: str) -> bool:
        """Whether the policy has a grant of that name where this job is; an invented name is not put into the log."""
        decision = decide(self._policy(), live.session.identity, (grant,))
        return isinstance(decision, Allow) or decision.code is Code.GRANT_DENIED

    def _has_keys(self, live: LiveSession, grant: str) -> bool:
        """False for a grant of Vault or RDS alone: one that is denied by now is refused when it is issued, and logged there."""
        decision = decide(self._policy(), live.session.identity, (grant,))
        return isinstance(decision, Deny) or kind_of(decision.definitions[0].target) == "aws"

    async def _enter(self, unverified_handle: str, peer: Peer) -> LiveSession:
        """The live session of a handle that may be used from here. A cold one is warm afterwards."""
        digest = handle_hash(unverified_handle)
        live = self._table.by_hash(digest)
        if live is None:
            session = await self._ledger.session_by_handle(digest)
            if session is None:
                raise Refused(Code.HANDLE_INVALID, "this broker has no session of that handle; open one with the job token")
            _require_peer(session, peer)
            if session.state is not SessionState.LIVE:
                raise refusal_of(session.state)
            live = self._table.by_hash(digest) or self._table.add(session, None, self._clock())
        _require_peer(live.session, peer)
        live.require_live(self._clock())
        live.presented = True
        if live.key is None:
            await self._warm(live, Secret(unverified_handle))
        return live

    async def _warm(self, live: LiveSession, handle: Secret) -> None:
        """The handle is back after a restart: the key is derived and what was issued is opened again (DESIGN 3.9)."""
        async with live.warming:
            if live.key is not None:
                return
            key = SealKey(handle, live.session.session_id)
            found = await self._ledger.leases(live.session.session_id)
            now = self._clock()
            live.require_live(now)  # it may have ended meanwhile, and what it had been revoked
            for stored in sorted(found, key=lambda lease: lease.version):  # the order of rows is not authenticated
                try:
                    lease, held = open_lease(key, stored, now)
                except Broken as broken:
                    log.error("lease.seal_broken", extra={"lease_id": stored.lease_id, "detail": broken.detail})  # noqa: TRY400  (no traceback: it would carry the row)
                    continue
                slot = live.slot(stored.grant, stored.subpath, now)
                slot.current(lease, held)
                slot.last_read = now.mono
            live.key = key
            for slot in live.slots.values():
                self._rotation.plan(live, slot)


def _require_peer(session: Session, peer: Peer) -> None:
    """A handle obtained over the Unix socket is good for that uid, over that socket (DESIGN 3.12)."""
    if session.peer_uid is not None and (peer.transport != "unix" or peer.uid != session.peer_uid):
        raise Refused(
            Code.HANDLE_PEER,
            "this handle was obtained over the Unix socket by another user, and is good only for that user over that socket",
        )
