"""Strangers without a token on TCP: what they use up is not what the jobs on the Unix socket have."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvloop

from broker.errors import Code
from broker.web.limits import DoorLimits
from broker.web.sockets import HttpsAt, LoopbackAt, UnixAt
from tests.contract.test_wire import EXCHANGE, body_of, exchange, refused
from tests.fakes.pki import Pki
from tests.fakes.running_broker import RunningBroker, Wire

FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
SLOW = b"POST /v1/token HTTP/1.1\r\nHost: localhost\r\n" + FORM + b"Content-Length: 999\r\n\r\ngr"


def test_bodies_that_do_not_come_keep_nobody_off_another_listener(tmp_path: Path) -> None:
    """One bound for all listeners let anybody who reached HTTPS shut the runner's own socket, and the admin's."""
    limits = DoorLimits(concurrency=4, request_seconds=20)
    with (
        RunningBroker([UnixAt(path=tmp_path / "b.sock"), LoopbackAt(host="127.0.0.1", port=0)], limits=limits) as broker,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(4):
            stack.enter_context(Wire(broker.urls[1])).send(SLOW)
        deadline = time.monotonic() + 10
        while True:
            with Wire(broker.urls[1]) as stranger:
                if stranger.request("GET", "/healthz").status == 429:
                    break
            assert time.monotonic() < deadline
        with Wire(broker.urls[0]) as job:
            assert body_of(exchange(job), "Token")


@pytest.mark.parametrize(("path", "fields"), [("/v1/token", EXCHANGE), ("/v1/revoke", {"token": "cbs_nobody"})])
def test_a_length_of_thousands_of_digits_is_the_stranger_s_error(path: str, fields: dict[str, str]) -> None:
    """The parser lets leading zeros through, and int() raises beyond 4300 digits: it was a 500 with a traceback in the log."""
    body = urlencode(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + FORM + b"Content-Length: "
    with RunningBroker([LoopbackAt(host="127.0.0.1", port=0)]) as broker:
        for digits in (11, 5000):
            with Wire(broker.urls[0]) as stranger:
                stranger.send(head + b"%0*d\r\n\r\n" % (digits, len(body)) + body)
                refused(stranger.answer(), Code.REQUEST_INVALID, "Content-Length is not a number of at most 10 digits")
                assert stranger.ended()  # it was not read to its end
        with Wire(broker.urls[0]) as twin:
            twin.send(head + b"%010d\r\n\r\n" % len(body) + body)
            assert twin.answer().status == 200


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def https(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RunningBroker, Pki]]:
    """At most eight connections, each with a long time for its handshake."""
    pki = Pki(tmp_path)
    at = HttpsAt(host="127.0.0.1", port=0, cert=pki.server_cert, key=pki.server_key, client_ca=pki.ca_cert)
    limits = DoorLimits(concurrency=4, request_seconds=60, stop_seconds=1)
    with RunningBroker([at], limits=limits, loop_factory=request.param) as broker:
        yield broker, pki


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def open_files_idle(broker: RunningBroker, pki: Pki) -> int:
    """Once a connection has come and gone: libraries open some at the first."""
    with Wire(broker.urls[0], pki.client()) as wire:
        assert wire.request("GET", "/healthz").status == 200
    time.sleep(0.2)
    return open_files()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_connections_without_a_handshake_hold_no_more_descriptors_than_others(https: tuple[RunningBroker, Pki]) -> None:
    """400 that said nothing held 400 for ten seconds; with enough of them SQLite and the upstreams had none left."""
    broker, pki = https
    before = open_files_idle(broker, pki)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Wire(broker.urls[0])) for _ in range(100)]
        until(lambda: open_files() <= before + 100 + 8)  # our ends, and the broker's
        assert all(wire.ended() for wire in silent[8:])  # not a byte
        with Wire(broker.urls[0]) as another:
            assert another.ended()
        # Those who are inside are not cut off, and a place that becomes free is somebody's.
        inside = pki.client().wrap_socket(silent[0].sock, server_hostname="localhost")
        with inside:
            inside.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert inside.recv(4096).startswith(b"HTTP/1.1 200 ")
            for wire in silent[1:]:
                wire.sock.close()
            until(lambda: open_files() <= before + 2)
            with Wire(broker.urls[0], pki.client()) as job:
                assert body_of(exchange(job), "Token")
    until(lambda: open_files() <= before)


def test_a_handshake_that_fails_leaves_no_descriptor_and_no_place_taken(https: tuple[RunningBroker, Pki]) -> None:
    """No TLS at all, a connection that is reset, a certificate of nobody."""
    broker, pki = https
    before = open_files_idle(broker, pki)
    for attempt in range(30):
        with Wire(broker.urls[0]) as stranger:
            if attempt % 2:
                stranger.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                stranger.sock.recv(4096)
            else:
                stranger.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: open_files() <= before)
    with Wire(broker.urls[0], pki.client(with_certificate=True)) as job:
        assert body_of(exchange(job), "Token")
    assert broker.desk.exchanges[-1].peer.certificate == "spiffe://example.com/job"


def test_a_stop_waits_for_no_handshake_and_answers_who_is_inside(https: tuple[RunningBroker, Pki]) -> None:
    """And the port is closed at once."""
    broker, pki = https
    with Wire(broker.urls[0]) as silent, Wire(broker.urls[0], pki.client()) as inside:
        assert inside.request("GET", "/healthz").status == 200
        started = time.monotonic()
        broker.stop()
        assert silent.ended()
        assert inside.ended()
        with pytest.raises(ConnectionRefusedError), Wire(broker.urls[0]):
            pass
    broker.join()
    assert time.monotonic() - started < 5
