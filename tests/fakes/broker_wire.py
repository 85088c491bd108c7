"""A strict small broker, written from DESIGN section 5 alone: what a client may rely on, and what it may not do.

It verifies no signature: a token is good when this double minted it (`mint`). It shares no code with `broker/` and none with a
client. It refuses what the real broker refuses: a wrong content type, an unknown or doubled parameter, a handle whose checksum is
wrong, a handle of the Unix socket presented over TCP, a second session for one token, a grant nobody defined.
"""

import base64
import contextlib
import http.server
import json
import re
import secrets
import socket
import socketserver
import threading
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKEN_PARAMETERS = {"grant_type", "subject_token", "subject_token_type", "scope", "resume_key", "heartbeat", "environment"}
RESUME_WINDOW = 120.0
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

# word: (OAuth error, status), as the table of DESIGN section 5.
ERRORS = {
    "request_invalid": ("invalid_request", 400),
    "token_missing": ("invalid_request", 400),
    "token_malformed": ("invalid_request", 400),
    "path_invalid": ("invalid_request", 400),
    "token_signature": ("invalid_grant", 400),
    "token_expired": ("invalid_grant", 400),
    "token_audience": ("invalid_grant", 400),
    "token_replayed": ("invalid_grant", 400),
    "session_exists": ("invalid_grant", 400),
    "handle_invalid": ("invalid_token", 401),
    "handle_peer": ("invalid_token", 401),
    "session_expired": ("invalid_token", 401),
    "session_revoked": ("invalid_token", 401),
    "session_idle": ("invalid_token", 401),
    "no_environment": ("access_denied", 403),
    "environment_mismatch": ("access_denied", 403),
    "grant_denied": ("access_denied", 403),
    "subpath_denied": ("access_denied", 403),
    "upstream_denied": ("access_denied", 403),
    "grant_unknown": ("invalid_target", 404),
    "ttl_unavailable": ("invalid_request", 409),
    "rate_limited": ("temporarily_unavailable", 429),
    "internal": ("server_error", 500),
    "upstream_config": ("server_error", 502),
    "upstream_unavailable": ("temporarily_unavailable", 503),
    "log_unavailable": ("temporarily_unavailable", 503),
}


class DeniedError(Exception):
    def __init__(self, word: str, sentence: str, *, retry_after: int | None = None, status: int | None = None) -> None:
        super().__init__(sentence)
        self.word, self.sentence, self.retry_after = word, sentence, retry_after
        self.oauth, self.status = ERRORS[word]
        self.status = status or self.status


@dataclass
class FakeGrant:
    """One grant of the double. `data` are the fields of a `vault` grant beside `password`; `ttl` is the life of one lease."""

    kind: str = "vault"
    ttl: float = 3600.0
    rotate_after: float | None = None  # default: half of ttl
    max_ttl: float | None = None  # what min_ttl can get; default ttl
    data: dict[str, Any] = field(default_factory=dict)
    denied: str = ""  # an error word: reading it is refused with this
    subpath: bool = False  # its path ends in /**: a subpath is needed, and any is admitted
    region: str = "eu-central-1"


@dataclass
class FakeLease:
    lease_id: str
    version: int
    issued_at: float
    refresh_at: float
    expires_at: float
    data: dict[str, Any]


@dataclass
class FakeSession:
    session_id: str
    handle: str
    jti: str
    environment: str
    grants: tuple[str, ...]
    opened_at: float
    expires_at: float
    resume_key: str | None
    heartbeat: bool
    transport: str
    state: str = "live"
    beats: int = 0
    leases: dict[tuple[str, str], FakeLease] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    form: dict[str, str]
    transport: str


@dataclass
class Fault:
    prefix: str
    times: int
    word: str = ""
    retry_after: int | None = None
    slow: float = 0.0
    lose_answer: bool = False  # do it, then close the connection without an answer
    raw: bytes = b""  # answer exactly these bytes


class BrokerWire:
    """`with BrokerWire(folder) as wire:` serves on `wire.unix_url` and `wire.http_url` until the block ends."""

    def __init__(
        self,
        folder: Path,
        *,
        grants: dict[str, FakeGrant] | None = None,
        environment: str = "production",
        max_exchanges: int = 8,
        max_session: float = 3600.0,
        http: bool = True,
    ) -> None:
        self.grants = grants if grants is not None else {"lake": FakeGrant(kind="aws"), "warehouse": FakeGrant()}
        self.environment = environment
        self.max_exchanges = max_exchanges
        self.max_session = max_session
        self.sessions: list[FakeSession] = []
        self.seen: list[Seen] = []
        self.clock_ahead = 0.0  # what `Date` tells, against the real time
        self.values: list[str] = []  # every secret value that was ever issued
        self._faults: list[Fault] = []
        self._tokens: dict[str, dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._socket = folder / "broker.sock"
        self._http = http
        self._port = 0
        self._servers: list[socketserver.BaseServer] = []

    # -- life -------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> "BrokerWire":  # noqa: PYI034 - Self is not in Python 3.10
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.vanish()

    def listen(self) -> None:
        """Serves (again) on the same socket file and the same port."""
        unix = _UnixServer(str(self._socket), _handler(self, "unix"))
        self._socket.chmod(0o666)
        self._servers.append(unix)
        if self._http:
            tcp = _TcpServer(("127.0.0.1", self._port), _handler(self, "http"))
            self._port = tcp.server_address[1]
            self._servers.append(tcp)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def vanish(self) -> None:
        """Stops listening and cuts every open connection: clients see a refused connection or a missing socket."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
            assert isinstance(server, _Cut)
            server.cut()
        self._servers.clear()
        self._socket.unlink(missing_ok=True)

    @property
    def unix_url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    # -- what a test does to it -------------------------------------------------------------------------------------------

    def mint(self, *, aud: str | list[str] = "https://broker.example.com", lifetime: float = 3600.0, **claims: Any) -> str:
        """A job token that this double accepts."""
        now = int(time.time())
        body = {"iss": "https://gitlab.example.com", "aud": aud, "iat": now, "nbf": now - 5, "exp": now + int(lifetime)}
        body |= {"jti": secrets.token_hex(8), "job_id": "4242", "project_id": "4711"} | claims
        head = {"alg": "RS256", "kid": "double", "typ": "JWT"}
        token = ".".join(_b64(json.dumps(part).encode()) for part in (head, body)) + "." + _b64(secrets.token_bytes(16))
        self._tokens[token] = body
        return token

    def fail(self, prefix: str, word: str, *, times: int = 1, retry_after: int | None = None) -> None:
        """The next `times` requests whose path starts with `prefix` get this error."""
        self._faults.append(Fault(prefix, times, word=word, retry_after=retry_after))

    def slow(self, prefix: str, seconds: float, *, times: int = 1) -> None:
        self._faults.append(Fault(prefix, times, slow=seconds))

    def lose_answer(self, prefix: str, *, times: int = 1) -> None:
        """The next request is carried out and its answer lost."""
        self._faults.append(Fault(prefix, times, lose_answer=True))

    def answer_raw(self, prefix: str, raw: bytes, *, times: int = 1) -> None:
        self._faults.append(Fault(prefix, times, raw=raw))

    def rotate(self, grant: str) -> None:
        """Every live session's lease of this grant is replaced by a newer one."""
        with self._lock:
            for session in self.live:
                for (name, subpath), lease in list(session.leases.items()):
                    if name == grant:
                        session.leases[name, subpath] = self._lease(session, name, lease.version + 1)

    def end(self, state: str) -> None:
        """Every live session is over, for this reason: revoked, expired or idle."""
        for session in self.live:
            session.state = state

    def end_silent(self) -> None:
        """Five minutes pass in which nobody beats."""
        for session in self.live:
            if session.heartbeat:
                session.state = "idle"

    @property
    def live(self) -> list[FakeSession]:
        return [session for session in self.sessions if session.state == "live"]

    def calls(self, method: str, prefix: str) -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.method == method and seen.path.startswith(prefix)]

    # -- what it answers --------------------------------------------------------------------------------------------------

    def take_fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and path.startswith(fault.prefix):
                    fault.times -= 1
                    return fault
        return None

    def answer(self, seen: Seen, fault: Fault) -> dict[str, Any] | None:  # noqa: PLR0911 - one per endpoint
        if fault.word:
            raise DeniedError(fault.word, f"{fault.word}, as the test asked", retry_after=fault.retry_after)
        with self._lock:
            match seen.method, seen.path.strip("/").split("/"):
                case "GET", ["healthz" | "readyz" as probe]:
                    return {"status": {"healthz": "ok", "readyz": "ready"}[probe]}
                case "POST", ["v1", "token"]:
                    return self._exchange(seen)
                case "POST", ["v1", "revoke"]:
                    self._revoke(seen)
                    return None
                case "GET", ["v1", "credentials", grant, *rest]:
                    return self._credentials(self._session(seen), grant, "/".join(rest), seen)
                case "GET", ["v1", "aws", grant]:
                    return self._aws(self._session(seen, bare=True), grant)
                case "GET", ["v1", "session"]:
                    return self._view(self._session(seen))
                case "POST", ["v1", "session", "heartbeat"]:
                    self._session(seen).beats += 1
                    return None
                case _:
                    raise DeniedError("request_invalid", f"no such endpoint: {seen.method} {seen.path}", status=404)

    def _exchange(self, seen: Seen) -> dict[str, Any]:
        form = seen.form
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange":
            raise DeniedError("request_invalid", "grant_type must be the token exchange of RFC 8693")
        if form.get("subject_token_type") not in (
            "urn:ietf:params:oauth:token-type:id_token",
            "urn:ietf:params:oauth:token-type:jwt",
        ):
            raise DeniedError("request_invalid", "subject_token_type must be id_token or jwt")
        if not form.get("subject_token"):
            raise DeniedError("token_missing", "there is no subject_token")
        claims = self._tokens.get(form["subject_token"])
        if claims is None:
            raise DeniedError("token_signature", "the job token was not signed by a key of its issuer")
        now = time.time()
        if claims["exp"] <= now:
            raise DeniedError("token_expired", "the job token has expired")
        key = form.get("resume_key")
        if key is not None and not re.fullmatch(r"[A-Za-z0-9_-]{43}", key):
            raise DeniedError("request_invalid", "resume_key must be 43 base64url characters")
        if form.get("heartbeat", "1") != "1":
            raise DeniedError("request_invalid", "heartbeat must be 1")
        if form.get("environment", self.environment) != self.environment:
            raise DeniedError(
                "environment_mismatch", f"this job is in environment {self.environment!r}, not in the requested one"
            )
        wants = tuple(form["scope"].split(" ")) if "scope" in form else tuple(self.grants)
        for name in wants:
            if name not in self.grants:
                raise DeniedError("grant_unknown", f"there is no grant {name!r}", status=400)
        for session in self.live:
            if session.jti == claims["jti"]:
                if key is None or key != session.resume_key or now - session.opened_at > RESUME_WINDOW:
                    raise DeniedError("session_exists", "this job token has a live session already")
                session.state = "revoked"
        if sum(session.jti == claims["jti"] for session in self.sessions) >= self.max_exchanges:
            raise DeniedError("token_replayed", "this job token has opened as many sessions as it may")
        opened = FakeSession(
            session_id=secrets.token_hex(13),
            handle=new_handle(),
            jti=claims["jti"],
            environment=self.environment,
            grants=wants,
            opened_at=now,
            expires_at=min(claims["exp"], now + self.max_session),
            resume_key=key,
            heartbeat="heartbeat" in form,
            transport=seen.transport,
        )
        self.sessions.append(opened)
        self.values.append(opened.handle)
        return {
            "access_token": opened.handle,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": int(opened.expires_at - now),
            "scope": " ".join(wants),
            "environment": opened.environment,
            "session_id": opened.session_id,
            "exchanges_left": self.max_exchanges - sum(session.jti == opened.jti for session in self.sessions),
            "receipt": f"/v1/receipts/{secrets.token_hex(13)}",
        }

    def _session(self, seen: Seen, *, bare: bool = False) -> FakeSession:
        unverified = seen.headers.get("authorization", "")
        if unverified.startswith("Bearer "):
            unverified = unverified.removeprefix("Bearer ")
        elif not bare:
            raise DeniedError("handle_invalid", "send the handle as Authorization: Bearer")
        return self._by_handle(unverified, seen.transport)

    def _by_handle(self, unverified: str, transport: str) -> FakeSession:
        if not shaped(unverified):
            raise DeniedError("handle_invalid", "this is not a session handle")
        for session in self.sessions:
            if session.handle == unverified:
                break
        else:
            raise DeniedError("handle_invalid", "no session has this handle")
        if session.transport != transport:
            raise DeniedError("handle_peer", "this handle was obtained over the Unix socket and is good there alone")
        if session.state == "live" and session.expires_at <= time.time():
            session.state = "expired"
        if session.state == "closed":
            raise DeniedError("session_revoked", "the session was closed")
        if session.state != "live":
            raise DeniedError(f"session_{session.state}", f"the session is over ({session.state})")
        return session

    def _revoke(self, seen: Seen) -> None:
        if set(seen.form) - {"token", "token_type_hint"} or "token" not in seen.form:
            raise DeniedError("request_invalid", "send token= and nothing else")
        with contextlib.suppress(DeniedError):
            self._by_handle(seen.form["token"], seen.transport).state = "closed"

    def _credentials(self, session: FakeSession, name: str, subpath: str, seen: Seen) -> dict[str, Any]:
        query = dict(urllib.parse.parse_qsl(seen.query, strict_parsing=bool(seen.query)))
        if set(query) - {"min_ttl"} or not re.fullmatch(r"[0-9]{1,6}", query.get("min_ttl", "0")):
            raise DeniedError("request_invalid", "the only parameter is min_ttl, in seconds")
        lease = self._current(session, name, subpath, float(query.get("min_ttl", "0")))
        return {
            "grant": name,
            "kind": self.grants[name].kind,
            "environment": session.environment,
            "lease_id": lease.lease_id,
            "version": lease.version,
            "issued_at": stamp(lease.issued_at),
            "refresh_at": stamp(lease.refresh_at),
            "expires_at": stamp(lease.expires_at),
            "receipt": f"/v1/receipts/{lease.lease_id}",
            "data": lease.data,
        }

    def _aws(self, session: FakeSession, name: str) -> dict[str, Any]:
        lease = self._current(session, name, "", 0.0)
        if self.grants[name].kind != "aws":
            raise DeniedError("grant_unknown", f"{name!r} is not an AWS grant")
        return {
            "AccessKeyId": lease.data["access_key_id"],
            "SecretAccessKey": lease.data["secret_access_key"],
            "Token": lease.data["session_token"],
            "Expiration": stamp(lease.expires_at),
            "AccountId": lease.data["account_id"],
        }

    def _current(self, session: FakeSession, name: str, subpath: str, min_ttl: float) -> FakeLease:
        if not NAME.fullmatch(name) or any(part in ("", ".", "..") for part in subpath.split("/") if subpath):
            raise DeniedError("path_invalid", "this path names no grant")
        if name not in self.grants:
            raise DeniedError("grant_unknown", f"there is no grant {name!r}")
        grant = self.grants[name]
        if name not in session.grants:
            raise DeniedError("grant_denied", f"this session was not opened for {name!r}")
        if grant.denied:
            raise DeniedError(grant.denied, f"grant {name!r} is refused")
        if bool(subpath) != grant.subpath:
            raise DeniedError("subpath_denied", f"grant {name!r} does not admit the subpath {subpath!r}")
        now = time.time()
        lease = session.leases.get((name, subpath))
        if lease is not None and lease.expires_at - now < min_ttl <= (grant.max_ttl or grant.ttl):
            lease = session.leases[name, subpath] = self._lease(session, name, lease.version + 1)
        if lease is None or now >= lease.refresh_at:
            lease = session.leases[name, subpath] = self._lease(session, name, lease.version + 1 if lease else 1)
        if lease.expires_at - now < min_ttl:
            raise DeniedError("ttl_unavailable", f"grant {name!r} cannot last that long")
        return lease

    def _lease(self, session: FakeSession, name: str, version: int) -> FakeLease:
        grant, now = self.grants[name], time.time()
        if grant.kind == "aws":
            data: dict[str, Any] = {
                "access_key_id": "ASIA" + secrets.token_hex(8).upper(),
                "secret_access_key": secrets.token_urlsafe(30),
                "session_token": secrets.token_urlsafe(150),
                "account_id": "111122223333",
                "region": grant.region,
            }
            self.values += [data["secret_access_key"], data["session_token"]]
        else:
            data = {"username": f"v-etl-{secrets.token_hex(4)}", "password": secrets.token_urlsafe(18)} | grant.data
            self.values.append(data["password"])
        expires = min(now + grant.ttl, session.expires_at)
        rotate = now + (grant.rotate_after if grant.rotate_after is not None else grant.ttl / 2)
        return FakeLease(secrets.token_hex(13), version, now, min(rotate, expires), expires, data)

    def _view(self, session: FakeSession) -> dict[str, Any]:
        return {
            "session_id": session.session_id,
            "environment": session.environment,
            "grants": list(session.grants),
            "offers": [
                {"grant": name, "kind": grant.kind, "subpath": grant.subpath}
                | ({"region": grant.region} if grant.kind == "aws" else {})
                for name, grant in self.grants.items()
                if name in session.grants
            ],
            "expires_at": stamp(session.expires_at),
            "leases": [
                {
                    "grant": name,
                    "subpath": subpath,
                    "version": lease.version,
                    "refresh_at": stamp(lease.refresh_at),
                    "expires_at": stamp(lease.expires_at),
                }
                for (name, subpath), lease in session.leases.items()
            ],
        }


def new_handle() -> str:
    body = _base62(int.from_bytes(secrets.token_bytes(32), "big"), 43)
    return "cbs_" + body + _base62(zlib.crc32(body.encode()), 6)


def shaped(unverified: str) -> bool:
    match = re.fullmatch(r"cbs_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", unverified)
    return match is not None and _base62(zlib.crc32(match[1].encode()), 6) == match[2]


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _base62(number: int, width: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = ALPHABET[digit] + text
    return text.rjust(width, "0")


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class _Cut:
    """Keeps the open connections, so that `vanish` can cut them."""

    open: set[socket.socket]

    def cut(self) -> None:
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _TcpServer(_Cut, socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self.open = set()
        super().__init__(*args)


class _UnixServer(_Cut, socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self.open = set()
        super().__init__(*args)


class _Handler(http.server.BaseHTTPRequestHandler):
    wire: ClassVar[BrokerWire]
    transport: ClassVar[str]
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server, _Cut)
        self.server.open.add(self.connection)

    def finish(self) -> None:
        assert isinstance(self.server, _Cut)
        self.server.open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.wire.clock_ahead if timestamp is None else timestamp)

    def log_message(self, *args: Any) -> None:
        """Says nothing: a request line may carry what a log must not."""

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(None)

    def _answer(self, form: dict[str, str] | None) -> None:
        url = urllib.parse.urlsplit(self.path)
        fault = self.wire.take_fault(url.path) or Fault("", 0)
        if fault.slow:
            time.sleep(fault.slow)
        if fault.raw:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))  # unread, it would turn the answer into a reset
            self.wfile.write(fault.raw)
            self.close_connection = True
            return
        try:
            form = self._form(url.path) if form is None else form
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, urllib.parse.unquote(url.path), url.query, headers, form, self.transport)
            self.wire.seen.append(seen)
            body = self.wire.answer(seen, fault)
        except DeniedError as error:
            self._send_error(error, aws=url.path.startswith("/v1/aws/"))
            return
        if fault.lose_answer:
            self.close_connection = True
            return
        self._send(200, {} if body is None else body)

    def _form(self, path: str) -> dict[str, str]:
        size = int(self.headers.get("Content-Length", "0"))
        if size > 32 * 1024:
            self.close_connection = True
            raise DeniedError("request_invalid", "the body is longer than 32 KiB")
        raw = self.rfile.read(size).decode("ascii", "replace")
        if path == "/v1/session/heartbeat":
            return {}
        if self.headers.get("Content-Type") != "application/x-www-form-urlencoded":
            raise DeniedError("request_invalid", "the body must be application/x-www-form-urlencoded")
        try:
            pairs = urllib.parse.parse_qsl(raw, keep_blank_values=True, strict_parsing=True)
        except ValueError:
            raise DeniedError("request_invalid", "the body is not form-encoded") from None
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise DeniedError("request_invalid", "a parameter is given twice")
        if path == "/v1/token" and set(names) - TOKEN_PARAMETERS:
            raise DeniedError("request_invalid", "unknown parameter: " + ", ".join(sorted(set(names) - TOKEN_PARAMETERS)))
        return dict(pairs)

    def _send_error(self, error: DeniedError, *, aws: bool) -> None:
        body: dict[str, Any] = {
            "error": error.oauth,
            "code": error.word,
            "error_description": error.sentence,
            "correlation_id": secrets.token_hex(13),
        }
        if aws:
            body |= {"code": error.word, "message": error.sentence, "Code": error.word, "Message": error.sentence}
        extra = {}
        if error.status == 401:
            extra["WWW-Authenticate"] = 'Bearer error="invalid_token"'
        if error.status in (429, 503):
            extra["Retry-After"] = str(error.retry_after if error.retry_after is not None else 1)
        self._send(error.status, body, extra)

    def _send(self, status: int, body: dict[str, Any], extra: dict[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)
        self.wfile.flush()


def _handler(served: BrokerWire, over: str) -> type[_Handler]:
    class Handler(_Handler):
        wire = served
        transport = over

        def address_string(self) -> str:
            return over

    return Handler


@contextlib.contextmanager
def broker_wire(folder: Path, **settings: Any) -> Iterator[BrokerWire]:
    """A running double in a folder that is the caller's own (0700: a client refuses a socket in any other)."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with BrokerWire(folder, **settings) as wire:
        yield wire
