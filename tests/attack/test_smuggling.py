"""One connection, two readers: what a proxy in front would read as one request must not be two here, nor the other way round."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvloop

from broker.errors import Code
from broker.web.limits import DoorLimits
from broker.web.sockets import UnixAt
from tests.contract.test_wire import EXCHANGE, body_of, refused
from tests.fakes.running_broker import RunningBroker, Wire

HOST = b"Host: localhost\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
SECOND = b"GET /readyz HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningBroker]:
    loop_factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with RunningBroker(
        [UnixAt(path=tmp_path / "b.sock")], limits=DoorLimits(request_seconds=2), loop_factory=loop_factory
    ) as made:
        yield made


@pytest.fixture
def wire(broker: RunningBroker) -> Iterator[Wire]:
    with Wire(broker.urls[0]) as made:
        yield made


def rest_of(sock: socket.socket) -> bytes:
    """What still comes until the other end closes or resets."""
    sock.settimeout(5)
    raw = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            raw += piece
    return raw


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_body_of_an_upgrade_is_not_a_second_request(wire: Wire, pieces: int) -> None:
    """The parser ends an upgrade with its head: the body was answered as a request of its own, and every answer behind a proxy
    went to somebody else.
    """
    head = b"POST /healthz HTTP/1.1\r\n" + HOST + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(SECOND)
    wire.send(head + SECOND if pieces == 1 else head)
    refused(wire.answer(), Code.REQUEST_INVALID, "upgrade")
    if pieces == 2:
        with contextlib.suppress(OSError):  # the other end may have ended the connection already
            wire.send(SECOND)
    assert rest_of(wire.sock) == b""


def test_nothing_is_read_behind_an_upgrade(wire: Wire) -> None:
    """What came in the same piece was swallowed, and what came in the next one answered: two proxies would count differently."""
    wire.send(b"GET /healthz HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n" + SECOND)
    answer = wire.answer()
    assert answer.status == 200
    assert answer.headers["connection"] == "close"
    assert rest_of(wire.sock) == b""


def chunked(headers: bytes, trailers: bytes) -> bytes:
    body = urlencode(EXCHANGE).encode()
    head = b"POST /v1/token HTTP/1.1\r\n" + HOST + headers + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n0\r\n" % (len(body), body) + trailers + b"\r\n"


def test_a_trailer_is_no_header(wire: Wire) -> None:
    """Trailers were appended to the headers: a proxy that checks or strips one of those would never have seen it."""
    wire.send(chunked(b"", FORM))
    refused(wire.answer(), Code.REQUEST_INVALID, "application/x-www-form-urlencoded")


def test_a_trailer_does_no_harm(wire: Wire) -> None:
    wire.send(chunked(FORM, b"Host: elsewhere\r\nDigest: abc\r\n"))
    assert body_of(wire.answer(), "Token")


def test_trailers_count_as_headers_do(wire: Wire) -> None:
    wire.send(chunked(FORM, b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(20))))
    assert b" 200 " not in rest_of(wire.sock)
