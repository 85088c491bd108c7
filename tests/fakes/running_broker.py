"""The real doors around a desk in memory, in a thread with its own loop; and a client that sees bytes, not libraries."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Self

from broker.moment import Moment
from broker.web.desk import Publication, Readiness
from broker.web.door import Door
from broker.web.limits import DoorLimits
from broker.web.metrics import Metrics
from broker.web.routes import Routes
from broker.web.server import serve
from broker.web.sockets import Listener
from tests.fakes.memory_desk import NOW, MemoryDesk

PUBLIC_URL = "https://broker.example.com"


class RunningBroker:
    """`with RunningBroker(listeners) as broker:`; `broker.urls` are in the order of the listeners."""

    def __init__(
        self,
        listeners: Sequence[Listener],
        *,
        limits: DoorLimits | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self.desk = MemoryDesk()
        self.metrics = Metrics()
        self.problems: tuple[str, ...] = ()
        self.urls: tuple[str, ...] = ()
        self.failure: BaseException | None = None
        self._listeners = listeners
        self._limits = limits or DoorLimits()
        self._loop_factory = loop_factory
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.join()

    def stop(self) -> None:
        assert self.loop is not None
        assert self._stop is not None
        if self._thread.is_alive() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def call(self, function: Callable[[], object]) -> None:
        """Runs something in the broker's loop, and waits until it has run."""
        done = threading.Event()
        assert self.loop is not None

        def run() -> None:
            function()
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(5)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            self.failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()

        async def ready() -> Readiness:
            return Readiness(self.problems)

        routes = Routes(
            desk=self.desk,
            publication=Publication(discovery=lambda: {"issuer": PUBLIC_URL}, jwks=lambda: {"keys": []}),
            ready=ready,
            metrics=self.metrics,
            limits=self._limits,
            public_url=PUBLIC_URL,
        )
        door = Door(
            desk=self.desk,
            rest=routes.app(),
            limits=self._limits,
            clock=lambda: Moment(NOW, 0.0),
            metrics=self.metrics,
            public_url=PUBLIC_URL,
        )

        def on_ready(urls: tuple[str, ...]) -> None:
            self.urls = urls
            self._ready.set()

        await serve(door, self._listeners, self._limits, stop=self._stop, on_ready=on_ready)


class Answer:
    """A response, parsed by hand: this is the other side of the wire, and shares nothing with the server."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if lines[0] else 0
        pairs = [line.partition(": ")[::2] for line in lines[1:]]
        self.headers = {name.lower(): value for name, value in pairs}
        self.raw = raw


class Wire:
    """One connection. `tls` is the client's context."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        if url.startswith("unix://"):
            self.sock: socket.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(10)
            try:
                self.sock.connect(url.removeprefix("unix://"))
            except OSError:
                self.sock.close()
                raise
            self.host = "localhost"
        else:
            self.host = url.partition("://")[2]
            host, _, port = self.host.rpartition(":")
            self.sock = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> Answer:
        """One whole response, by its Content-Length."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            raw += self._more(raw)
        length = int(Answer(raw).headers["content-length"])
        while len(raw.partition(b"\r\n\r\n")[2]) < length:
            raw += self._more(raw)
        return Answer(raw)

    def ended(self) -> bool:
        """Whether the broker ends the connection without another byte, within the socket's time-out."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def request(self, method: str, target: str, headers: Sequence[str] = (), body: bytes = b"") -> Answer:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}", *headers]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return self.answer()

    def _more(self, raw: bytes) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError(f"the broker ended the connection after {raw!r}")
        return data


def utc(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
