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

from tests.fakes.vault_engines import Database
from tests.fakes.vault_parts import Clock, RefusedError, Request, Response, answer, empty, seconds_of
from tests.fakes.vault_space import Namespace
from tests.fakes.vault_tokens import Tokens

_QUOTA = 'request path "{}": rate limit quota exceeded'


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
    _spaces: dict[str, Namespace] = field(default_factory=dict)
    _quotas: dict[str, tuple[str, float, float]] = field(default_factory=dict)  # name: prefix, rate, interval
    _spent: dict[str, list[float]] = field(default_factory=dict)
    _quota_headers: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._spaces[""] = Namespace(self.clock, self.root_token)

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
            self._spaces[request.path.removeprefix("sys/namespaces/")] = Namespace(self.clock, self.root_token)
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
