"""Signals, places, and the door on its own."""

import asyncio
import os
import resource
import signal
import socket
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Code, Misconfigured
from broker.exchanging import Peer
from broker.moment import Moment
from broker.web import replies, server
from broker.web.door import Door
from broker.web.limits import DoorLimits
from broker.web.metrics import Metrics
from broker.web.server import stopped_by_signals
from broker.web.sockets import AdminAt, HttpsAt, UnixAt, bound, tls_context
from broker.web.visit import PEER
from tests.fakes.memory_desk import NOW, VALUES, MemoryDesk
from tests.fakes.pki import Pki


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_asks_for_a_stop(number: signal.Signals) -> None:
    """And nothing else happens. Once everybody is answered, a second one ends the process as it would any other."""
    stop = asyncio.Event()
    with stopped_by_signals(stop):
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_room_is_made_for_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit of open files goes up as far as the hard one lets it, and never down."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server._make_room_for(1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(soft, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
        server._make_room_for(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 556
        server._make_room_for(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 556
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_admin_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    """Whoever enters it has the kill switch."""
    folder = tmp_path / "admin"
    folder.mkdir(mode=0o755)
    at = AdminAt(path=folder / "a.sock", uids=frozenset({0}))
    with pytest.raises(Misconfigured, match="others may enter"), bound(at):
        pass
    folder.chmod(0o700)
    with bound(at):
        assert at.path.stat().st_mode & 0o777 == 0o600
    assert not at.path.exists()


def test_a_socket_is_born_closed(tmp_path: Path) -> None:
    """The umask of the process is untouched afterwards."""
    before = os.umask(0)
    try:
        with bound(UnixAt(path=tmp_path / "b.sock")):
            assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_socket_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    """It cannot be asked whether anybody listens."""
    path = tmp_path / "b.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(Misconfigured, match="cannot be looked at"), bound(UnixAt(path=path)):
            pass
    assert path.exists()


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    """Whatever the kernel says."""
    with pytest.raises((Misconfigured, OSError)), bound(UnixAt(path=tmp_path / ("x" * 200))):
        pass


def test_an_encrypted_key_is_an_error_not_a_question(tmp_path: Path) -> None:
    """A service has no terminal to ask on."""
    from cryptography.hazmat.primitives import serialization

    pki = Pki(tmp_path)
    key = serialization.load_pem_private_key(pki.server_key.read_bytes(), None)
    sealed = tmp_path / "sealed.key"
    sealed.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    with pytest.raises(Misconfigured, match="TLS files of https do not work"):
        tls_context(HttpsAt(host="", port=0, cert=pki.server_cert, key=sealed, client_ca=None))


# --- the door without a server ----------------------------------------------------------------------------------------


async def through_the_door(rest: Any, path: bytes = b"/x") -> tuple[int, bytes]:
    """Status and body of one request."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    door = Door(
        desk=MemoryDesk(),
        rest=rest,
        limits=DoorLimits(),
        clock=lambda: Moment(NOW, 0.0),
        metrics=Metrics(),
        public_url="https://broker.example.com",
    )
    scope = {"method": "GET", "raw_path": path, "query_string": b"", "headers": [(b"host", b"x")], PEER: Peer(transport="unix")}
    await door(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


async def test_an_app_that_answers_nothing_or_by_itself_is_a_bug() -> None:
    """The door sends every reply, with its correlation id; it never leaves a caller without one."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        pass

    async def loud(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    for app in (silent, loud):
        status, body = await through_the_door(app)
        assert status == 500
        assert b'"internal"' in body


def test_an_aws_lease_without_its_fields_is_a_bug() -> None:
    """An SDK would take a missing Expiration for one that never ends."""
    from broker.errors import Broken
    from broker.secret import Secret
    from tests.strategies import a_lease

    whole = {name: Secret(value) for name, value in VALUES["lake"].items()}
    assert replies.container_credential(a_lease(fields=whole)).status == 200
    without = {name: value for name, value in whole.items() if name != "account_id"}
    assert b"AccountId" not in replies.container_credential(a_lease(fields=without)).body
    with pytest.raises(Broken) as caught:
        replies.container_credential(a_lease(fields={"access_key_id": Secret("A")}))
    assert caught.value.code is Code.INTERNAL
    assert "secret_access_key" in caught.value.detail
