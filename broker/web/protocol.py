"""Our subclass of uvicorn's HTTP protocol: what uvicorn does not tell, and the limits that it does not have.

`HttpToolsProtocol` is no documented extension point, so every behaviour here is pinned by a test that fails when uvicorn changes.
"""

import asyncio
import logging
import socket
import struct
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from broker.errors import Code, Refused
from broker.exchanging import Peer, Transport
from broker.session import new_id
from broker.web.limits import DoorLimits
from broker.web.replies import refusal
from broker.web.visit import PEER

log = logging.getLogger("credbroker.web")

_UCRED = struct.Struct("3i")  # pid, uid, gid
_CONTINUE = b"HTTP/1.1 100"
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class _Corked(asyncio.Transport):
    """Holds an answer's pieces back until it is complete, so that head and body are one write, on every loop and under TLS.

    uvicorn writes them separately; a client that reads after the first then waits for the second packet. Answers here are small
    and whole, never streamed. Everything else goes straight to the transport behind.
    """

    def __init__(self, behind: asyncio.Transport) -> None:
        super().__init__()
        self._behind = behind
        self._held: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        piece = bytes(data)
        if piece.startswith(_CONTINUE):
            self._behind.write(piece)  # the client sends its body only when it has seen this
        else:
            self._held.append(piece)

    def flush(self) -> None:
        if self._held:
            whole = b"".join(self._held)
            self._held.clear()
            self._behind.write(whole)

    def close(self) -> None:
        self.flush()
        self._behind.close()

    def abort(self) -> None:
        self._behind.abort()

    def is_closing(self) -> bool:
        return self._behind.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._behind.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._behind.pause_reading()

    def resume_reading(self) -> None:
        self._behind.resume_reading()


class _HeadTooLarge(Exception):
    """Raised in a parser callback; uvicorn then asks for `send_400_response`."""


class _Ambiguous(Exception):
    """As above."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Knows its peer, and ends it when headers do not come, or come without end."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        listener: Transport,
        limits: DoorLimits,
        admin_uids: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)
        self._listener = listener
        self._limits = limits
        self._admin_uids = admin_uids
        self._peer = Peer(transport=listener)
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = False  # between a request's first byte and its last header
        self._in_body = False  # between its last header and its last byte
        self._begun = 0  # requests begun in the piece of data being parsed
        self._head_bytes = 0  # of complete headers
        self._raw_bytes = 0  # of a head that is not complete yet
        self._refused = ""
        self._last = False  # what comes after the request that is being answered is not read

    # --- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        self._peer = peer_of(transport, self._listener)
        corked = _Corked(transport)
        super().connection_made(corked)
        strangers = self._listener == "admin" and self._peer.uid not in self._admin_uids
        if strangers or len(self.connections) > self._limits.connections:
            event = "admin.stranger" if strangers else "connections.full"
            log.warning(event, extra={"listener": self._listener, "peer_uid": self._peer.uid})
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._last:
            return
        idle = not self._in_head and not self._in_body
        in_head = self._in_head
        self._begun = 0
        super().data_received(data)
        if not self._in_head:
            self._raw_bytes = 0
        elif in_head or (idle and self._begun == 1):
            self._raw_bytes += len(data)  # all of it belongs to one head that is not complete
        if self._raw_bytes > self._limits.header_bytes and not self.transport.is_closing():
            self._refused = self._too_large()
            self.send_400_response(self._refused)

    # --- the parser's callbacks ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[PEER] = self._peer
        self._in_head, self._in_body = True, False
        self._head_bytes = 0
        self._begun += 1
        self._arm()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(b": \r\n"))
        if self._in_head:  # a trailer comes after the checks that headers go through (RFC 9110 6.5.1: never merged)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_head, self._in_body = False, True
        upgrade = self.parser.should_upgrade()
        if upgrade and any(name in _FRAMING for name, _ in self.headers):
            # The parser ends such a message with its head and would take the body for the next request.
            self._refused = "a request that asks for an upgrade has no body here"
            raise _Ambiguous
        super().on_headers_complete()
        if upgrade:
            self._last, self.cycle.keep_alive = True, False

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    # --- answers ------------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        cast("_Corked", self.transport).flush()
        if self._in_body and not self.pipeline and not self.transport.is_closing():
            # Answered before the request was whole: nobody waits for the rest, and nothing bounds it.
            self.transport.close()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's sentence; ours says the same in our shape
        """What is no HTTP, or too much of it, gets our error and the end of the connection."""
        sentence = self._refused or "the request is not valid HTTP/1.1"
        correlation_id = new_id()
        reply = refusal(Refused(Code.REQUEST_INVALID, sentence), correlation_id)
        head = [b"HTTP/1.1 400 Bad Request\r\n"]
        head += [b"%s: %s\r\n" % header for header in reply.headers]
        head.append(b"x-correlation-id: %s\r\n" % correlation_id.encode("ascii"))
        head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(reply.body))
        self.transport.write(b"".join(head) + reply.body)
        self.transport.close()

    # --- the pieces of it ---------------------------------------------------------------------------------------------

    def _count(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > self._limits.header_bytes:
            self._refused = self._too_large()
            raise _HeadTooLarge

    def _too_large(self) -> str:
        return f"the request line and headers are larger than {self._limits.header_bytes} bytes"

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.request_seconds, self._head_late)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()


def peer_of(transport: asyncio.BaseTransport, listener: Transport) -> Peer:
    """Who is at the other end, by the kernel's and the TLS layer's word."""
    sock = transport.get_extra_info("socket")
    # The family first: on TCP, SO_PEERCRED answers nonsense without an error.
    if sock is not None and sock.family == socket.AF_UNIX:
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer(transport=listener, uid=uid, pid=pid)
    name = transport.get_extra_info("peername")
    certificate = transport.get_extra_info("peercert") if listener == "https" else None
    return Peer(
        transport=listener,
        address=str(name[0]) if name else "",
        certificate=certificate_name(certificate) if certificate else None,
    )


def certificate_name(certificate: dict[str, Any]) -> str | None:
    """What a client certificate, which TLS has verified, calls its holder: the first URI or DNS name, else the common name."""
    for kind, name in certificate.get("subjectAltName", ()):
        if kind in {"URI", "DNS"}:
            return str(name)
    return next((str(value) for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), None)
