"""The wire: what is sent, what is believed of the answer, and what becomes of an error."""

import contextlib
import datetime as dt
import http.server
import ipaddress
import json
import os
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.job.address import parse_address
from broker.job.answers import Offer, parse_container, parse_credential, parse_moment, parse_opened, parse_view
from broker.job.client import BrokerClient
from broker.job.job_token import parse_job_token
from broker.job.refusals import refusal
from broker.job.settings import JobSettings
from broker.secret import Secret
from tests.fakes.broker_wire import BrokerWire, FakeGrant, broker_wire

KEY = "r" * 43


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[BrokerWire]:
    with broker_wire(tmp_path / "s") as running:
        yield running


CLIENTS: list[BrokerClient] = []


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    yield
    while CLIENTS:
        CLIENTS.pop().close()


def client_of(url: str, **variables: str) -> BrokerClient:
    CLIENTS.append(BrokerClient(parse_address(url), JobSettings.read(variables)))
    return CLIENTS[-1]


def opened(wire: BrokerWire, client: BrokerClient) -> Secret:
    token = parse_job_token(Secret(wire.mint(aud=wire.http_url)), "the test")
    return client.exchange(token, resume_key=KEY, heartbeat=True, environment="production").handle


@pytest.mark.parametrize("transport", ["unix_url", "http_url"])
def test_a_session_from_exchange_to_revocation(wire: BrokerWire, transport: str) -> None:
    """Every call, over both local transports, on one connection."""
    client = client_of(getattr(wire, transport))
    handle = opened(wire, client)
    assert client.view(handle).offers == (
        Offer(grant="lake", kind="aws", subpath=False, region="eu-central-1"),
        Offer(grant="warehouse", kind="vault", subpath=False, region=None),
    )
    credential = client.credential(handle, "warehouse", min_ttl=timedelta(minutes=5))
    assert (credential.kind, credential.version) == ("vault", 1)
    assert credential.fields["password"].reveal() in wire.values
    assert client.container(handle, "lake", seconds=1).secrets[0].reveal() in wire.values
    client.heartbeat(handle)
    assert (wire.sessions[0].beats, wire.sessions[0].heartbeat, wire.sessions[0].resume_key) == (1, True, KEY)
    assert [(lease.grant, lease.version) for lease in client.view(handle).leases] == [("warehouse", 1), ("lake", 1)]
    client.revoke(handle)
    client.revoke(handle)
    with pytest.raises(Refused, match="the session was closed") as caught:
        client.view(handle)
    assert caught.value.code is Code.SESSION_REVOKED
    client.close()


def test_a_subpath_is_part_of_the_path_and_quoted(wire: BrokerWire) -> None:
    wire.grants["kv"] = FakeGrant(subpath=True)
    client = client_of(wire.unix_url)
    client.credential(opened(wire, client), "kv", "team one/db")
    assert wire.calls("GET", "/v1/credentials/")[0].path == "/v1/credentials/kv/team one/db"


def test_the_connection_is_used_again_and_made_anew_when_the_broker_had_closed_it(wire: BrokerWire) -> None:
    client = client_of(wire.unix_url)
    handle = opened(wire, client)
    wire.vanish()
    wire.listen()
    assert client.view(handle).environment == "production"


def test_a_forked_child_does_not_use_its_parents_connection(wire: BrokerWire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on one connection would read each other's answers."""
    client = client_of(wire.unix_url)
    handle = opened(wire, client)
    idle = list(client._idle)
    assert len(idle) == 1
    monkeypatch.setattr(os, "getpid", lambda: -1)
    client.view(handle)
    assert client._idle != idle


def test_nobody_there_is_an_outage(wire: BrokerWire) -> None:
    wire.vanish()
    for url in (wire.unix_url, wire.http_url):
        with pytest.raises(Unavailable, match="does not answer") as caught:
            client_of(url).view(Secret("x"))
        assert caught.value.code is Code.BROKER_UNREACHABLE


def test_a_slow_answer_is_given_up_at_its_deadline(wire: BrokerWire) -> None:
    client = client_of(wire.unix_url)
    handle = opened(wire, client)
    wire.slow("/v1/aws/lake", 1.0)
    with pytest.raises(Unavailable, match="timed out"):
        client.container(handle, "lake", seconds=0.2)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "does not speak as a broker does"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "does not speak as a broker does"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1_100_000, "HTTPException"),
        (b"SSH-2.0-OpenSSH_9\r\n", "BadStatusLine"),
    ],
)
def test_an_answer_that_is_no_brokers_is_an_outage(wire: BrokerWire, raw: bytes, why: str) -> None:
    wire.answer_raw("/v1/session", raw)
    with pytest.raises(Unavailable, match=why):
        client_of(wire.unix_url).view(Secret("x"))


def test_an_answer_in_chunks_is_read_whole(wire: BrokerWire) -> None:
    body = json.dumps({"environment": "e", "offers": [], "expires_at": "2026-01-01T00:00:00Z", "leases": []}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"
    wire.answer_raw("/v1/session", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert client_of(wire.unix_url).view(Secret("x")).environment == "e"


# --- HTTPS ------------------------------------------------------------------------------------------------------------


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"environment": "tls", "offers": [], "expires_at": "2026-01-01T00:00:00Z", "leases": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of an HTTPS server on loopback, and its authority."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = dt.datetime.now(dt.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None:
            """A client that does not trust us hangs up; that is what is tested."""

    with Server(("127.0.0.1", 0), Hello) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}", folder / "ca.pem"
        server.shutdown()


@pytest.mark.parametrize("variable", ["CREDBROKER_CA_FILE", "CI_SERVER_TLS_CA_FILE"])
def test_https_with_a_named_authority(tls: tuple[str, Path], variable: str) -> None:
    url, authority = tls
    client = client_of(url, **{variable: str(authority)})
    assert client.view(Secret("x")).environment == "tls"
    client.close()


def test_https_with_an_unknown_authority_is_a_configuration_error_and_not_retried(tls: tuple[str, Path]) -> None:
    with pytest.raises(Misconfigured, match=r"is not trusted .*set CREDBROKER_CA_FILE") as caught:
        client_of(tls[0]).view(Secret("x"))
    assert caught.value.code is Code.CONFIG_INVALID


def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.pem' cannot be read as PEM"):
        client_of("https://broker.example.com", CREDBROKER_CA_FILE=str(tmp_path / "none.pem"))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(Misconfigured, match=r"bad\.pem' cannot be read as PEM"):
        client_of("https://broker.example.com", CI_SERVER_TLS_CA_FILE=str(tmp_path / "bad.pem"))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [code for code in Code if code.http_status])
def test_every_code_comes_back_as_what_it_was(code: Code) -> None:
    body = json.dumps({"error": code.oauth_error, "code": code.word, "error_description": "so it is", "correlation_id": "c1"})
    error = refusal(code.http_status, "7", body.encode())
    assert (error.code, error.public, error.detail) == (code, "so it is", "correlation id c1")
    if code.http_status in (429, 503):
        assert isinstance(error, Unavailable)
        assert error.retry_after == 7
    elif code is Code.UPSTREAM_CONFIG:
        assert isinstance(error, Misconfigured)
    elif code is not Code.INTERNAL:
        assert isinstance(error, Refused)


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (302, b"", Misconfigured, Code.CONFIG_INVALID),
        (502, b"<html>", Unavailable, Code.BROKER_UNREACHABLE),
        (504, b"[]", Unavailable, Code.BROKER_UNREACHABLE),
        (418, b'{"code":"teapot","message":"short"}', Refused, Code.REQUEST_INVALID),
        (500, b'{"code":7}', BrokerError, Code.INTERNAL),
        (400, b'{"code":"config_invalid"}', Refused, Code.REQUEST_INVALID),
    ],
)
def test_an_error_without_a_known_code_falls_back_to_its_status(
    status: int, body: bytes, kind: type[BrokerError], code: Code
) -> None:
    error = refusal(status, None, body)
    assert isinstance(error, kind)
    assert error.code is code


def test_a_sentence_cannot_steer_a_terminal_and_a_strange_retry_after_is_ignored() -> None:
    body = json.dumps({"code": "rate_limited", "error_description": "a\x1b[31mb\nc" + "x" * 5000})
    error = refusal(429, "Wed, 21 Oct 2026 07:28:00 GMT", body.encode())
    assert error.public.startswith("a [31mb c")
    assert len(error.public) == 1000
    assert error.retry_after is None
    assert refusal(429, "99999999", body.encode()).retry_after == 3600


# --- answers ----------------------------------------------------------------------------------------------------------

CREDENTIAL: dict[str, Any] = {
    "grant": "g",
    "kind": "vault",
    "version": 1,
    "expires_at": "2026-01-01T00:00:00.250Z",
    "data": {"port": 5432, "password": "secret-value"},
}
CONTAINER = {"AccessKeyId": "A", "SecretAccessKey": "secret-value", "Token": "t", "Expiration": "2026-01-01T00:00:00Z"}


def test_values_are_not_in_the_repr_of_an_answer() -> None:
    credential = parse_credential(json.dumps(CREDENTIAL).encode())
    assert credential.fields["port"].reveal() == "5432"
    assert "secret-value" not in repr(credential)
    assert "secret-value" not in repr(parse_container(json.dumps(CONTAINER).encode()))


@pytest.mark.parametrize("missing", ["grant", "kind", "version", "expires_at", "data"])
def test_a_credential_without_all_its_parts_is_none(missing: str) -> None:
    with pytest.raises(Unavailable, match=missing):
        parse_credential(json.dumps({**CREDENTIAL, missing: None}).encode())


@pytest.mark.parametrize("missing", ["AccessKeyId", "SecretAccessKey", "Token", "Expiration"])
def test_empty_keys_are_never_handed_on(missing: str) -> None:
    """AWS's own agent once did: 200, "Success", and nothing in it."""
    with pytest.raises(Unavailable, match=missing):
        parse_container(json.dumps({**CONTAINER, missing: ""}).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"environment":"e","offers":"lake"}',
        b'{"environment":"e","offers":[],"expires_at":"soon","leases":[]}',
        b'{"environment":"e","offers":[{"grant":"g","kind":"aws","subpath":1}],"expires_at":"2026-01-01T00:00:00Z","leases":[]}',
    ],
)
def test_a_view_without_its_parts_is_none(raw: bytes) -> None:
    with pytest.raises(Unavailable):
        parse_view(raw)


@pytest.mark.parametrize("seconds", [-1, True, "60", 10**12])
def test_hours_that_are_no_hours_are_refused(seconds: Any) -> None:
    body = {"access_token": "cbs_x", "session_id": "s", "environment": "e", "expires_in": seconds}
    with pytest.raises(Unavailable, match="expires_in"):
        parse_opened(json.dumps(body).encode(), dt.datetime.now(dt.timezone.utc))


def test_only_utc_times_ending_in_z_are_read() -> None:
    assert parse_moment("2026-01-01T00:00:00Z") == dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    with contextlib.suppress(ValueError):
        parse_moment("2026-01-01T00:00:00+00:00")
        pytest.fail("read a time without Z")
