"""An OpenBao 2.6.2 double in this process: `FakeVault` serves its HTTP API on loopback, over http or https.

Written from `vectors/openbao` and `reference/vault.md`, never from our client. It verifies signatures, binds tokens to policies
and policies to paths, lets leases die with their token, and answers errors with the recorded texts. It is set up through its API
with the root token, like the server. Not there: wrapping, inline auth, identity groups, raft, audit devices, CEL roles.
"""

import json
import posixpath
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import unquote

from tests.fakes.vault_engines import Database, Kv1, Kv2
from tests.fakes.vault_jwt import JwtAuth
from tests.fakes.vault_parts import PERMISSION_DENIED, Clock, RefusedError, Request, Response, answer, empty, seconds_of
from tests.fakes.vault_tokens import Token, Tokens

_QUOTA = 'request path "{}": rate limit quota exceeded'


class _Namespace:
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


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with the next requests that match: nothing is answered, or late, or something else is."""

    path: str  # matched as a prefix, after /v1/
    times: int = 1
    drop: str = ""  # "before" the work is done, or "after"
    wait: threading.Event | None = None  # answered only once this is set; the work is done before
    instead: Response | None = None


@dataclass(kw_only=True)
class FakeVault:
    """A running server: `with FakeVault() as vault`. `seen` is every request that came, in order."""

    root_token: str = "s.fake-root-token"
    tls: ssl.SSLContext | None = None
    clock: Clock = field(default_factory=Clock)
    seen: list[Request] = field(default_factory=list)
    sealed: bool = False
    faults: list[Fault] = field(default_factory=list)
    _spaces: dict[str, _Namespace] = field(default_factory=dict)
    _quotas: dict[str, tuple[str, float, float]] = field(default_factory=dict)  # name: prefix, rate, interval
    _spent: dict[str, list[float]] = field(default_factory=dict)
    _quota_headers: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._spaces[""] = _Namespace(self.clock, self.root_token)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"vault": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for fault in self.faults:
            if fault.wait is not None:
                fault.wait.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self._server.server_address[1]}"

    def database(self, mount: str = "database", namespace: str = "") -> Database:
        """The database behind a mount, to look into it or take it away."""
        engine = self._spaces[namespace].mounts[mount]
        assert isinstance(engine, Database)
        return engine

    def tokens(self, namespace: str = "") -> Tokens:
        return self._spaces[namespace].tokens

    def fault(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and request.path.startswith(fault.path):
                    fault.times -= 1
                    return fault
        return None

    def handle(self, request: Request) -> Response:
        with self._lock:
            self.seen.append(request)
            try:
                return self._handle(request)
            except RefusedError as refusal:
                return refusal.response

    def _handle(self, request: Request) -> Response:
        if request.path == "sys/health":
            return self._health()
        if self.sealed:
            raise RefusedError(503, "Vault is sealed")
        namespace = request.headers.get("x-vault-namespace", "").strip("/")
        if namespace not in self._spaces:
            raise RefusedError(404, "namespace not found")
        if request.raw and request.raw[:1] != b"{":
            raise RefusedError(400, "error parsing JSON")
        if request.raw and not _is_json(request.raw):
            raise RefusedError(400, "failed to decode JSON input: unexpected EOF")
        self._within_quota(request)
        if request.path.startswith(("sys/namespaces/", "sys/quotas/")):
            self._spaces[namespace].tokens.allow(self._spaces[namespace].tokens.known(request), "POST", request.path)
            return self._own(request)
        return self._spaces[namespace].handle(request)

    def _own(self, request: Request) -> Response:
        if request.path.startswith("sys/namespaces/"):
            self._spaces[request.path.removeprefix("sys/namespaces/")] = _Namespace(self.clock, self.root_token)
            return answer({"path": request.path.removeprefix("sys/namespaces/") + "/"})
        name = request.path.removeprefix("sys/quotas/")
        if name == "config":
            self._quota_headers = bool(request.body.get("enable_rate_limit_response_headers"))
        elif request.method == "DELETE":
            self._quotas.pop(name)
        else:
            body = request.body
            self._quotas[name] = (body.get("path", ""), float(body["rate"]), float(seconds_of(body.get("interval", "1s"))))
        return empty()

    def _within_quota(self, request: Request) -> None:
        now = self.clock.now()
        for name, (prefix, rate, interval) in self._quotas.items():
            if not request.path.startswith(prefix) or request.path.startswith("sys/quotas"):
                continue
            spent = [at for at in self._spent.get(name, []) if at > now - interval]
            limited = len(spent) >= rate
            self._spent[name] = spent if limited else [*spent, now]
            if limited:
                numbers = {"Retry-After": 0, "X-Ratelimit-Limit": int(rate), "X-Ratelimit-Remaining": 0, "X-Ratelimit-Reset": 0}
                headers = {key: str(value) for key, value in numbers.items()} if self._quota_headers else {}
                raise RefusedError(429, _QUOTA.format(request.path), headers=headers)

    def _health(self) -> Response:
        body: dict[str, Any] = {
            "initialized": True,
            "sealed": self.sealed,
            "standby": self.sealed,
            "replication_performance_mode": "unknown" if self.sealed else "primary",
            "replication_dr_mode": "unknown" if self.sealed else "disabled",
            "server_time_utc": int(self.clock.now()),
            "version": "2.0.0-HEAD",
        }
        if not self.sealed:
            body |= {"cluster_name": "vault-cluster-fake", "cluster_id": "8e7f14d3-f622-9219-04bf-000000000000"}
        return Response(status=503 if self.sealed else 200, json=body)


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except ValueError:
        return False
    return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or that TLS turned away: what some of the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    vault: ClassVar[FakeVault]
    protocol_version = "HTTP/1.1"
    server_version = "fake"
    timeout = 30

    def __getattr__(self, name: str) -> Any:
        # `do_GET`, `do_LIST` and the like: one way for every method that the server knows.
        if name in ("do_GET", "do_LIST", "do_POST", "do_PUT", "do_DELETE"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        clean = posixpath.normpath(path)
        if path != clean and path.rstrip("/") != clean:
            self._send(Response(status=307, text=f'<a href="{clean}">Temporary Redirect</a>.\n\n', headers={"Location": clean}))
            return
        body = json.loads(raw) if raw[:1] == b"{" and _is_json(raw) else {}
        request = Request(
            method=self.command,
            path=clean.removeprefix("/v1/"),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            remote=self.client_address[0],
            raw=raw,
        )
        fault = self.vault.fault(request)
        if fault is not None and fault.drop == "before":
            self.close_connection = True
            return
        if fault is not None and fault.instead is not None:
            self.vault.seen.append(request)
            self._send(fault.instead)
            return
        response = self.vault.handle(request)
        if fault is not None and fault.wait is not None:
            fault.wait.wait(timeout=60)
        if fault is not None and fault.drop == "after":
            self.close_connection = True
            return
        self._send(response)

    def _send(self, response: Response) -> None:
        payload = json.dumps(response.json).encode() + b"\n" if response.json is not None else response.text.encode()
        self.send_response(response.status)
        kind = "application/json" if response.json is not None or not response.text else "text/html; charset=utf-8"
        for name, value in {"Cache-Control": "no-store", "Content-Type": kind, **response.headers}.items():
            self.send_header(name, value)
        if response.status != 204:
            self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if response.status != 204:
            self.wfile.write(payload)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(self.vault.clock.now() if timestamp is None else timestamp)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Nothing: a test's output is its own."""


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether `condition()` came true within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
