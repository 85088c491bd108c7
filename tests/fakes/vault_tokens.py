"""Tokens, policies and leases of the OpenBao double: who may do what, and what dies with what."""

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.vault_parts import (
    PERMISSION_DENIED,
    POLICY_DENIED,
    Clock,
    RefusedError,
    Request,
    Response,
    answer,
    base62,
    capped,
    empty,
    rfc3339,
    seconds_of,
)

SYSTEM_TTL = 768 * 3600
_CAPABILITY = {"GET": {"read"}, "LIST": {"list"}, "POST": {"create", "update"}, "PUT": {"create", "update"}, "DELETE": {"delete"}}
_DEFAULT_POLICY = {
    "auth/token/lookup-self": ["read"],
    "auth/token/renew-self": ["update"],
    "auth/token/revoke-self": ["update"],
    "sys/leases/renew": ["update"],
    "sys/leases/lookup": ["update"],
    "cubbyhole/*": ["create", "read", "update", "delete", "list"],
}


@dataclass(kw_only=True)
class Token:
    id: str
    accessor: str
    policies: list[str]
    metadata: dict[str, str]
    display_name: str
    entity_id: str
    kind: str
    issued: float
    expires: float | None  # None: the root token
    period: int  # what a renewal gives
    ends: float | None  # the explicit or role maximum; None without one
    explicit_max: int
    uses_left: int
    renewable: bool
    renewed: float | None = None


@dataclass(kw_only=True)
class Lease:
    id: str
    path: str
    token: str
    issued: float
    expires: float
    period: int
    ends: float
    renewable: bool
    undo: Callable[[], None]  # raises ConnectionError while what is behind the lease is away
    renewable_now: Callable[[], None]
    renewed: float | None = None


@dataclass(kw_only=True)
class Tokens:
    """Tokens with their leases. Expiry is looked at before every request, as the server's timers would have done it."""

    clock: Clock
    policies: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {"default": dict(_DEFAULT_POLICY)})
    tokens: dict[str, Token] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    queued: dict[str, Lease] = field(default_factory=dict)
    answers_202: bool = False  # a revocation is accepted and not done, as older servers document it

    def tick(self) -> None:
        now = self.clock.now()
        for token in [t for t in self.tokens.values() if t.expires is not None and t.expires <= now]:
            self.end_token(token)
        for lease in [one for one in self.leases.values() if one.expires <= now]:
            self._queue(lease)
        if not self.answers_202:
            self.work_queue()

    def work_queue(self) -> None:
        for lease in list(self.queued.values()):
            try:
                lease.undo()
            except ConnectionError:
                continue
            del self.queued[lease.id]

    def known(self, request: Request) -> Token:
        token = self.tokens.get(request.token)
        if token is None:
            raise RefusedError(403, PERMISSION_DENIED)
        return token

    def allow(self, token: Token, method: str, path: str) -> None:
        if "root" in token.policies:
            return
        best: tuple[int, set[str]] = (-1, set())
        for rules in (self.policies.get(name, {}) for name in token.policies):
            for pattern, capabilities in rules.items():
                exact = pattern == path
                if not exact and not _covers(pattern, path):
                    continue
                rank = len(pattern) + (1000 if exact else 0)
                if rank > best[0]:
                    best = (rank, set(capabilities))
                elif rank == best[0]:
                    best = (rank, best[1] | set(capabilities))
        if "deny" in best[1] or not best[1] & _CAPABILITY[method]:
            raise RefusedError(403, POLICY_DENIED)

    def write_policy(self, name: str, text: str) -> None:
        """JSON policies only; the real server takes HCL, of which JSON is the other spelling."""
        rules = json.loads(text)["path"]
        self.policies[name] = {path: list(rule["capabilities"]) for path, rule in rules.items()}

    def create(self, role: dict[str, Any], *, user: str, metadata: dict[str, str], mount: str) -> Token:
        now = self.clock.now()
        kind = {"default": "service"}.get(role.get("token_type", "default"), role.get("token_type", "service"))
        ttl = seconds_of(role.get("token_ttl")) or SYSTEM_TTL
        explicit = seconds_of(role.get("token_explicit_max_ttl"))
        longest = min([n for n in (explicit, seconds_of(role.get("token_max_ttl"))) if n] or [SYSTEM_TTL])
        ttl = min(ttl, longest)
        plain = [] if role.get("token_no_default_policy") else ["default"]
        batch = kind == "batch"
        token = Token(
            id="b." + base62(300) if batch else "s." + base62(24),
            accessor="" if batch else base62(24),
            policies=sorted({*plain, *role.get("token_policies", [])}),
            metadata=metadata,
            display_name=f"{mount}-{user}",
            entity_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{mount}/{user}")),
            kind=kind,
            issued=now,
            expires=now + ttl,
            period=ttl,
            ends=now + longest,
            explicit_max=0 if batch else explicit,
            uses_left=int(role.get("token_num_uses", 0)),
            renewable=not batch,
        )
        self.tokens[token.id] = token
        return token

    def root(self, token_id: str) -> Token:
        token = Token(
            id=token_id,
            accessor=base62(24),
            policies=["root"],
            metadata={},
            display_name="root",
            entity_id="",
            kind="service",
            issued=self.clock.now(),
            expires=None,
            period=0,
            ends=None,
            explicit_max=0,
            uses_left=0,
            renewable=False,
        )
        self.tokens[token_id] = token
        return token

    def end_token(self, token: Token) -> None:
        self.tokens.pop(token.id, None)
        for lease in [one for one in self.leases.values() if one.token == token.id]:
            self._queue(lease)

    def auth(self, token: Token, ttl: int) -> dict[str, Any]:
        return {
            "client_token": token.id,
            "accessor": token.accessor,
            "policies": token.policies,
            "token_policies": token.policies,
            "metadata": token.metadata,
            "lease_duration": ttl,
            "renewable": token.renewable,
            "entity_id": token.entity_id,
            "token_type": token.kind,
            "orphan": True,
            "mfa_requirement": None,
            "num_uses": token.uses_left,
        }

    def lookup(self, token: Token, *, with_id: bool) -> Response:
        now = self.clock.now()
        left = 0 if token.expires is None else int(token.expires - now)
        data = {
            "accessor": token.accessor,
            "creation_time": int(token.issued),
            "creation_ttl": token.period,
            "display_name": token.display_name,
            "entity_id": token.entity_id,
            "expire_time": None if token.expires is None else rfc3339(token.expires),
            "explicit_max_ttl": token.explicit_max,
            "id": token.id if with_id else "",
            "issue_time": rfc3339(token.issued),
            "meta": token.metadata,
            "num_uses": token.uses_left,
            "orphan": True,
            "path": "auth/jwt/login",
            "policies": token.policies,
            "renewable": token.renewable,
            "ttl": left,
            "type": token.kind,
        }
        if token.renewed is not None:
            data |= {"last_renewal": rfc3339(token.renewed), "last_renewal_time": int(token.renewed)}
        return answer(data)

    def renew(self, token: Token, increment: int) -> Response:
        if token.kind == "batch":
            raise RefusedError(400, "batch tokens cannot be renewed")
        if not token.renewable or token.ends is None:
            raise RefusedError(400, "lease is not renewable")
        now = self.clock.now()
        ttl, warnings = capped(increment or token.period, round(token.ends - now))
        token.expires, token.renewed = now + ttl, now
        return answer(auth=self.auth(token, ttl), warnings=warnings)

    def revoke(self, token: Token) -> Response:
        if token.kind == "batch":
            raise RefusedError(400, "batch tokens cannot be revoked")
        self.end_token(token)
        if not self.answers_202:
            self.work_queue()
        return empty()

    def by_accessor(self, accessor: str) -> Token | None:
        return next((t for t in self.tokens.values() if accessor and t.accessor == accessor), None)

    def leased(self, lease: Lease) -> None:
        self.leases[lease.id] = lease

    def lease_request(self, verb: str, body: dict[str, Any]) -> Response:
        lease_id = body.get("lease_id")
        if not lease_id:
            raise RefusedError(400, "lease_id must be specified")
        lease = self.leases.get(lease_id)
        if verb == "revoke":
            return self._revoke_lease(lease, sync=bool(body.get("sync")))
        if lease is None:
            raise RefusedError(400, "lease not found" if verb == "renew" else "invalid lease")
        return self._renew_lease(lease, seconds_of(body.get("increment"))) if verb == "renew" else self._lookup_lease(lease)

    def _lookup_lease(self, lease: Lease) -> Response:
        return answer(
            {
                "expire_time": rfc3339(lease.expires),
                "id": lease.id,
                "issue_time": rfc3339(lease.issued),
                "last_renewal": None if lease.renewed is None else rfc3339(lease.renewed),
                "path": lease.path,
                "renewable": lease.renewable,
                "ttl": int(lease.expires - self.clock.now()),
            }
        )

    def _renew_lease(self, lease: Lease, increment: int) -> Response:
        if not lease.renewable:
            raise RefusedError(400, "lease is not renewable")
        try:
            lease.renewable_now()
        except ConnectionError as error:
            said = f"failed to renew entry: resp: (*logical.Response)(nil) err: 1 error occurred:\n\t* {error}\n\n"
            raise RefusedError(400, said) from None
        now = self.clock.now()
        ttl, warnings = capped(increment or lease.period, round(lease.ends - now))
        lease.expires, lease.renewed = now + ttl, now
        return answer(lease_id=lease.id, renewable=True, lease_duration=ttl, warnings=warnings)

    def _revoke_lease(self, lease: Lease | None, *, sync: bool) -> Response:
        if lease is None:
            return empty()
        if self.answers_202 and not sync:
            self._queue(lease)
            return empty(202)
        try:
            lease.undo()
        except ConnectionError as error:
            said = f"failed to revoke entry: resp: (*logical.Response)(nil) err: {error}"
            raise RefusedError(400, said) from None
        del self.leases[lease.id]
        return empty()

    def _queue(self, lease: Lease) -> None:
        self.leases.pop(lease.id, None)
        self.queued[lease.id] = lease


def _covers(pattern: str, path: str) -> bool:
    """`+` is one segment, `*` at the end is anything (Vault policies, "policy syntax")."""
    parts = ("[^/]+" if part == "+" else re.escape(part) for part in pattern.removesuffix("*").split("/"))
    return re.fullmatch("/".join(parts) + (".*" if pattern.endswith("*") else ""), path) is not None
