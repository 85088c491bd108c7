"""Vault and OpenBao: one login per (session, grant), credentials read with it, and their end."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from broker.errors import BrokerError, Code, Misconfigured, Refused
from broker.identity.claims import JobIdentity
from broker.lease import Kind, UpstreamIds
from broker.moment import Clock
from broker.policy.target import VaultTarget
from broker.secret import Secret
from broker.upstream import Held, LeftBehind, Minted, Note, Order, Renewed
from broker.upstreams.pool import UpstreamPool
from broker.upstreams.vault_answers import Doing
from broker.upstreams.vault_login import Asking, DeadToken, Login
from broker.upstreams.vault_revoke import Ending
from broker.upstreams.vault_values import read_secret, url_path
from broker.upstreams.vault_wire import Patience, VaultSettings, VaultWire

__all__ = ["Assertions", "Patience", "VaultSettings", "VaultUpstream"]

# A renewal that brings no more has met a maximum: look-ups cut to whole seconds, renewals round, and calls take their time.
_GROWTH = timedelta(seconds=3)

_log = logging.getLogger(__name__)


class Assertions(Protocol):
    """The broker as issuer, as far as an upstream needs it."""

    def for_job(
        self, identity: JobIdentity, environment: str, grant: str, audience: str, *, session_id: str, aws: bool
    ) -> Secret: ...

    def maintenance(self, audience: str) -> Secret: ...


class VaultUpstream:
    """One Vault or OpenBao server that trusts the broker as issuer (`via = "issuer"`). Implements `upstream.Upstream`."""

    def __init__(
        self,
        settings: VaultSettings,
        issuer: Assertions,
        pool: UpstreamPool,
        clock: Clock,
        patience: Patience = Patience(),  # noqa: B008 - frozen
    ) -> None:
        self._settings = settings
        self._issuer = issuer
        self._pool = pool
        self._clock = clock
        self._patience = patience
        self._wire = VaultWire(settings, pool.size, patience)

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> Kind:
        return "vault"

    def plan(self, order: Order) -> UpstreamIds:
        """Role and path. Raises Refused(template_value) for a path that would be read as another one."""
        target = _target(order)
        url_path(target)
        if not target.role.isprintable() or not target.role or "/" in target.role:
            raise Refused(
                Code.TEMPLATE_VALUE,
                "a value of this job does not fit into the name of a Vault role; rename what it comes from",
                detail=f"role {target.role!r}",
            )
        return UpstreamIds(upstream=self.name, role=target.role, path=target.path)

    async def issue(self, order: Order, note: Note) -> Minted:
        """A credential read with a login whose accessor was durable before.

        An earlier login is used again while it lives long enough; one that died in between is replaced once. A read that
        was sent is never sent again: what a time-out may have left behind is a lease of this accessor, and ends with it.
        """
        planned = self.plan(order)
        kept = await self._kept(order)
        if kept is not None:
            await note(replace(planned, accessor=kept.accessor, request_id=kept.request_id))
            try:
                return await self._read(order, planned, kept)
            except DeadToken:
                pass
        login = await self._login(order)
        try:
            await note(replace(planned, accessor=login.accessor, request_id=login.request_id))
            return await self._read(order, planned, login)
        except BaseException as error:
            # Nobody will hold this login, so it ends here, also when the caller went away.
            ended = await asyncio.shield(self._discard(order, login))
            if not ended and isinstance(error, BrokerError):
                raise LeftBehind(error) from None
            raise

    async def renew(self, order: Order, held: Held) -> Renewed:
        """The lease, and its login where that ends earlier, for longer.

        Raises Refused(ttl_unavailable) when a maximum is met and the end does not move any more; the lease then still lives
        to its end, and the caller issues a new one meanwhile. Any other Refused: lease or login are gone.
        """
        if not held.ids.lease_id:
            raise Refused(
                Code.TTL_UNAVAILABLE,
                f"the credential of grant {order.grant!r} has no lease to renew; it has to be read again",
            )
        asking = self._asking(order)
        if held.token is None:
            return await self._pool.run(self._renew_cold, asking, held.ids, deadline=self._patience.renew)
        return await self._pool.run(self._renew, asking, held.ids.lease_id, held.token, deadline=self._patience.renew)

    async def take_back(self, order: Order, minted: Minted) -> None:
        """What was minted for this order and may not be handed out is gone; an earlier login that it was read with lives on,
        since leases that are in use were made with it. A login of its own is ended with it. Raises like `revoke`.
        """
        held = minted.held
        shared = order.login is not None and order.login.ids.accessor == held.ids.accessor
        if not shared:
            await self.revoke([held])
        elif held.ids.lease_id:
            await self._pool.run(self._ending(self._asking(order)).end_lease, held, deadline=self._patience.revoke)

    async def revoke(self, helds: Sequence[Held]) -> None:
        """Every lease with `sync`, then its login, verified. Logins are ended one by one; the first failure is raised last."""
        logins: dict[str, list[Held]] = {}
        for held in helds:
            logins.setdefault(held.ids.accessor or held.ids.lease_id, []).append(held)
        ending = self._ending(self._asking(None))
        failures = [await self._ended(ending, group) for group in logins.values()]
        for failure in failures:
            if failure is not None:
                raise failure

    def close(self) -> None:
        """Closes the connections."""
        self._wire.close()

    def _asking(self, order: Order | None) -> Asking:
        """On behalf of an order, or of a revocation, which has none."""
        return Asking(
            wire=self._wire,
            settings=self._settings,
            clock=self._clock,
            correlation_id="" if order is None else order.correlation_id,
            what="a revocation" if order is None else f"grant {order.grant!r}",
        )

    def _ending(self, asking: Asking) -> Ending:
        return Ending(asking=asking, maintain=self._maintain(asking))

    async def _login(self, order: Order) -> Login:
        asking = self._asking(order)
        assertion = self._issuer.for_job(
            order.identity,
            order.environment,
            order.grant,
            self._settings.audience,
            session_id=order.session_id,
            aws=False,
        )
        # A login that comes after its deadline has an accessor that nobody noted: it is given back at once.
        return await self._pool.run(
            asking.login,
            _target(order).role,
            assertion,
            deadline=self._patience.login,
            late=lambda login: asking.forget(login.token),
        )

    async def _kept(self, order: Order) -> Login | None:
        """The earlier login, if it lives and will for a useful time: half of its first life, or of what is wanted."""
        held = order.login
        if held is None or held.token is None or held.ids.role not in ("", _target(order).role):
            return None
        asking = self._asking(order)
        return await self._pool.run(self._extend, asking, held, order.ttl, deadline=self._patience.login)

    def _extend(self, asking: Asking, held: Held, wanted: timedelta) -> Login | None:
        token = held.token
        assert token is not None
        try:
            state = asking.token_state(token)
            expires_at = state.expires_at
            useful = min(wanted, state.created_for) / 2
            if state.renewable and expires_at - self._clock().wall < useful:
                expires_at = asking.renew_token(token)
        except DeadToken:
            return None
        if expires_at - self._clock().wall < useful:
            return None
        return Login(
            token=token,
            accessor=held.ids.accessor,
            expires_at=expires_at,
            renewable=state.renewable,
            request_id=held.ids.request_id,
        )

    async def _read(self, order: Order, planned: UpstreamIds, login: Login) -> Minted:
        asking = self._asking(order)
        target = _target(order)
        asked = self._clock().wall
        answer = await self._pool.run(asking.ask, Doing.READ, "GET", url_path(target), login.token, deadline=self._patience.read)
        read = read_secret(answer, target, asked=asked, upstream=self.name, what=asking.what)
        ids = replace(
            planned,
            accessor=login.accessor,
            request_id=answer.request_id,
            lease_id=read.lease_id,
            kv_version=read.kv_version,
        )
        # A lease dies with the token that made it, whatever its own duration says (reference/vault.md 2.2).
        bounded = read.expires_at is not None and read.lease_id
        return Minted(
            fields=read.fields,
            held=Held(ids=ids, token=login.token),
            expires_at=min(read.expires_at, login.expires_at) if bounded and read.expires_at else read.expires_at,
            renewable=read.renewable,
            revocable=read.revocable,
            static=not read.lease_id,
        )

    async def _ended(self, ending: Ending, group: Sequence[Held]) -> BrokerError | None:
        try:
            await self._pool.run(ending.end, group, deadline=self._patience.revoke)
        except BrokerError as error:
            return error
        return None

    async def _discard(self, order: Order, login: Login) -> bool:
        asking = self._asking(order)
        try:
            failure = await self._pool.run(asking.forget, login.token, deadline=self._patience.login)
        except BrokerError as error:
            failure = error
        if failure is not None:
            _log.warning(
                "upstream %s: the login %s is of no use and could not be revoked: %s", self.name, login.accessor, failure.detail
            )
        return failure is None

    def _renew(self, asking: Asking, lease_id: str, token: Secret) -> Renewed:
        login = asking.token_state(token)
        before = min(asking.lease_end(token, lease_id), login.expires_at)
        lease_end, request_id = asking.renew_lease(token, lease_id)
        token_end = login.expires_at
        if login.renewable and token_end < lease_end:
            token_end = asking.renew_token(token)
        after = min(lease_end, token_end)
        if after <= before + _GROWTH:
            raise Refused(
                Code.TTL_UNAVAILABLE,
                f"the credential of {asking.what} has reached its longest life at upstream {self.name!r}; a new one is needed",
                detail=f"lease {lease_id} ends {after.isoformat()} before and after a renewal",
            )
        return Renewed(expires_at=after, request_id=request_id)

    def _renew_cold(self, asking: Asking, ids: UpstreamIds) -> Renewed:
        """By id, without the login's token: no growth is asked for, since a cold session gets nothing new instead."""
        maintain = self._maintain(asking)
        if maintain is None:
            raise Misconfigured(
                Code.UPSTREAM_CONFIG,
                f"a session whose handle the broker does not have cannot be renewed at upstream {self.name!r}: it has no "
                "`maintenance_role`",
                detail=f"lease {ids.lease_id}, accessor {ids.accessor}",
            )
        login = maintain()
        try:
            lease_end, request_id = asking.renew_lease(login.token, ids.lease_id)
            token_end = asking.renew_accessor(login.token, ids.accessor)
        finally:
            asking.forget(login.token)
        return Renewed(expires_at=min(lease_end, token_end), request_id=request_id)

    def _maintain(self, asking: Asking) -> Callable[[], Login] | None:
        """How the broker logs in for itself (`sub = broker:maintenance`, DESIGN 3.10); None without a role for that."""
        role = self._settings.maintenance_role
        if role is None:
            return None
        return lambda: asking.login(role, self._issuer.maintenance(self._settings.audience))


def _target(order: Order) -> VaultTarget:
    assert isinstance(order.target, VaultTarget), "wiring sends a Vault target to a Vault upstream"
    return order.target
