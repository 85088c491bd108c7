"""The broker's wire (DESIGN section 5) over a Unix socket, loopback HTTP or HTTPS.

Redirects are never followed and proxies never used: both would show a token or a handle to somebody else. An answer is read up to
a size and up to a deadline. A connection belongs to the process that made it: after a fork the child makes its own.
"""

import contextlib
import email.utils
import http.client
import os
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from broker.errors import Code, Misconfigured, Unavailable
from broker.job.address import Address
from broker.job.answers import (
    ContainerCredentials,
    Credential,
    Opened,
    View,
    check_health,
    parse_container,
    parse_credential,
    parse_opened,
    parse_view,
)
from broker.job.job_token import JobToken
from broker.job.refusals import refusal
from broker.job.settings import JobSettings
from broker.job.trust import check_folder, check_origin, check_peer
from broker.secret import Secret

_MAX_ANSWER = 1024 * 1024
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raw:
    status: int
    retry_after: str | None
    date: str | None
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A broker that answers. `date` is what its clock says (unix seconds), None when the answer does not tell."""

    date: float | None


class BrokerClient:
    """One broker, as one process sees it. Safe to use from several threads; each request has a connection to itself."""

    def __init__(self, address: Address, settings: JobSettings) -> None:
        """Raises Misconfigured(config_invalid) when a CA file cannot be read. Connects to nothing yet."""
        self.address = address
        self._server_uid = settings.server_uid
        self._tls = _tls(settings) if address.scheme == "https" else None
        self._idle: list[http.client.HTTPConnection] = []
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def exchange(self, token: JobToken, *, resume_key: str, heartbeat: bool, environment: str | None) -> Opened:
        """A session for this job token. Raises Refused(token_audience) before a byte is sent when the token is for another."""
        check_origin(token, self.address)
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": token.value.reveal(),
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "resume_key": resume_key,
        }
        form |= {"heartbeat": "1"} if heartbeat else {}
        form |= {"environment": environment} if environment is not None else {}
        sent_at = datetime.now(timezone.utc)
        return parse_opened(self._ask("POST", "/v1/token", form=form), sent_at)

    def view(self, handle: Secret, *, seconds: float = _ANSWER_SECONDS) -> View:
        return parse_view(self._ask("GET", "/v1/session", handle=handle, seconds=seconds))

    def credential(
        self,
        handle: Secret,
        grant: str,
        subpath: str = "",
        *,
        min_ttl: timedelta | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> Credential:
        path = "/v1/credentials/" + "/".join(
            urllib.parse.quote(part, safe="") for part in [grant, *filter(None, subpath.split("/"))]
        )
        if min_ttl is not None:
            path += f"?min_ttl={int(min_ttl.total_seconds())}"
        return parse_credential(self._ask("GET", path, handle=handle, seconds=seconds))

    def container(self, handle: Secret, grant: str, *, seconds: float) -> ContainerCredentials:
        """The AWS answer for this grant, within `seconds` in all."""
        path = "/v1/aws/" + urllib.parse.quote(grant, safe="")
        return parse_container(self._ask("GET", path, handle=handle, seconds=seconds))

    def heartbeat(self, handle: Secret) -> None:
        self._ask("POST", "/v1/session/heartbeat", handle=handle)

    def revoke(self, handle: Secret) -> None:
        """The session and its leases are gone when this returns; also when they were gone before (RFC 7009)."""
        self._ask("POST", "/v1/revoke", form={"token": handle.reveal()})

    def health(self) -> Health:
        """That a broker answers there, and what time it has. Sends neither token nor handle."""
        answer = self._send("GET", "/healthz", {"Accept": "application/json"}, None, time.monotonic() + _CONNECT_SECONDS)
        if answer.status != _OK:
            raise refusal(answer.status, answer.retry_after, answer.body)
        check_health(answer.body)
        return Health(date=_seconds_of(answer.date))

    def ready(self) -> bool:
        """Whether the broker says that it could issue a credential now."""
        answer = self._send("GET", "/readyz", {"Accept": "application/json"}, None, time.monotonic() + _ANSWER_SECONDS)
        return answer.status == _OK

    def _ask(
        self,
        method: str,
        path: str,
        *,
        handle: Secret | None = None,
        form: Mapping[str, str] | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> bytes:
        """The body of a 200. Raises what the broker refused with, or Unavailable(broker_unreachable)."""
        headers = {"Accept": "application/json"}
        if handle is not None:
            headers["Authorization"] = "Bearer " + handle.reveal()
        body = b"" if method == "POST" else None
        if form is not None:
            headers |= _FORM
            body = urllib.parse.urlencode(form).encode("ascii")
        answer = self._send(method, path, headers, body, time.monotonic() + seconds)
        if answer.status != _OK:
            raise refusal(answer.status, answer.retry_after, answer.body)
        return answer.body

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, deadline: float) -> _Raw:
        try:
            connection = self._reuse()
            if connection is not None:
                try:
                    return self._once(connection, method, path, headers, body, deadline)
                except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                    pass  # the broker had closed it while it was idle; that says nothing about the broker
            return self._once(self._connect(deadline), method, path, headers, body, deadline)
        except ssl.SSLCertVerificationError as error:
            raise Misconfigured(
                Code.CONFIG_INVALID,
                f"the certificate of {self.address.url!r} is not trusted ({error.verify_message}); "
                "set CREDBROKER_CA_FILE to the authority that signed it",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            why = "timed out" if isinstance(error, TimeoutError) else why
            raise Unavailable(
                Code.BROKER_UNREACHABLE,
                f"the broker at {self.address.url!r} does not answer ({why}); is it running, and is that its address?",
            ) from None

    def _once(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline: float,
    ) -> _Raw:
        try:
            _limit(connection, deadline)
            connection.request(method, path, body=body, headers=dict(headers))
            response = connection.getresponse()
            raw = _read_limited(connection, response, deadline)
            headers_said = response.headers
            answer = _Raw(
                status=response.status, retry_after=headers_said.get("Retry-After"), date=headers_said.get("Date"), body=raw
            )
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        return answer

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        seconds = max(0.05, min(_CONNECT_SECONDS, deadline - time.monotonic()))
        connection: http.client.HTTPConnection
        if self.address.scheme == "unix":
            connection = _UnixConnection(self.address, self._server_uid, seconds)
        elif self._tls is not None:
            connection = http.client.HTTPSConnection(self.address.host, self.address.port, timeout=seconds, context=self._tls)
        else:
            connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=seconds)
        connection.connect()
        return connection

    def _reuse(self) -> http.client.HTTPConnection | None:
        with self._lock:
            if self._pid != os.getpid():
                # Two processes on one connection would read each other's answers: another task's credentials.
                # Closing our copies does not disturb the parent's: nothing is sent.
                for inherited in self._idle:
                    inherited.close()
                self._pid, self._idle = os.getpid(), []
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Closes what is idle."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket that was looked at before and after connecting."""

    def __init__(self, address: Address, server_uid: int | None, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._address = address
        self._server_uid = server_uid

    def connect(self) -> None:
        path = self._address.socket
        check_folder(path, self._server_uid)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(str(path))
            check_peer(connection, path, self._server_uid)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


def _read_limited(connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float) -> bytes:
    raw = bytearray()
    while True:
        _limit(connection, deadline)
        piece = response.read1(65536)
        if not piece:
            break
        raw += piece
        if len(raw) > _MAX_ANSWER:
            raise http.client.HTTPException("answer too long")
    if response.length:
        raise http.client.IncompleteRead(b"")  # `read1` does not say so by itself
    response.close()  # read to its end: the connection may carry the next request
    return bytes(raw)


def _limit(connection: http.client.HTTPConnection, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(0, "timed out")
    with contextlib.suppress(OSError):
        if connection.sock is not None:
            connection.sock.settimeout(left)


def _seconds_of(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError):  # the latter on Python 3.10
        return None


def _tls(settings: JobSettings) -> ssl.SSLContext:
    """CREDBROKER_CA_FILE alone when it is set; else the system's authorities and what the runner trusts GitLab with."""
    chosen = settings.ca_file or settings.ci_ca_file
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.ca_file is None and settings.ci_ca_file is not None:
            context.load_verify_locations(cafile=settings.ci_ca_file)
    except (OSError, ssl.SSLError):
        raise Misconfigured(Code.CONFIG_INVALID, f"the CA file {str(chosen)!r} cannot be read as PEM certificates") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
