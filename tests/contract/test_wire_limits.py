"""What a caller can do to the doors: too much, too slowly, too many, half, twice; and how a stop treats those who are inside."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvloop

from broker.errors import Code, Misconfigured
from broker.web.limits import DoorLimits
from broker.web.sockets import HttpsAt, Listener, LoopbackAt, UnixAt
from tests.contract.test_wire import EXCHANGE, FORM, body_of, exchange, opened, refused
from tests.fakes.pki import Pki
from tests.fakes.running_broker import RunningBroker, Wire

QUICK = DoorLimits(request_seconds=0.3, concurrency=4, stop_seconds=1, body_bytes=32 * 1024)


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A Unix socket with short patience."""
    loop_factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    at = UnixAt(path=tmp_path_factory.mktemp("limits") / "broker.sock")
    with RunningBroker([at], limits=QUICK, loop_factory=loop_factory) as broker:
        yield broker


@pytest.fixture
def broker(running: RunningBroker) -> RunningBroker:
    running.call(running.desk.forget)
    return running


@pytest.fixture
def wire(broker: RunningBroker) -> Iterator[Wire]:
    with Wire(broker.urls[0]) as opened_wire:
        yield opened_wire


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- too slowly -------------------------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_is_ended(wire: Wire) -> None:
    """Headers have so many seconds, from the first moment on."""
    assert wire.ended()


def test_headers_that_drip_are_ended(wire: Wire) -> None:
    """A byte now and then does not prolong it (slowloris)."""
    started = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 200:
            wire.send(bytes([byte]))
            time.sleep(0.02)
    assert wire.ended()
    assert time.monotonic() - started < 3


def test_the_second_request_of_a_connection_has_the_same_time(wire: Wire) -> None:
    """An answered request does not buy more for the next."""
    assert wire.request("GET", "/healthz").status == 200
    wire.send(b"GET /healthz HT")
    assert wire.ended()


def test_a_body_that_does_not_come_is_refused(wire: Wire) -> None:
    """And the connection is over: where the next request would begin is not known."""
    wire.send(f"POST /v1/token HTTP/1.1\r\nHost: localhost\r\n{FORM}\r\nContent-Length: 100\r\n\r\ngrant".encode())
    answer = wire.answer()
    refused(answer, Code.REQUEST_INVALID, "did not arrive within 0.3 seconds")
    assert answer.headers["connection"] == "close"
    assert wire.ended()


def test_a_body_that_comes_in_pieces_is_read(wire: Wire) -> None:
    """The allowed twin: slow, and in time."""
    body = urlencode(EXCHANGE).encode()
    wire.send(f"POST /v1/token HTTP/1.1\r\nHost: localhost\r\n{FORM}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    for piece in (body[:10], body[10:50], body[50:]):
        wire.send(piece)
        time.sleep(0.03)
    body_of(wire.answer(), "Token")


def test_a_body_behind_an_answer_ends_the_connection(wire: Wire) -> None:
    """A GET is answered before its endless body is read; nobody waits for the rest."""
    wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx")
    assert wire.answer().status == 200
    assert wire.ended()


# --- too much ---------------------------------------------------------------------------------------------------------


def test_a_body_has_a_limit_and_may_reach_it(wire: Wire) -> None:
    """By its announced length, and by what really comes."""
    form = urlencode(EXCHANGE).encode() + b"&scope="
    fits = form + b"x" * (32 * 1024 - len(form))
    refused(wire.request("POST", "/v1/revoke", [FORM], fits), Code.REQUEST_INVALID, "not known")  # it was read
    answer = wire.request("POST", "/v1/token", [FORM], fits + b"x")
    refused(answer, Code.REQUEST_INVALID, "larger than 32768 bytes")
    assert wire.ended()


def test_a_chunked_body_has_the_same_limit(wire: Wire) -> None:
    """It announces nothing."""
    wire.send(f"POST /v1/token HTTP/1.1\r\nHost: localhost\r\n{FORM}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(9):
            wire.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
    refused(wire.answer(), Code.REQUEST_INVALID, "larger than 32768 bytes")


def test_a_chunked_body_that_fits_is_read(wire: Wire) -> None:
    """The allowed twin."""
    body = urlencode(EXCHANGE).encode()
    wire.send(f"POST /v1/token HTTP/1.1\r\nHost: localhost\r\n{FORM}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    wire.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    body_of(wire.answer(), "Token")


def test_who_waits_for_leave_to_send_a_body_gets_it(wire: Wire) -> None:
    """`Expect: 100-continue`: curl sends it with larger forms."""
    body = urlencode(EXCHANGE).encode()
    head = f"POST /v1/token HTTP/1.1\r\nHost: localhost\r\n{FORM}\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    wire.send(head.encode())
    assert wire.sock.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(body)
    body_of(wire.answer(), "Token")


@pytest.mark.parametrize("headers", [["X-Long: " + "a" * 16_400], [f"X-{i}: {'a' * 100}" for i in range(160)]])
def test_headers_have_a_limit(wire: Wire, headers: list[str]) -> None:
    """One long one or many, 16 KiB in all."""
    refused(wire.request("GET", "/healthz", headers), Code.REQUEST_INVALID, "larger than 16384 bytes")
    assert wire.ended()


def test_a_long_url_is_a_long_head(wire: Wire) -> None:
    """The request line counts."""
    refused(wire.request("GET", "/" + "a" * 16_400), Code.REQUEST_INVALID, "larger than 16384 bytes")


def test_headers_without_end_are_ended_while_they_come(wire: Wire) -> None:
    """A head that is never complete holds no more memory than one that is refused."""
    wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(64):
            wire.send(b"a" * 1024)
    refused(wire.answer(), Code.REQUEST_INVALID, "larger than 16384 bytes")


def test_headers_may_reach_the_limit(wire: Wire) -> None:
    """The allowed twin, on a connection that has answered before."""
    for _ in range(2):
        assert wire.request("GET", "/healthz", ["X-Long: " + "a" * 16_000]).status == 200


# --- no HTTP, or two readings of it -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"POST /v1/token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_two_readers_would_read_differently_is_refused(wire: Wire, raw: bytes) -> None:
    """Request smuggling begins with a message that has two meanings."""
    wire.send(raw)
    answer = wire.answer()
    refused(answer, Code.REQUEST_INVALID)
    assert answer.headers["connection"] == "close"


def test_two_requests_in_one_piece_are_answered_in_their_order(wire: Wire) -> None:
    """Pipelining is old, legal and harmless."""
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    wire.send(one + b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    raw = b""
    while raw.count(b'"status"') < 2:
        raw += wire.sock.recv(65536)
    assert raw.index(b'"ok"') < raw.index(b'"ready"')


def test_an_upgrade_is_not_taken(wire: Wire) -> None:
    """No WebSockets: it is answered as the plain request that it also is."""
    answer = wire.request("GET", "/healthz", ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"])
    assert answer.status == 200


# --- one write --------------------------------------------------------------------------------------------------------


def test_an_answer_is_one_packet(broker: RunningBroker) -> None:
    """Head and body leave together: the first read has it all, a hundred times in a row."""
    with Wire(broker.urls[0]) as wire:
        for target in ["/healthz", "/nothing", "/openapi.json"] * 33:
            wire.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = wire.sock.recv(1 << 20).partition(b"\r\n\r\n")
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
            assert len(body) == int(length.partition(b": ")[2])


# --- too many ---------------------------------------------------------------------------------------------------------


def test_requests_in_flight_are_bounded(broker: RunningBroker) -> None:
    """Who comes too many is told to come again; those inside are answered."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(broker.urls[0])) for _ in range(5)]
        bearer = opened(wires[0])
        broker.call(broker.desk.gate.clear)
        for wire in wires[:4]:
            wire.send(f"GET /v1/credentials/lake HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n".encode())
        until(lambda: broker.desk.waiting == 4)
        answer = wires[4].request("GET", "/healthz")
        refused(answer, Code.RATE_LIMITED, "too many requests in flight")
        assert answer.headers["retry-after"] == "1"
        broker.call(broker.desk.gate.set)
        for wire in wires[:4]:
            body_of(wire.answer(), "Credential")
        assert wires[4].request("GET", "/healthz").status == 200


def test_open_connections_are_bounded(broker: RunningBroker, caplog: pytest.LogCaptureFixture) -> None:
    """Twice as many as requests; one more gets no byte, and the others live on."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(broker.urls[0])) for _ in range(8)]
        for wire in wires:
            assert wire.request("GET", "/healthz").status == 200
        with Wire(broker.urls[0]) as ninth:
            assert ninth.ended()
        assert wires[0].request("GET", "/healthz").status == 200
    assert "connections.full" in caplog.text


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_stop_answers_what_is_in_flight_and_takes_nothing_new(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Then the socket is gone, and `serve` has returned."""
    path = tmp_path / "broker.sock"
    with RunningBroker([UnixAt(path=path)], loop_factory=loop_factory) as broker:
        with Wire(broker.urls[0]) as inside, Wire(broker.urls[0]) as idle:
            bearer = opened(inside)
            assert idle.request("GET", "/healthz").status == 200
            broker.call(broker.desk.gate.clear)
            inside.send(f"GET /v1/credentials/lake HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n".encode())
            until(lambda: broker.desk.waiting == 1)
            broker.stop()
            assert idle.ended()
            with pytest.raises(OSError, match=r"refused|No such file"), Wire(broker.urls[0]):
                pass
            broker.call(broker.desk.gate.set)
            answer = inside.answer()
            body_of(answer, "Credential")
            assert answer.headers["connection"] == "close"
            assert inside.ended()
        broker.join()
        assert not path.exists()


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    """Who is not answered within the stop's patience is told to ask again."""
    with RunningBroker([UnixAt(path=tmp_path / "b.sock")], limits=QUICK) as broker, Wire(broker.urls[0]) as inside:
        bearer = opened(inside)
        broker.call(broker.desk.gate.clear)
        inside.send(f"GET /v1/credentials/lake HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n".encode())
        until(lambda: broker.desk.waiting == 1)
        broker.stop()
        answer = inside.answer()
        refused(answer, Code.UPSTREAM_UNAVAILABLE, "was stopped")
        assert answer.headers["retry-after"] == "2"
        broker.join()


# --- the places -------------------------------------------------------------------------------------------------------


def test_the_socket_is_for_everybody_who_reaches_its_folder(tmp_path: Path) -> None:
    """Jobs run as whoever; the folder decides."""
    path = tmp_path / "broker.sock"
    with RunningBroker([UnixAt(path=path)]):
        assert path.stat().st_mode & 0o777 == 0o666


def test_a_socket_that_a_killed_broker_left_is_replaced(tmp_path: Path) -> None:
    """Nobody listens on it."""
    path = tmp_path / "broker.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with RunningBroker([UnixAt(path=path)]) as broker, Wire(broker.urls[0]) as wire:
        assert wire.request("GET", "/healthz").status == 200


def test_a_socket_that_somebody_listens_on_is_not(tmp_path: Path) -> None:
    """Two brokers on one socket would take each other's jobs."""
    path = tmp_path / "broker.sock"
    with RunningBroker([UnixAt(path=path)]) as first:
        with pytest.raises(Misconfigured, match="another broker listens"), RunningBroker([UnixAt(path=path)]):
            pass
        with Wire(first.urls[0]) as wire:
            assert wire.request("GET", "/healthz").status == 200


def test_a_file_in_the_socket_s_place_is_left_alone(tmp_path: Path) -> None:
    """It may be somebody's."""
    path = tmp_path / "broker.sock"
    path.write_text("mine")
    with pytest.raises(Misconfigured, match="is no socket"), RunningBroker([UnixAt(path=path)]):
        pass
    assert path.read_text() == "mine"


def test_a_successor_s_socket_survives_our_stop(tmp_path: Path) -> None:
    """What is at the path now is not ours any more."""
    path = tmp_path / "broker.sock"
    with RunningBroker([UnixAt(path=path)]):
        path.unlink()
        successor = socket.socket(socket.AF_UNIX)
        successor.bind(str(path))
    assert path.exists()
    successor.close()


def test_no_listener_is_served_when_one_cannot_be(tmp_path: Path) -> None:
    """All or none; and what was made is removed again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at: list[Listener] = [UnixAt(path=tmp_path / "b.sock"), LoopbackAt(host="127.0.0.1", port=taken.getsockname()[1])]
        with pytest.raises(Misconfigured, match=r"cannot listen on 127\.0\.0\.1"), RunningBroker(at):
            pass
    assert not (tmp_path / "b.sock").exists()
    with pytest.raises(Misconfigured, match="cannot listen on"), RunningBroker([UnixAt(path=tmp_path / "none" / "b.sock")]):
        pass


def test_tls_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Before anything is served."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first, second = Pki(one), Pki(other)
    bad = HttpsAt(host="127.0.0.1", port=0, cert=first.server_cert, key=second.server_key, client_ca=None)
    with pytest.raises(Misconfigured, match="TLS files of https do not work"), RunningBroker([bad]):
        pass
    good = HttpsAt(host="127.0.0.1", port=0, cert=first.server_cert, key=first.server_key, client_ca=None)
    with RunningBroker([good]) as broker, Wire(broker.urls[0], first.client()) as wire:
        assert wire.request("GET", "/healthz").status == 200


def test_a_tls_handshake_that_does_not_come_is_ended(tmp_path: Path) -> None:
    """It has the time that headers have; and plain HTTP to the TLS port gets nothing."""
    pki = Pki(tmp_path)
    at = HttpsAt(host="127.0.0.1", port=0, cert=pki.server_cert, key=pki.server_key, client_ca=None)
    with RunningBroker([at], limits=QUICK) as broker:
        with Wire(broker.urls[0]) as silent:
            assert silent.ended()
        with Wire(broker.urls[0]) as plain:
            plain.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            raw = plain.sock.recv(4096)
            assert b"HTTP" not in raw


def test_loopback_works_over_ipv6(tmp_path: Path) -> None:
    """Where the host has it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as missing:
        pytest.skip(f"no IPv6 loopback: {missing.strerror}")
    with RunningBroker([LoopbackAt(host="::1", port=0)]) as broker:
        with Wire(broker.urls[0]) as wire:
            assert wire.request("GET", "/healthz").status == 200
            exchange(wire)
        assert broker.desk.exchanges[0].peer.address == "::1"
