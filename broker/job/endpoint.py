"""The loopback endpoint that AWS SDKs ask, for the time of one `exec`.

It speaks the container credentials protocol of ECS and EKS with a random token that is good for this session's AWS grants and
nothing else, asks the broker at each request, and while the broker is away goes on with the last answer until that answer's true
expiry. Threat: a web page or another process on the machine that finds the port; so the token, the Host header and the absence
of everything a browser or a proxy adds are all checked.
"""

import contextlib
import hmac
import http.server
import io
import json
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar

from broker.errors import BrokerError, Code, Refused, Unavailable
from broker.job.answers import ContainerCredentials
from broker.secret import Secret

PATH = "/v1/aws/"
_FORWARD_SECONDS = 0.8  # Java's SDK gives up after one second
_AWAY_SECONDS = 2.0  # after a failure the broker is left alone this long, so that no SDK waits at every request
_REQUEST_SECONDS = 10.0  # for a whole request, the wait for it included
_MOST_CONNECTIONS = 128  # each has a thread of this process, which must not run out of them
_OK = 200
_FOREIGN_HEADERS = ("Origin", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Error",
    503: "Unavailable",
}

Fetch = Callable[[str, float], ContainerCredentials]


class Answers:
    """The current answer per grant: the broker's, or its last one while it is away."""

    def __init__(
        self,
        fetch: Fetch,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._clock = clock
        self._last: dict[str, ContainerCredentials] = {}
        self._away_until: dict[str, float] = {}
        self._lock = threading.Lock()

    def current(self, grant: str) -> ContainerCredentials:
        """An answer that has not expired. A refusal drops what was kept: only an outage is survived (DESIGN 3.7).

        Raises what the broker refused with, or Unavailable when it is away and nothing valid is left.
        """
        with self._lock:
            last = self._last.get(grant)
            away = self._clock() < self._away_until.get(grant, 0.0)
        alive = last is not None and last.expires_at > self._now()
        if away and last is not None and alive:
            return last
        try:
            fresh = self._valid(grant)
        except Unavailable:
            with self._lock:
                self._away_until[grant] = self._clock() + _AWAY_SECONDS
            if last is not None and alive:
                return last
            raise
        except Refused:
            with self._lock:
                self._last.pop(grant, None)
            raise
        with self._lock:
            self._last[grant] = fresh
            self._away_until.pop(grant, None)
        return fresh

    def _valid(self, grant: str) -> ContainerCredentials:
        fresh = self._fetch(grant, _FORWARD_SECONDS)
        if fresh.expires_at <= self._now():
            raise Unavailable(Code.BROKER_UNREACHABLE, "the broker's answer has expired already; is this machine's clock right?")
        return fresh


class Endpoint:
    """Bound when made, so that a child can be told its address; serves between `start` and `stop`."""

    def __init__(self, grants: Collection[str], answers: Answers) -> None:
        self.token = Secret(secrets.token_urlsafe(32))
        handler = type("_BoundHandler", (_Handler,), {"served": _Served(frozenset(grants), answers, self.token)})
        self._server = _Server(("127.0.0.1", 0), handler)
        _, self._port = self._server.loopback
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)

    def url(self, grant: str) -> str:
        return f"http://127.0.0.1:{self._port}{PATH}{grant}"

    def start(self) -> None:
        """Requests that came since the socket was bound are answered now."""
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True, slots=True)
class _Served:
    grants: frozenset[str]
    answers: Answers
    token: Secret


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = False  # nobody shares this port

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: dict[socket.socket, bool] = {}  # whether it has shown the token, oldest first
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for it. When there are too many, the oldest that has not shown the token goes, and an SDK finds a place."""
        with self._lock:
            if len(self._open) >= _MOST_CONNECTIONS:
                gone = next((one for one, known in self._open.items() if not known), request)
                with contextlib.suppress(OSError):
                    gone.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it
                self._open.pop(gone, None)
            else:
                gone = None
            if gone is not request:
                self._open[request] = False
        if gone is request:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def knows(self, request: socket.socket) -> None:
        """It has shown the token."""
        with self._lock:
            if request in self._open:
                self._open[request] = True

    @property
    def loopback(self) -> tuple[str, int]:
        host, port = self.server_address[:2]
        assert isinstance(host, str)
        return host, int(port)


class _Timed(io.RawIOBase):
    """What comes from a socket until a moment, not so long after each byte. Raises TimeoutError."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self.until = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(max(0.001, self.until - time.monotonic()))
        return self._sock.recv_into(buffer)


class _Handler(http.server.BaseHTTPRequestHandler):
    served: ClassVar[_Served]
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._timed = _Timed(self.connection)
        self.rfile = io.BufferedReader(self._timed)

    def handle_one_request(self) -> None:
        self._timed.until = time.monotonic() + _REQUEST_SECONDS
        super().handle_one_request()

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        host, port = self.server.loopback
        given = self.headers.get_all("Authorization") or []
        if self.headers.get("Host") not in (f"{host}:{port}", f"localhost:{port}"):
            return self._refuse(403, "host_unknown", "this endpoint answers to its own loopback address alone")
        if any(name in self.headers for name in _FOREIGN_HEADERS):
            return self._refuse(403, "origin_foreign", "this endpoint answers no browser and no proxy")
        if len(given) != 1 or not self._knows(given[0]):
            return self._refuse(403, "token_wrong", "the endpoint's token is missing or wrong")
        self.server.knows(self.connection)
        grant = self.path.removeprefix(PATH)
        if not self.path.startswith(PATH) or grant not in self.served.grants:
            return self._refuse(404, "grant_unknown", "there is no AWS grant of that name in this session")
        try:
            answer = self.served.answers.current(grant)
        except BrokerError as error:
            # 4xx and 5xx are all an SDK tells apart; 401 would make some ask for another kind of sign-on.
            status = 503 if isinstance(error, Unavailable) else 403 if isinstance(error, Refused) else 500
            return self._refuse(status, error.code.word, error.public)
        return self._send(_OK, answer.body.reveal().encode())

    def _no_other_method(self) -> None:
        self._refuse(405, "request_invalid", "this endpoint answers GET alone")

    do_POST = _no_other_method  # noqa: N815 - http.server's name
    do_PUT = _no_other_method  # noqa: N815 - http.server's name
    do_DELETE = _no_other_method  # noqa: N815 - http.server's name
    do_HEAD = _no_other_method  # noqa: N815 - http.server's name
    do_OPTIONS = _no_other_method  # noqa: N815 - http.server's name
    do_PATCH = _no_other_method  # noqa: N815 - http.server's name

    def _knows(self, unverified: str) -> bool:
        presented = unverified.removeprefix("Bearer ")
        return hmac.compare_digest(presented.encode("latin-1", "replace"), self.served.token.reveal().encode())

    def _refuse(self, status: int, code: str, message: str) -> None:
        # Go and Java read the lower-case keys, JavaScript the others.
        self._send(status, json.dumps({"code": code, "message": message, "Code": code, "Message": message}).encode())

    def _send(self, status: int, body: bytes) -> None:
        """One write: headers and body in two would wait 40 ms for each other (Nagle, delayed ACK)."""
        if status != _OK:
            self.close_connection = True  # whatever body came with it is not read as the next request
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
            "Content-Type: application/json\r\n"  # exactly: Go's SDK parses no error with a charset behind it
            "Cache-Control: no-store\r\n"
            f"Content-Length: {len(body)}\r\n" + ("Connection: close\r\n" if self.close_connection else "") + "\r\n"
        )
        self.connection.settimeout(_REQUEST_SECONDS)
        self.wfile.write(head.encode("ascii") + (b"" if self.command == "HEAD" else body))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Says nothing: stderr belongs to the command."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the SDK hung up
