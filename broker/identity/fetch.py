"""One GET to a place that configuration named: bounded in size and time, no redirects, no proxy, TLS by the CA that was said."""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from broker.loopback import is_loopback

_STEP_SECONDS = 5.0  # to connect, and for each piece
_TOTAL_SECONDS = 10.0
_PIECE = 16 * 1024


class FetchError(Exception):
    """Nothing usable came back. The message is for our log and the operator; it quotes nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Fetched:
    body: bytes
    date: datetime | None  # the server's clock, where it said


def address_problem(url: str) -> str | None:
    """Why this is no address to fetch keys from; None when it is one.

    https, or http to `localhost` or a literal loopback address. No user, no fragment.
    """
    try:
        parts = parse_url(url)
        named = parts.port  # refuses a port that is no number
    except HTTPError:
        return "is not a URL"
    if parts.scheme not in ("https", "http") or not parts.host or named == 0:
        return "is not an https:// URL"
    if parts.auth is not None or parts.fragment is not None:
        return "has a user or a fragment in it"
    if parts.scheme == "http" and not is_loopback(parts.host):
        return "is plain http:// to another machine; use https://"
    return None


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port."""
    parts = parse_url(url)
    return parts.scheme or "", parts.host or "", parts.port or (443 if parts.scheme == "https" else 80)


async def get(url: str, *, ca_file: Path | None, max_bytes: int) -> Fetched:
    """The body of a 200 answer. The loop is never blocked, and the line is cut at the time limit.

    Not cut, and left to end by themselves in their thread: a DNS query, a TLS handshake. Raises FetchError for every other
    answer, a redirect too.
    """
    problem = address_problem(url)
    if problem:
        raise FetchError(f"{url} {problem}")
    call = _Call(parse_url(url), ca_file, max_bytes)
    work = asyncio.get_running_loop().run_in_executor(None, call.run)
    try:
        return await asyncio.wait_for(asyncio.shield(work), _TOTAL_SECONDS)
    except TimeoutError:
        raise FetchError(f"{url} did not answer in full within {_TOTAL_SECONDS:.0f} s") from None
    except (OSError, HTTPError, ValueError) as error:
        raise FetchError(f"{url} could not be fetched ({_why(error)})") from None
    finally:
        if not work.done():
            # A server that sends a byte now and then keeps every read within its own limit; only cutting the line ends it.
            call.abort()
            work.add_done_callback(lambda done: done.exception())


class _Call:
    def __init__(self, url: Url, ca_file: Path | None, max_bytes: int) -> None:
        self._url = url
        self._ca_file = ca_file
        self._max_bytes = max_bytes
        self._socket: socket.socket | None = None
        self._aborted = False

    def run(self) -> Fetched:
        connection = self._connection()
        try:
            connection.connect()
            self._socket = connection.sock
            if self._aborted:
                raise TimeoutError
            connection.request(
                "GET",
                self._url.request_uri,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "credbroker"},
                preload_content=False,
                decode_content=False,
            )
            answer = connection.getresponse()
            if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
                raise FetchError(f"{self._url} answered with a redirect, which is not followed; name the final address")
            if answer.status != HTTPStatus.OK:
                raise FetchError(f"{self._url} answered {answer.status}")
            body = bytearray()
            while piece := answer.read1(_PIECE):
                body += piece
                if len(body) > self._max_bytes:
                    raise FetchError(f"{self._url} answered with more than {self._max_bytes // 1024} KiB")
            # A cache repeats the Date of its origin, so an answer with an Age says nothing about the time.
            date = None if "Age" in answer.headers else _date(answer.headers.get("Date"))
            return Fetched(bytes(body), date)
        finally:
            connection.close()

    def abort(self) -> None:
        """Ends whatever `run` is waiting for."""
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _connection(self) -> HTTPConnection:
        host = (self._url.host or "").strip("[]")
        if self._url.scheme == "http":
            return HTTPConnection(host, self._url.port or 80, timeout=_STEP_SECONDS)
        context = ssl.create_default_context(cafile=self._ca_file)
        return HTTPSConnection(host, self._url.port or 443, timeout=_STEP_SECONDS, ssl_context=context)


def _date(header: str | None) -> datetime | None:
    try:
        told = None if header is None else parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    return None if told is None or told.tzinfo is None else told


def _why(error: Exception) -> str:
    """What kind of failure it was. Not the library's text: it may carry parts of the answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; see `ca_file`"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
