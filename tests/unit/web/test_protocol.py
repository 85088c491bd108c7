"""What our subclass takes from uvicorn is still there, and what it adds holds. An upgrade that changes either fails here."""

import asyncio
import inspect
import socket
import struct
from collections.abc import MutableMapping
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from broker.web.limits import DoorLimits
from broker.web.protocol import GuardedProtocol, certificate_name, peer_of
from broker.web.visit import PEER

OVERRIDDEN = (
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_message_complete",
    "on_response_complete",
    "send_400_response",
)


class FakeTransport(asyncio.Transport):
    """Counts writes, as a socket would see them."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        super().__init__({"socket": sock, "peername": ("192.0.2.7", 5)})
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def a_connection(app: Any, transport: FakeTransport) -> GuardedProtocol:
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, ws="none", interface="asgi3")
    protocol = GuardedProtocol(config, ServerState(), {}, listener="https", limits=DoorLimits())
    protocol.connection_made(transport)
    return protocol


def test_what_we_override_exists_in_uvicorn() -> None:
    """A callback that uvicorn renames would silently not be called."""
    for name in OVERRIDDEN:
        assert name in vars(GuardedProtocol)
        assert name in vars(HttpToolsProtocol), f"uvicorn {uvicorn.__version__} has no {name}"
    assert list(inspect.signature(HttpToolsProtocol.__init__).parameters)[:4] == ["self", "config", "server_state", "app_state"]
    assert list(inspect.signature(uvicorn.Server.startup).parameters) == ["self", "sockets"]


async def hello(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_head_and_body_are_one_write(version: str) -> None:
    """Whether the connection goes on or ends."""
    transport = FakeTransport()
    protocol = a_connection(hello, transport)
    protocol.data_received(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    await asyncio.gather(*protocol.tasks)
    (whole,) = transport.writes
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert whole.endswith(b"\r\n\r\nhello")
    assert transport.closed == (version == "1.0")
    protocol.connection_lost(None)


async def test_an_exception_s_answer_and_a_refusal_are_one_write() -> None:
    """Those that uvicorn writes by itself, too."""

    async def broken(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        raise ValueError

    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"nonsense\r\n\r\n"):
        transport = FakeTransport()
        protocol = a_connection(broken, transport)
        protocol.data_received(data)
        await asyncio.gather(*protocol.tasks)
        assert len(transport.writes) == 1
        assert transport.closed
        protocol.connection_lost(None)


async def test_the_scope_carries_the_peer() -> None:
    """Put there by the protocol, for each request of the connection."""
    seen = []

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope[PEER])
        await hello(scope, receive, send)

    protocol = a_connection(app, FakeTransport())
    for _ in range(2):
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.gather(*protocol.tasks)
    assert [peer.address for peer in seen] == ["192.0.2.7", "192.0.2.7"]
    protocol.connection_lost(None)


async def test_nothing_is_logged_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn's access log has whole URLs."""
    protocol = a_connection(hello, FakeTransport())
    protocol.data_received(b"GET /?token=x HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.gather(*protocol.tasks)
    assert not protocol.access_log
    assert caplog.text == ""
    protocol.connection_lost(None)


def test_tcp_is_never_asked_for_a_uid() -> None:
    """Linux answers SO_PEERCRED on TCP with nonsense and no error: pid 0, uid and gid -1."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        nonsense = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert struct.unpack("3i", nonsense) == (0, -1, -1)
        peer = peer_of(FakeTransport(client), "http")
    assert (peer.uid, peer.pid) == (None, None)


def test_a_transport_that_knows_nothing_is_nobody() -> None:
    """Its peer may be gone already."""
    peer = peer_of(asyncio.Transport(), "http")
    assert (peer.uid, peer.address, peer.certificate) == (None, "", None)


def test_a_certificate_is_known_by_its_first_name() -> None:
    """URI or DNS, else the common name; an e-mail address is a person's."""
    subject = ((("organizationName", "x"),), (("commonName", "runner"),))
    assert (
        certificate_name({"subjectAltName": (("email", "a@b"), ("DNS", "job.example.com")), "subject": subject})
        == "job.example.com"
    )
    assert certificate_name({"subjectAltName": (("IP Address", "::1"),), "subject": subject}) == "runner"
    assert certificate_name({"subject": ()}) is None
