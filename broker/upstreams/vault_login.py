"""One Vault login and what can be asked with its token. Blocking: runs in the pool's threads."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.moment import Clock
from broker.secret import Secret
from broker.upstreams.vault_answers import UNREADABLE, Answer, Auth, Doing, Seconds, judge
from broker.upstreams.vault_wire import Method, VaultSettings, VaultWire


class DeadToken(Refused):
    """`lookup-self` has settled it: the token is expired or revoked, and with it every lease it made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    token: Secret
    accessor: str
    expires_at: datetime
    renewable: bool
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenState:
    """A living token: how long it has, how long it had at first."""

    expires_at: datetime
    created_for: timedelta
    renewable: bool


class _SelfInfo(msgspec.Struct, frozen=True):
    ttl: Seconds
    creation_ttl: Seconds = 0
    renewable: bool = False


class _LeaseInfo(msgspec.Struct, frozen=True):
    ttl: Seconds
    renewable: bool = False


T = TypeVar("T", _SelfInfo, _LeaseInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Calls on behalf of one order or one revocation: its correlation id, and what its caller knows it by."""

    wire: VaultWire
    settings: VaultSettings
    clock: Clock
    correlation_id: str
    what: str

    def login(self, role: str, assertion: Secret) -> Login:
        """A fresh service token that can hold leases and be revoked; a token of another kind is given back and refused."""
        asked = self.clock().wall
        path = f"auth/{self.settings.mount}/login"
        answer = self.ask(Doing.LOGIN, "POST", path, None, {"role": role, "jwt": assertion.reveal()})
        auth = answer.auth
        if auth is None or not auth.client_token:
            raise self._unfit(f"POST {path} for role {role!r} answered without a token")
        if auth.token_type != "service" or auth.num_uses != 0 or not auth.accessor or auth.lease_duration <= 0:  # noqa: S105
            token = Secret(auth.client_token)
            if auth.token_type == "service":  # noqa: S105 - a kind of token
                self.forget(token)
            raise self._unfit(f"role {role!r} gives {auth.token_type} tokens with {auth.num_uses} uses, {auth.lease_duration} s")
        return Login(
            token=Secret(auth.client_token),
            accessor=auth.accessor,
            expires_at=asked + timedelta(seconds=auth.lease_duration),
            renewable=auth.renewable,
            request_id=answer.request_id,
        )

    def token_state(self, token: Secret) -> TokenState:
        """What `lookup-self` says. Raises DeadToken when the token is not known any more."""
        asked = self.clock().wall
        answer = self.call("GET", "auth/token/lookup-self", token)
        if answer.may_mean_dead_token:
            raise self._dead()
        self._judged(Doing.LOOKUP, "GET auth/token/lookup-self", answer)
        info = self._decoded(answer, _SelfInfo)
        return TokenState(
            expires_at=asked + timedelta(seconds=info.ttl),
            created_for=timedelta(seconds=info.creation_ttl),
            renewable=info.renewable,
        )

    def renew_token(self, token: Secret) -> datetime:
        """The token for another of its role's periods, or for what its maximum leaves; returns its new end."""
        asked = self.clock().wall
        answer = self.ask(Doing.RENEW, "POST", "auth/token/renew-self", token, {})
        return asked + timedelta(seconds=self._auth(answer).lease_duration)

    def renew_accessor(self, token: Secret, accessor: str) -> datetime:
        asked = self.clock().wall
        answer = self.ask(Doing.RENEW, "POST", "auth/token/renew-accessor", token, {"accessor": accessor})
        return asked + timedelta(seconds=self._auth(answer).lease_duration)

    def lease_end(self, token: Secret, lease_id: str) -> datetime:
        asked = self.clock().wall
        answer = self.ask(Doing.LOOKUP, "PUT", "sys/leases/lookup", token, {"lease_id": lease_id})
        return asked + timedelta(seconds=self._decoded(answer, _LeaseInfo).ttl)

    def renew_lease(self, token: Secret, lease_id: str) -> tuple[datetime, str]:
        """The lease for another of its role's periods, or for what its maximum leaves: its new end and the request id."""
        asked = self.clock().wall
        answer = self.ask(Doing.RENEW, "PUT", "sys/leases/renew", token, {"lease_id": lease_id})
        return asked + timedelta(seconds=answer.lease_duration), answer.request_id

    def forget(self, token: Secret) -> BrokerError | None:
        """Revokes a token that is of no use, as well as it can be: the error, if that failed."""
        try:
            self.ask(Doing.REVOKE, "POST", "auth/token/revoke-self", token)
        except DeadToken:
            return None
        except BrokerError as error:
            return error
        return None

    def ask(self, doing: Doing, method: Method, path: str, token: Secret | None, body: dict[str, object] | None = None) -> Answer:
        """A success, or what its answer means as an exception; a 403 that may be a dead token is settled by `lookup-self`."""
        answer = self.call(method, path, token, body, revoking=doing is Doing.REVOKE)
        if token is not None and answer.may_mean_dead_token:
            self.token_state(token)
        self._judged(doing, f"{method} {path}", answer)
        return answer

    def call(
        self,
        method: Method,
        path: str,
        token: Secret | None,
        body: dict[str, object] | None = None,
        *,
        revoking: bool = False,
    ) -> Answer:
        patience = self.wire.patience
        seconds = patience.revoke_answer if revoking else patience.answer
        return self.wire.call(method, path, token=token, correlation_id=self.correlation_id, body=body, seconds=seconds)

    def _judged(self, doing: Doing, asked: str, answer: Answer) -> None:
        error = judge(answer, doing=doing, upstream=self.settings.name, what=self.what, asked=asked)
        if error is not None:
            raise error

    def _dead(self) -> DeadToken:
        return DeadToken(
            Code.UPSTREAM_DENIED,
            f"the login of {self.what} at upstream {self.settings.name!r} has ended, and its credentials with it",
            detail="lookup-self does not know the token",
        )

    def _unfit(self, detail: str) -> Misconfigured:
        return Misconfigured(
            Code.UPSTREAM_CONFIG,
            f"the Vault role for {self.what} at upstream {self.settings.name!r} has to give service tokens of unlimited use",
            detail=detail,
        )

    def _auth(self, answer: Answer) -> Auth:
        if answer.auth is None:
            raise self._unreadable("a token renewal without `auth`")
        return answer.auth

    def _decoded(self, answer: Answer, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.data, type=shape)
        except UNREADABLE:
            raise self._unreadable("a lookup without `ttl`") from None

    def _unreadable(self, detail: str) -> Unavailable:
        return Unavailable(
            Code.UPSTREAM_UNAVAILABLE,
            f"upstream {self.settings.name!r} answered in a way the broker does not read; try again",
            detail=detail,
        )
