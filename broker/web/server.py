"""One uvicorn server per listener in one event loop, all with the same app: started together, stopped together, gracefully."""

import asyncio
import contextlib
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import uvicorn

from broker.exchanging import Transport
from broker.web.accepting import TlsServer
from broker.web.door import App
from broker.web.limits import DoorLimits
from broker.web.protocol import GuardedProtocol
from broker.web.sockets import AdminAt, HttpsAt, Listener, LoopbackAt, UnixAt, bound, tls_context, url_of

_OWN_FILES = 256  # store, upstreams, and what libraries open

_TRANSPORTS: dict[type, Transport] = {
    UnixAt: "unix",
    LoopbackAt: "http",
    HttpsAt: "https",
    AdminAt: "admin",
}


async def serve(
    app: App,
    listeners: Sequence[Listener],
    limits: DoorLimits,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[tuple[str, ...]], None],
) -> None:
    """Serves on all listeners until `stop` is set; `on_ready` gets their URLs once every one accepts connections.

    Returns when nothing is accepted any more and what was in flight is answered, or `stop_seconds` are over; socket files are
    gone then. What has to be flushed after the last request is flushed by the caller. Raises Misconfigured when one of them
    cannot be had; then none is served.
    """
    _make_room_for(limits.connections * len(listeners))
    with contextlib.ExitStack() as stack:
        servers = []
        urls = []
        for listener in listeners:
            context = tls_context(listener) if isinstance(listener, HttpsAt) else None
            sock = stack.enter_context(bound(listener))
            urls.append(url_of(listener, sock))
            servers.append(_Server(app, listener, sock, context, limits))
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.serve())
            group.create_task(_stop_when(stop, servers))
            for server in servers:
                await server.listening.wait()
            on_ready(tuple(urls))


@contextlib.contextmanager
def stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """While this is entered, SIGTERM and SIGINT set `stop`. For the main thread, inside the running loop."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def asked_by_hangup(asked: asyncio.Event) -> Iterator[None]:
    """While this is entered, SIGHUP sets `asked`. For the main thread, inside the running loop."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _make_room_for(connections: int) -> None:
    """Raises the soft limit of open files, which is 1024 on most systems, as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OWN_FILES if hard == resource.RLIM_INFINITY else min(connections + _OWN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _stop_when(stop: asyncio.Event, servers: "Sequence[_Server]") -> None:
    await stop.wait()
    for server in servers:
        server.should_exit = True


class _Server(uvicorn.Server):
    """A uvicorn server on one socket that is already bound. Pinned by tests, as `startup` is overridden."""

    def __init__(
        self, app: App, listener: Listener, sock: socket.socket, context: ssl.SSLContext | None, limits: DoorLimits
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=GuardedProtocol,
                ws="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                access_log=False,  # its lines carry whole URLs
                proxy_headers=False,  # or 127.0.0.1 could say that it is somebody else
                server_header=False,
                timeout_keep_alive=limits.keep_alive_seconds,
                timeout_graceful_shutdown=limits.stop_seconds,
            )
        )
        self.listening = asyncio.Event()
        self._listener = listener
        self._sock = sock
        self._context = context
        self._limits = limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        loop = asyncio.get_running_loop()
        if self._context is None:
            self.servers = [await loop.create_server(self._connection, sock=self._sock)]
        else:
            tls = TlsServer(
                self._connection,
                self._sock,
                self._context,
                most=self._limits.connections,
                established=lambda: len(self.server_state.connections),
                handshake_seconds=self._limits.request_seconds,  # as long as headers get
            )
            self.servers = [cast("asyncio.Server", tls)]
        self.started = True
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: signals are the whole process's business, not one listener's."""
        yield

    def _connection(self) -> GuardedProtocol:
        return GuardedProtocol(
            self.config,
            self.server_state,
            {},
            listener=_TRANSPORTS[type(self._listener)],
            limits=self._limits,
            admin_uids=self._listener.uids if isinstance(self._listener, AdminAt) else frozenset(),
        )
