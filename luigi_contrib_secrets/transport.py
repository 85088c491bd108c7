"""One request to the broker over a Unix socket, loopback HTTP or HTTPS. Standard library only; knows nothing of leases."""

import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

from luigi_contrib_secrets.errors import SecretMisconfigured, SecretUnavailable

_LONGEST_BODY = 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What the broker said. The body may hold a credential and stays out of repr."""

    status: int
    body: bytes = field(repr=False)
    date: datetime | None  # the broker's own clock
    retry_after: float


def get(url: str, path: str, headers: Mapping[str, str], *, timeout: float, ca_file: str, ci_ca_file: str) -> Answer:
    """`GET path` within about `timeout` seconds. Follows no redirect and no proxy.

    A connection is opened for each request and kept for none: requests are minutes apart, and a connection that does not
    exist is not shared with a forked child. Raises SecretUnavailable (nobody answered, or not in HTTP) and SecretMisconfigured
    (the address is not one, or the other side is not trusted).
    """
    deadline = time.monotonic() + timeout
    connection = _connection(url, timeout, ca_file, ci_ca_file)
    try:
        connection.request("GET", path, headers={"Accept": "application/json", "Connection": "close", **headers})
        with connection.getresponse() as response:
            return Answer(
                status=response.status,
                body=_body(response, deadline),
                date=_date(response.getheader("Date", "")),
                retry_after=_seconds(response.getheader("Retry-After", "")),
            )
    except ssl.SSLCertVerificationError as error:
        reason = f"the broker's certificate is not trusted ({error.verify_message}); CREDBROKER_CA_FILE names the CA"
        raise SecretMisconfigured(reason, code="config_invalid") from None
    except (OSError, http.client.HTTPException) as error:
        # The chain is cut: an HTTPException repeats what it could not read.
        reason = f"no answer from the broker at {url} ({type(error).__name__})"
        raise SecretUnavailable(reason, code="broker_unreachable") from None
    finally:
        connection.close()


def _body(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """All of it. A socket's timeout is per read; the deadline ends an answer that comes byte by byte."""
    parts: list[bytes] = []
    size = 0
    while part := response.read1(65536):
        size += len(part)
        if size > _LONGEST_BODY or time.monotonic() > deadline:
            raise http.client.HTTPException("too long")
        parts.append(part)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = socket_path
        self._patience = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._patience)
        self.sock.connect(self._socket_path)


def _connection(url: str, timeout: float, ca_file: str, ci_ca_file: str) -> http.client.HTTPConnection:
    try:
        at = urlsplit(url)
        port = at.port
    except ValueError:
        raise _not_an_address() from None
    if at.scheme == "unix" and at.path.startswith("/") and not at.netloc:
        return _UnixConnection(at.path, timeout)
    if at.username or at.password or at.query or at.fragment or at.path.strip("/") or not at.hostname:
        raise _not_an_address()
    if at.scheme == "http" and _is_loopback(at):
        return http.client.HTTPConnection(at.hostname, port, timeout=timeout)
    if at.scheme == "https":
        return http.client.HTTPSConnection(at.hostname, port, timeout=timeout, context=_tls(ca_file, ci_ca_file))
    raise _not_an_address()


def _tls(ca_file: str, ci_ca_file: str) -> ssl.SSLContext:
    """CREDBROKER_CA_FILE alone when it is set; else the system's authorities and what the runner trusts GitLab with."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if ci_ca_file and not ca_file:
            context.load_verify_locations(cafile=ci_ca_file)
    except OSError:
        raise SecretMisconfigured(f"the CA file {ca_file or ci_ca_file} cannot be read", code="config_invalid") from None
    return context


def _is_loopback(at: SplitResult) -> bool:
    if at.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(at.hostname or "").is_loopback
    except ValueError:
        return False


def _not_an_address() -> SecretMisconfigured:
    # Not repeated: an address with a password in it is one of the mistakes.
    sentence = "the broker's address must be unix:///path, https://host[:port], or http://host[:port] on the loopback"
    return SecretMisconfigured(sentence, code="config_invalid")


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo else None


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch("[0-9]{1,5}", text) else 0.0
