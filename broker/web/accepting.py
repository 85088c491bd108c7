"""A TLS listener whose connections are bounded from `accept` on.

asyncio's own counts nothing and tells the protocol of a connection when its handshake is over. Who connects and says nothing
would hold a file descriptor until then, and enough of those leave none for the store and the upstreams.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable

log = logging.getLogger("credbroker.web")

_PAUSE_SECONDS = 1.0  # after `accept` failed, for want of descriptors above all; as asyncio does


class TlsServer:
    """Accepts on a listening socket until closed; the part of `asyncio.Server` that uvicorn uses. Owns the socket."""

    def __init__(
        self,
        connection: Callable[[], asyncio.Protocol],
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        most: int,
        established: Callable[[], int],
        handshake_seconds: float,
    ) -> None:
        """At most `most` connections, those counted that are in their handshake; one more is closed without a byte."""
        self._connection = connection
        self._sock = sock
        self._context = context
        self._most = most
        self._established = established
        self._handshake_seconds = handshake_seconds
        self._handshakes: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Nothing is accepted any more, and no handshake goes on. Established connections are not touched."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)

    async def _accept(self) -> None:
        with self._sock:
            while True:
                try:
                    client, _ = await self._loop.sock_accept(self._sock)
                except OSError as error:
                    if error.errno != errno.ECONNABORTED:  # that one has gone again already
                        log.error("accept.failed", extra={"listener": "https", "detail": str(error)})  # noqa: TRY400 - says all
                        await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                if len(self._handshakes) + self._established() >= self._most:
                    log.warning("connections.full", extra={"listener": "https", "peer_uid": None})
                    client.close()
                else:
                    task = self._loop.create_task(self._greet(client))
                    self._handshakes.add(task)
                    task.add_done_callback(self._handshakes.discard)
                await asyncio.sleep(0)  # `sock_accept` does not, while there is somebody to accept

    async def _greet(self, client: socket.socket) -> None:
        # Who speaks no TLS, shows a wrong certificate, is late or hangs up is closed by the loop, and that is all.
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(
                self._connection, client, ssl=self._context, ssl_handshake_timeout=self._handshake_seconds
            )
