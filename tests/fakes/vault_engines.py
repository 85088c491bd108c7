"""Secrets engines of the OpenBao double: KV version 1 and 2, and a database that keeps users in memory."""

import copy
import time
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.vault_parts import Clock, RefusedError, Request, Response, answer, base62, empty, rfc3339, seconds_of
from tests.fakes.vault_tokens import SYSTEM_TTL, Lease, Token, Tokens

_VERSIONED_HINT = (
    "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. If using the "
    "OpenBao CLI, use 'bao kv {}' for this operation."
)


class Kv1:
    def __init__(self) -> None:
        self._secrets: dict[str, dict[str, Any]] = {}

    def handle(self, request: Request, rest: str, token: Token) -> Response:
        if request.method in ("POST", "PUT"):
            self._secrets[rest] = copy.deepcopy(request.body)
            return empty()
        if rest not in self._secrets:
            raise RefusedError(404)
        if request.method == "DELETE":
            del self._secrets[rest]
            return empty()
        data = self._secrets[rest]
        return answer(copy.deepcopy(data), lease_duration=seconds_of(data.get("ttl")) or SYSTEM_TTL)


@dataclass(kw_only=True)
class _Version:
    data: dict[str, Any] | None
    created: float
    deleted: float | None = None


class Kv2:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secrets: dict[str, list[_Version]] = {}

    def handle(self, request: Request, rest: str, token: Token) -> Response:
        kind, _, path = rest.partition("/")
        if kind != "data":
            verb = {"LIST": "list", "GET": "get"}.get(request.method, "put")
            return answer(status=404, warnings=[_VERSIONED_HINT.format(verb)])
        if request.method in ("POST", "PUT"):
            if not isinstance(request.body.get("data"), dict):
                raise RefusedError(400, "no data provided")
            versions = self._secrets.setdefault(path, [])
            versions.append(_Version(data=copy.deepcopy(request.body["data"]), created=self._clock.now()))
            return answer(self._metadata(versions))
        versions = self._secrets.get(path, [])
        if not versions:
            raise RefusedError(404)
        if request.method == "DELETE":
            versions[-1].deleted = self._clock.now()
            return empty()
        gone = versions[-1].deleted is not None
        data = None if gone else copy.deepcopy(versions[-1].data)
        return answer({"data": data, "metadata": self._metadata(versions)}, status=404 if gone else 200)

    @staticmethod
    def _metadata(versions: list[_Version]) -> dict[str, Any]:
        last = versions[-1]
        return {
            "created_time": rfc3339(last.created),
            "custom_metadata": None,
            "deletion_time": "" if last.deleted is None else rfc3339(last.deleted),
            "destroyed": False,
            "version": len(versions),
        }


@dataclass(kw_only=True)
class Database:
    """`users` is the database: who can log in, with which password. `away` is the database being down."""

    clock: Clock
    tokens: Tokens
    mount: str
    users: dict[str, str] = field(default_factory=dict)
    away: bool = False
    _configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    _statics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def handle(self, request: Request, rest: str, token: Token) -> Response:
        kind, _, name = rest.partition("/")
        writes = request.method in ("POST", "PUT")
        if kind == "config" and writes:
            self._configs[name] = dict(request.body)
            return empty()
        if kind == "roles" and writes:
            self._configured(request.body)
            self._unique(name, self._statics)
            self._roles[name] = dict(request.body)
            return empty()
        if kind == "static-roles" and writes:
            self._configured(request.body)
            self._unique(name, self._roles)
            self._statics[name] = {**request.body, "rotated": self.clock.now(), "password": base62(20)}
            self.users[request.body["username"]] = self._statics[name]["password"]
            return empty()
        if kind == "creds" and request.method == "GET":
            return self._creds(name, token)
        if kind == "static-creds" and request.method == "GET":
            return self._static(name)
        raise RefusedError(405, "unsupported operation")

    def _configured(self, body: dict[str, Any]) -> None:
        if body.get("db_name") not in self._configs:
            raise RefusedError(500, "1 error occurred:\n\t* failed to find entry for connection with name\n\n")

    @staticmethod
    def _unique(name: str, others: dict[str, dict[str, Any]]) -> None:
        if name in others:
            raise RefusedError(400, "Role and Static Role names must be unique")

    def _reach(self, *, prefix: str = "") -> None:
        if self.away:
            raise ConnectionError(
                prefix
                + "failed to connect to `user=postgres database=postgres`: 127.0.0.1:54330 (127.0.0.1): dial error: dial tcp "
                "127.0.0.1:54330: connect: connection refused"
            )

    def _creds(self, name: str, token: Token) -> Response:
        role = self._roles.get(name)
        if role is None:
            raise RefusedError(400, f"unknown role: {name}")
        try:
            self._reach(prefix="unable to start transaction: ")
        except ConnectionError as error:
            raise RefusedError(500, f"1 error occurred:\n\t* {error}\n\n") from None
        now = self.clock.now()
        user = f"v-{token.display_name[:8]}-{name[:8]}-{base62(20)}-{int(time.time())}"
        password = base62(20)
        self.users[user] = password
        period = seconds_of(role.get("default_ttl")) or SYSTEM_TTL
        longest = seconds_of(role.get("max_ttl")) or SYSTEM_TTL
        path = f"{self.mount}/creds/{name}"

        def drop() -> None:
            self._reach()
            self.users.pop(user, None)

        lease = Lease(
            id=f"{path}/{base62(24)}",
            path=path,
            token=token.id,
            issued=now,
            expires=now + min(period, longest),
            period=min(period, longest),
            ends=now + longest,
            renewable=True,
            undo=drop,
            renewable_now=self._reach,
        )
        if token.uses_left < 0:  # this request was the token's last use
            drop()
            raise RefusedError(
                400, "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."
            )
        self.tokens.leased(lease)
        return answer({"password": password, "username": user}, lease_id=lease.id, renewable=True, lease_duration=lease.period)

    def _static(self, name: str) -> Response:
        role = self._statics.get(name)
        if role is None:
            raise RefusedError(400, "unknown role: " + name)
        period = seconds_of(role["rotation_period"])
        while self.clock.now() >= role["rotated"] + period:
            role["rotated"] += period
            role["password"] = self.users[role["username"]] = base62(20)
        return answer(
            {
                "last_vault_rotation": rfc3339(role["rotated"]),
                "password": role["password"],
                "rotation_period": period,
                "ttl": round(role["rotated"] + period - self.clock.now()),
                "username": role["username"],
            }
        )
