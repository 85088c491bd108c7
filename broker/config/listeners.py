"""`[listen]`: where the broker can be reached, and the places it must not be reachable at."""

import contextlib
import os
import stat
from pathlib import Path

from broker.config.model import Address, Https, Listen
from broker.config.table import Table
from broker.loopback import is_loopback


def listeners(root: Table, warnings: list[str]) -> Listen:
    """What `[listen]` says. Adds its problems to the root's, its warnings to `warnings`."""
    table = root.table("listen")
    unix, admin = table.path("unix"), table.path("admin")
    listen = Listen(
        unix=unix,
        http=_loopback(table),
        https=_https(table),
        admin=admin,
        admin_uids=table.uids("admin_uids") or (os.geteuid(),),
        unix_bind_uid=table.flag("unix_bind_uid", default=True),
    )
    if not any(key in table for key in ("unix", "http", "https")):
        (table if "listen" in root else root).problem("", "nothing to listen on", "give [listen] one of unix, http, https")
    if unix is not None:
        _check_unix(table, unix)
        if _mode(unix.parent) & (stat.S_IWGRP | stat.S_IWOTH):
            warnings.append(
                f"others may write to {unix.parent}, the folder of the Unix socket: clients will not send a job token there "
                "(chmod go-w)"
            )
    if admin is not None:
        _check_admin(table, admin, unix)
    table.refuse_others()
    return listen


def _loopback(table: Table) -> Address | None:
    found = table.address("http")
    if found is None:
        return None
    if not is_loopback(found[0]):
        table.problem(
            "http", f"http: {found[0]} is not a loopback address, and plain HTTP would show every credential", "use https"
        )
    return Address(host=found[0], port=found[1])


def _https(table: Table) -> Https | None:
    inner = table.table("https")
    if "https" not in table:
        return None
    found = inner.address("address")
    if found is None and "address" not in inner:
        inner.problem("", "https has no address", 'write https = { address = "0.0.0.0:8443", cert = "…", key = "…" }')
    https = Https(
        address=Address(host=found[0], port=found[1]) if found else Address(host="", port=0),
        cert=inner.file("cert", required=True) or Path(),
        key=inner.file("key", required=True) or Path(),
        client_ca=inner.file("client_ca"),
    )
    inner.refuse_others()
    return https


def _check_unix(table: Table, unix: Path) -> None:
    _check_path(table, "unix", unix)
    if not unix.parent.is_dir():
        table.problem("unix", f"unix: the folder {unix.parent} does not exist", "make it first; jobs get this folder mounted")
    else:
        _check_writable(table, "unix", unix.parent)


def _check_admin(table: Table, admin: Path, unix: Path | None) -> None:
    """What `web.sockets` will ask for at the start: a real folder that is the broker's alone, or a place to make it."""
    _check_path(table, "admin", admin)
    folder = admin.parent
    # Whoever gets the folder of `unix` mounted would get the kill switch with it (DESIGN 3.12).
    if unix is not None and os.path.realpath(folder) == os.path.realpath(unix.parent):
        table.problem(
            "admin", "admin: the admin socket stands in the folder of unix, which jobs can reach", "give it its own folder"
        )
        return
    try:
        found = folder.lstat()
    except FileNotFoundError:
        # The start makes this one folder, 0700, and none above it.
        if not folder.parent.is_dir():
            table.problem("admin", f"admin: the folder {folder} cannot be made: {folder.parent} does not exist", "make it first")
        else:
            _check_writable(table, "admin", folder.parent)
        return
    except OSError as error:
        table.problem("admin", f"admin: the folder {folder} cannot be looked at ({error.strerror})", "check as the broker's user")
        return
    if not stat.S_ISDIR(found.st_mode):
        table.problem("admin", f"admin: {folder} is a link or a file; it must be a folder", "name the folder itself")
    elif found.st_uid not in (os.geteuid(), 0):
        table.problem("admin", f"admin: the folder {folder} belongs to uid {found.st_uid}", "check as the broker's user")
    elif stat.S_IMODE(found.st_mode) & 0o077:
        table.problem("admin", f"admin: others may enter {folder}", f"chmod 700 {folder}")
    else:
        _check_writable(table, "admin", folder)


def _check_path(table: Table, key: str, path: Path) -> None:
    # sun_path holds 108 bytes with its final NUL; the kernel's own message for a longer one names neither path nor limit.
    longest = 107
    if len(os.fsencode(path)) > longest:
        table.problem(key, f"{key}: the path of a Unix socket has at most {longest} bytes, this one {len(os.fsencode(path))}")
    # A socket that is there is stale, or that of the broker that runs: the start tells them apart, a check disturbs neither.
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            table.problem(key, f"{key}: {path} is there and is no socket", "move it away")


def _check_writable(table: Table, key: str, folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        table.problem(key, f"{key}: the folder {folder} may not be written to by this user", "check as the broker's user")


def _mode(folder: Path) -> int:
    """The permission bits of a folder; none when it does not exist yet."""
    try:
        return stat.S_IMODE(folder.stat().st_mode)
    except OSError:
        return 0
