"""The central broker over HTTPS: whose certificate is trusted, and what happens to the handle when none is."""

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from luigi_contrib_secrets import Reference, SecretMisconfigured
from luigi_contrib_secrets.client import client
from tests.fakes.broker_wire import stamp
from tests.fakes.luigi_job import LuigiJob

PASSWORD = Reference.parse("secret://warehouse#password")


class Answering(http.server.BaseHTTPRequestHandler):
    """One fixed lease for anybody; `asked` is the Authorization of each request."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers["Authorization"])
        now = time.time()
        lease = {"grant": "warehouse", "environment": "production", "version": 1, "data": {"password": "over-tls"}}
        body = json.dumps(lease | {"refresh_at": stamp(now + 300), "expires_at": stamp(now + 600)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust us hangs up; that is what these tests want."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.now(timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "broker.pem"
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + cert.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def https(certificate: Path, inside_job: LuigiJob, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an HTTPS broker that this job's CREDBROKER_URL names."""
    server = Server(("127.0.0.1", 0), Answering)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Answering.asked.clear()
    monkeypatch.setenv("CREDBROKER_URL", f"https://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("variable", ["CREDBROKER_CA_FILE", "CI_SERVER_TLS_CA_FILE"])
def test_a_ca_that_the_job_names_is_trusted(
    https: int, certificate: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    assert client().read(PASSWORD) == "over-tls"
    assert len(Answering.asked) == 1


def test_a_certificate_that_nobody_trusts_gets_no_handle(https: int) -> None:
    """The twin: final at once, with the variable to set."""
    with pytest.raises(
        SecretMisconfigured, match=r"secret://warehouse: the broker's certificate is not trusted .*CREDBROKER_CA_FILE"
    ):
        client().read(PASSWORD)
    assert Answering.asked == []


def test_a_certificate_of_another_host_gets_no_handle(https: int, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDBROKER_CA_FILE", str(certificate))
    monkeypatch.setenv("CREDBROKER_URL", f"https://localhost:{https}")
    with pytest.raises(SecretMisconfigured, match="certificate is not trusted"):
        client().read(PASSWORD)
    assert Answering.asked == []


def test_a_ca_file_that_is_none_is_said(https: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDBROKER_CA_FILE", "/nowhere/ca.pem")
    with pytest.raises(SecretMisconfigured, match=r"the CA file /nowhere/ca\.pem cannot be read"):
        client().read(PASSWORD)
