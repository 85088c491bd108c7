"""The listening sockets: made safely, and removed by whoever made them."""

import contextlib
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.errors import Code, Misconfigured

_ANYBODY = 0o666
_OWNER = 0o600
_BACKLOG = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAt:
    """For jobs, whoever they run as: the folder that the socket is in decides who reaches it."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAt:
    path: Path
    uids: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackAt:
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpsAt:
    host: str
    port: int
    cert: Path
    key: Path
    client_ca: Path | None


Listener = UnixAt | AdminAt | LoopbackAt | HttpsAt


@contextlib.contextmanager
def bound(listener: Listener) -> Iterator[socket.socket]:
    """A socket that listens there; afterwards it is closed and its file, if it is still ours, removed.

    Raises Misconfigured when somebody else listens there, or it may not be made.
    """
    try:
        if isinstance(listener, UnixAt | AdminAt):
            sock = _unix(listener)
            path, ours = listener.path, _identity(listener.path)
        else:
            sock, path, ours = _tcp(listener.host, listener.port), None, None
    except OSError as error:
        raise Misconfigured(
            Code.CONFIG_INVALID, f"cannot listen on {_where(listener)} ({error.strerror or error})", detail=str(error)
        ) from None
    try:
        yield sock
    finally:
        sock.close()
        if path is not None and _identity(path) == ours:
            path.unlink(missing_ok=True)


def url_of(listener: Listener, sock: socket.socket) -> str:
    """How a client would name it; with the real port when the kernel chose one. Read while the socket is open."""
    if isinstance(listener, UnixAt | AdminAt):
        return f"unix://{listener.path}"
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    return f"{'https' if isinstance(listener, HttpsAt) else 'http'}://{host}:{sock.getsockname()[1]}"


def tls_context(listener: HttpsAt) -> ssl.SSLContext:
    """TLS 1.2 and later with that certificate; a client certificate is optional and, when sent, must be of `client_ca`.

    Raises Misconfigured when the files do not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(listener.cert, listener.key, password=_no_password)
        if listener.client_ca is not None:
            context.load_verify_locations(listener.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"the TLS files of https do not work ({getattr(error, 'reason', None) or type(error).__name__}); "
            f"cert ({listener.cert}) holds the certificate with its chain, key ({listener.key}) its private key, client_ca "
            "certificates, all in PEM",
            detail=str(error),
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted")  # instead of asking for it on the terminal


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio sets TCP_NODELAY only then, and without it each answer takes 44 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _unix(listener: UnixAt | AdminAt) -> socket.socket:
    path = listener.path
    if isinstance(listener, AdminAt):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        folder = path.parent.lstat()
        if not stat.S_ISDIR(folder.st_mode) or folder.st_uid not in (os.geteuid(), 0):
            raise Misconfigured(
                Code.CONFIG_INVALID, f"{path.parent}, the admin socket's folder, is a link or belongs to uid {folder.st_uid}"
            )
        if stat.S_IMODE(folder.st_mode) & 0o077:
            raise Misconfigured(Code.CONFIG_INVALID, f"others may enter {path.parent}, the admin socket's folder; chmod 700 it")
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The file exists from bind() on: it is born closed and opened to others only when it is ours for certain.
    before = os.umask(0o777 & ~_OWNER)
    try:
        sock.bind(os.fspath(path))
        path.chmod(_OWNER if isinstance(listener, AdminAt) else _ANYBODY)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _clear_stale(path: Path) -> None:
    """Removes a socket that a killed broker left, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Misconfigured(Code.CONFIG_INVALID, f"{path} is there and is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise Misconfigured(Code.CONFIG_INVALID, f"{path} is a socket that cannot be looked at", detail=str(error)) from None
    raise Misconfigured(Code.CONFIG_INVALID, f"another broker listens on {path} already")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _where(listener: Listener) -> str:
    if isinstance(listener, UnixAt | AdminAt):
        return str(listener.path)
    return f"{listener.host}:{listener.port}"
