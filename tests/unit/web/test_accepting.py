"""What the TLS listener does when the system does not let it accept."""

import asyncio
import errno
import os
import socket
from pathlib import Path

import pytest

from broker.web import accepting
from broker.web.accepting import TlsServer
from broker.web.sockets import HttpsAt, tls_context
from tests.fakes.pki import Pki


class Listening(socket.socket):
    """Fails with these, one after the other, before it accepts."""

    failures: tuple[int, ...] = ()

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            number, *rest = self.failures
            self.failures = tuple(rest)
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EMFILE])
async def test_a_failed_accept_is_not_the_end_of_the_listener(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without descriptors it says so, and waits; one who has hung up already is no failure of ours."""
    monkeypatch.setattr(accepting, "_PAUSE_SECONDS", 0.01)
    pki = Pki(tmp_path)
    context = tls_context(HttpsAt(host="", port=0, cert=pki.server_cert, key=pki.server_key, client_ca=None))
    sock = Listening(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    sock.failures = (number, number)
    server = TlsServer(asyncio.Protocol, sock, context, most=1, established=lambda: 0, handshake_seconds=5)
    _, writer = await asyncio.open_connection(*sock.getsockname(), ssl=pki.client(), server_hostname="localhost")
    assert caplog.text.count("accept.failed") == (2 if number == errno.EMFILE else 0)
    writer.transport.abort()
    server.close()
    await server.wait_closed()
    assert sock.fileno() == -1
