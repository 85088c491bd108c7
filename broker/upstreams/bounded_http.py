"""HTTP answers that end: requests' time-outs start anew with every byte, and nothing there bounds how much comes.

A server that drips would hold a thread of the pool for as long as it likes, and with all of them every other upstream; one that
never stops would fill our memory. Imported when the first call is made, as requests is.
"""

import http.client
import io
import socket
import time
from typing import Any, cast

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

MOST_BYTES = 4 * 1024 * 1024  # of one answer, head and body; Vault's own bound on a request is 32 MiB, a secret is a few KiB


class _Bounded(io.RawIOBase):
    """What comes from a socket, until the time or the bytes are used up. Raises TimeoutError and ConnectionError then."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        # Its own file object, so that the socket stays open while an answer is being read that closes the connection.
        self._raw = sock.makefile("rb", buffering=0)
        seconds = sock.gettimeout()
        self._until = None if seconds is None else time.monotonic() + seconds
        self._left = MOST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._until is not None:
            rest = self._until - time.monotonic()
            if rest <= 0:
                raise TimeoutError("the whole answer took too long")
            self._sock.settimeout(rest)
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise ConnectionError(f"the answer is larger than {MOST_BYTES} bytes")
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Seen:
    """The part of a socket that http.client reads an answer from."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - always "rb"
        return io.BufferedReader(_Bounded(self._sock))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(cast("socket.socket", _Seen(sock)), *args, **more)

    def begin(self) -> None:
        """Raises HTTPException for an answer in an encoding that was not asked for: a megabyte of it can be a gigabyte."""
        super().begin()
        if (self.headers.get("Content-Encoding") or "identity").lower() != "identity":
            raise http.client.HTTPException("the answer is compressed")


class _Http(HTTPConnection):
    response_class = _Response


class _Https(HTTPSConnection):
    response_class = _Response


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class BoundedAdapter(HTTPAdapter):
    """requests' adapter whose read time-out is one for the whole answer, and whose answers are at most 4 MiB."""

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
