"""An issuer's web server that misbehaves on order: what stands behind a URL on a bad day."""

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from broker.demo.certificates import LoopbackCa

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    server: "KeyServer"

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.reply(404, b"{}")
        else:
            answer(self)

    def reply(self, status: int, body: bytes, own_date: str | None = None, **headers: str) -> None:
        if own_date is None:
            self.send_response(status)
        else:
            self.send_response_only(status)
            self.send_header("Date", own_date)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        pass


class KeyServer(ThreadingHTTPServer):
    """On loopback, answering each path with what `answers` says; `seen` has the paths in order."""

    daemon_threads = True

    def __init__(self, ca: LoopbackCa | None = None, *, host: str = "127.0.0.1") -> None:
        """With TLS when there is an authority: as the server of that name, whatever its address."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.ca_file = None if ca is None else ca.ca_file
        if ca is not None:
            self.socket = ca.server_context(host).wrap_socket(self.socket, server_side=True)
        self.answers: dict[str, Answer] = {}
        self.seen: list[str] = []
        self.stopping = threading.Event()
        self._parts = ExitStack()

    @property
    def url(self) -> str:
        return f"http{'' if self.ca_file is None else 's'}://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self._parts.callback(self.server_close)
        self._parts.callback(thread.join)
        self._parts.callback(self.shutdown)
        self._parts.callback(self.stopping.set)
        return self

    def __exit__(self, *exc: object) -> None:
        self._parts.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in mid-answer is expected here."""


def document(body: bytes, status: int = 200, **headers: str) -> Answer:
    return lambda handler: handler.reply(status, body, **headers)


def redirect(location: str) -> Answer:
    return lambda handler: handler.reply(302, b"", Location=location)


def endless(handler: Handler) -> None:
    """A body without an end, as fast as it is taken."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(10**9))
    handler.end_headers()
    while not handler.server.stopping.is_set():
        handler.wfile.write(b" " * 65536)


def trickle(handler: Handler) -> None:
    """Headers at once, then a byte every 50 ms, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.stopping.wait(0.05):
        handler.wfile.write(b" ")


def silent(handler: Handler) -> None:
    """Takes the request, and says nothing."""
    handler.server.stopping.wait(20)
    handler.close_connection = True


def cut(handler: Handler) -> None:
    """Promises more than it sends, and hangs up."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"keys":')
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
