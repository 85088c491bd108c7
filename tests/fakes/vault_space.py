"""One namespace of the OpenBao double: where a request with a token goes, and whether it may."""

from tests.fakes.vault_engines import Database, Kv1, Kv2
from tests.fakes.vault_jwt import JwtAuth
from tests.fakes.vault_parts import PERMISSION_DENIED, Clock, RefusedError, Request, Response, answer, empty, seconds_of
from tests.fakes.vault_tokens import Token, Tokens


class Namespace:
    """One namespace: its own mounts, policies and tokens."""

    def __init__(self, clock: Clock, root_token: str) -> None:
        self.clock = clock
        self.tokens = Tokens(clock=clock)
        self.tokens.root(root_token)
        self.auths: dict[str, JwtAuth] = {}
        self.mounts: dict[str, Kv1 | Kv2 | Database] = {}

    def handle(self, request: Request) -> Response:
        self.tokens.tick()
        mount, _, rest = request.path.removeprefix("auth/").partition("/")
        if request.path.startswith("auth/") and rest == "login":
            return self._login(mount, request)
        token = self.tokens.known(request)
        if token.uses_left > 0:
            token.uses_left = token.uses_left - 1 or -1
        try:
            self.tokens.allow(token, request.method, request.path)
            return self._route(request, token)
        finally:
            if token.uses_left < 0:
                self.tokens.end_token(token)

    def _login(self, mount: str, request: Request) -> Response:
        if mount not in self.auths:
            raise RefusedError(403, PERMISSION_DENIED)
        _, role, user, metadata = self.auths[mount].login(request)
        token = self.tokens.create(role, user=user, metadata=metadata, mount=mount)
        return answer(auth=self.tokens.auth(token, token.period))

    def _route(self, request: Request, token: Token) -> Response:
        first, _, rest = request.path.partition("/")
        if first == "sys":
            return self._system(request, rest)
        if request.path.startswith("auth/token/"):
            return self._token(request, request.path.removeprefix("auth/token/"), token)
        if first == "auth":
            mount, _, rest = rest.partition("/")
            if mount in self.auths:
                return self.auths[mount].handle(request, rest)
        elif first in self.mounts:
            return self.mounts[first].handle(request, rest, token)
        raise RefusedError(404, f'no handler for route "{request.path}". route entry not found.')

    def _token(self, request: Request, verb: str, token: Token) -> Response:
        increment = seconds_of(request.body.get("increment"))
        if verb == "lookup-self":
            return self.tokens.lookup(token, with_id=True)
        if verb == "renew-self":
            return self.tokens.renew(token, increment)
        if verb == "revoke-self":
            return self.tokens.revoke(token)
        return self._by_accessor(request, verb, increment)

    def _by_accessor(self, request: Request, verb: str, increment: int) -> Response:
        if verb not in ("lookup-accessor", "renew-accessor", "revoke-accessor"):
            raise RefusedError(404)
        if not request.body.get("accessor"):
            raise RefusedError(400, "missing accessor_id")
        named = self.tokens.by_accessor(request.body["accessor"])
        if named is None:
            if verb == "revoke-accessor":
                return answer(warnings=["No token found with this accessor"])
            raise RefusedError(400, "invalid accessor")
        if verb == "lookup-accessor":
            return self.tokens.lookup(named, with_id=False)
        if verb == "renew-accessor":
            renewed = self.tokens.renew(named, increment)
            assert renewed.json is not None
            renewed.json["auth"]["client_token"] = ""
            return renewed
        return self.tokens.revoke(named)

    def _system(self, request: Request, rest: str) -> Response:
        kind, _, name = rest.partition("/")
        if kind == "leases" and name in ("lookup", "renew", "revoke"):
            return self.tokens.lease_request(name, request.body)
        if rest.startswith("policies/acl/"):
            self.tokens.write_policy(rest.removeprefix("policies/acl/"), request.body["policy"])
            return empty()
        if kind == "auth":
            self.auths[name] = JwtAuth(self.clock)
            return empty()
        if kind == "mounts":
            versioned = str((request.body.get("options") or {}).get("version")) == "2"
            engines: dict[str, Kv1 | Kv2 | Database] = {
                "kv": Kv2(self.clock) if versioned else Kv1(),
                "database": Database(clock=self.clock, tokens=self.tokens, mount=name),
            }
            if request.body.get("type") not in engines:
                raise RefusedError(400, f"plugin not found in the catalog: {request.body.get('type')}")
            self.mounts[name] = engines[request.body["type"]]
            return empty()
        raise RefusedError(404, f'no handler for route "{request.path}". route entry not found.')
