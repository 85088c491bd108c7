"""A Vault that lies, floods or drips: nothing of it escapes as a bug of ours, fills our memory, or keeps a thread for itself."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

import pytest

from broker.errors import BrokerError, Code, Misconfigured, Unavailable
from broker.policy.target import VaultTarget
from broker.upstreams.bounded_http import MOST_BYTES
from broker.upstreams.vault_answers import read_answer
from broker.upstreams.vault_values import Read, read_secret
from broker.upstreams.vault_wire import Patience, VaultSettings, VaultWire
from tests.strategies import NOON

LEASED = VaultTarget(role="etl", path="database/creds/etl", engine="lease", upstream=None)
KV2 = VaultTarget(role="etl", path="secret/etl", engine="kv2", upstream=None)
DEEP = b"[" * 100_000 + b"]" * 100_000


def read(content: bytes, target: VaultTarget = LEASED) -> Read:
    return read_secret(read_answer(200, {}, content), target, asked=NOON, upstream="vault", what="grant 'warehouse'")


@pytest.mark.parametrize(
    "content",
    [
        b'{"data":' + DEEP + b"}",
        b'{"lease_id":"l","lease_duration":60,"data":{"a":' + DEEP + b"}}",
        b'{"lease_id":"l","lease_duration":10000000000001,"data":{"a":"b"}}',
        b'{"lease_id":"l","lease_duration":1' + b"0" * 400 + b',"data":{"a":"b"}}',
        b'{"lease_id":"","data":{"a":"b","ttl":99999999999999}}',
        b'{"lease_id":"","data":{"a":"b","ttl":1e400}}',
        b'{"lease_id":"","data":{"a":"b","ttl":"x"}}',
        b'{"lease_id":"l","lease_duration":60,"data":{"a":"\xff\xfe"}}',
        b'{"lease_id":"l","lease_duration":60,"data":{"a":{"b":"\xff"}}}',
        b'{"lease_id":"l","lease_duration":60,"data":{"\xff":"a"}}',
    ],
)
def test_an_answer_no_vault_gives_is_a_wrong_upstream_and_no_bug(content: bytes) -> None:
    """Recursion, overflow and UTF-8 errors came out as `internal`, and stopped whatever loop had asked."""
    with pytest.raises(Misconfigured) as caught:
        read(content)
    assert caught.value.code is Code.UPSTREAM_CONFIG


def test_the_longest_life_that_go_can_say_is_a_life() -> None:
    assert read(b'{"lease_id":"l","lease_duration":9200000000,"data":{"a":"b"}}').expires_at == NOON + timedelta(seconds=9.2e9)


def test_metadata_that_says_nothing_is_no_version() -> None:
    for said in (b"9" * 40, b'"x"', b"-1", b"null"):
        assert read(b'{"data":{"data":{"a":"b"},"metadata":{"version":' + said + b"}}}", KV2).kv_version is None
    assert read(b'{"data":{"data":{"a":"b"},"metadata":{"version":7}}}', KV2).kv_version == 7


def test_an_empty_credential_is_never_handed_out() -> None:
    """DESIGN 3.7. A KV secret may have empty fields: somebody wrote them so."""
    with pytest.raises(Unavailable) as caught:
        read(b'{"lease_id":"l","lease_duration":60,"data":{"username":"","password":""}}')
    assert "empty credential" in caught.value.public
    assert read(b'{"lease_id":"l","lease_duration":60,"data":{"username":"a","password":""}}').fields
    assert read(b'{"data":{"data":{"a":""},"metadata":{}}}', KV2).fields


# --- the wire ---------------------------------------------------------------------------------------------------------


def drip_body(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
    while True:
        client.sendall(b" ")
        time.sleep(0.05)


def drip_head(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        client.sendall(b"a")
        time.sleep(0.05)


def drip_interim(client: socket.socket) -> None:
    while True:
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.05)


def flood(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(4 * MOST_BYTES // 0x10000):
        client.sendall(chunk)


def compressed(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """A server that does that with every connection, once a request has come; its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def start(behave: Callable[[socket.socket], None]) -> str:
        def attend(client: socket.socket) -> None:
            with suppress(OSError):
                client.recv(65536)
                behave(client)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    clients.append(client)
                    threading.Thread(target=attend, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    listening.close()
    for client in clients:
        client.close()


def ask(url: str, seconds: float = 0.5) -> BrokerError | int:
    wire = VaultWire(VaultSettings(name="vault", url=url, audience=url), 2, Patience())
    try:
        return wire.call("GET", "sys/health", token=None, correlation_id="", seconds=seconds).status
    except BrokerError as error:
        return error
    finally:
        wire.close()


@pytest.mark.parametrize("behave", [drip_body, drip_head, drip_interim])
def test_an_answer_that_drips_ends_with_its_time(
    serve: Callable[[Callable[[socket.socket], None]], str], behave: Callable[[socket.socket], None]
) -> None:
    """A time-out per byte held one of sixteen threads for as long as the server liked, and with it every other upstream."""
    began = time.monotonic()
    answer = ask(serve(behave))
    assert isinstance(answer, Unavailable)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("behave", [flood, compressed])
def test_an_answer_without_end_or_in_disguise_is_not_read(
    serve: Callable[[Callable[[socket.socket], None]], str], behave: Callable[[socket.socket], None]
) -> None:
    answer = ask(serve(behave), seconds=10)
    assert isinstance(answer, Unavailable)
    assert answer.code is Code.UPSTREAM_UNAVAILABLE


def test_an_answer_that_closes_the_connection_is_read_whole(serve: Callable[[Callable[[socket.socket], None]], str]) -> None:
    def close(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        time.sleep(0.1)
        client.sendall(b'{"data":{"a":"b"}}')
        client.shutdown(socket.SHUT_RDWR)

    assert ask(serve(close), seconds=5) == 200
