"""To whom a job token and a handle may be shown (DESIGN 3.14).

A pipeline variable can point `CREDBROKER_URL` anywhere. A job token sent to the wrong place can be replayed at the right one, so
it goes only to the origin that its own `aud` names, or over a Unix socket that nobody else can have made.
"""

import os
import socket
import stat
import struct
from pathlib import Path

from broker.errors import Code, Misconfigured, Refused
from broker.job.address import Address, origin_of
from broker.job.job_token import JobToken


def check_origin(token: JobToken, address: Address) -> None:
    """The token may go to this address. Sends nothing. Raises Refused(token_audience).

    Over a Unix socket `aud` says nothing about the way there; `check_folder` and `check_peer` stand at the connection.
    """
    if address.scheme == "unix":
        return
    if address.url not in {origin_of(audience) for audience in token.audiences}:
        named = ", ".join(repr(audience) for audience in token.audiences)
        raise Refused(
            Code.TOKEN_AUDIENCE,
            f"the job token is for {named}, and the broker's address is {address.url!r}: it was not sent there; "
            "set `aud` under `id_tokens:` to the broker's address, or CREDBROKER_URL to the audience",
        )


def check_folder(path: Path, server_uid: int | None) -> None:
    """Nobody but root, this user and the broker's user can put another socket at this path.

    Every folder on the way is looked at, after symlinks are resolved; a sticky folder (`/tmp`) is fine above the socket's own,
    since what a trusted user made in it cannot be replaced. Raises Misconfigured(config_invalid).
    """
    trusted = _trusted(server_uid)
    try:
        real = Path(os.path.realpath(path.parent))
        folders = [(folder, folder.stat()) for folder in (real, *real.parents)]
    except OSError:
        return  # nothing is there: connecting says so, and may be tried again
    for folder, found in folders:
        others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if folder != real and found.st_mode & stat.S_ISVTX:
            others_write = 0
        if others_write or found.st_uid not in trusted:
            why = "others may write to it" if others_write else f"it belongs to user {found.st_uid}"
            raise Misconfigured(
                Code.CONFIG_INVALID,
                f"the broker's socket {str(path)!r} cannot be trusted: folder {str(folder)!r} is unsafe, {why}; "
                "it must belong to root, to this user or to CREDBROKER_SERVER_UID, who alone may write to it",
            )


def check_peer(connection: socket.socket, path: Path, server_uid: int | None) -> None:
    """The kernel says that a trusted user listens at the other end. Raises Misconfigured(config_invalid)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    if uid not in _trusted(server_uid):
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"user {uid} listens on the broker's socket {str(path)!r}, not root or this user; "
            "if that is the broker's user, set CREDBROKER_SERVER_UID to it",
        )


def _trusted(server_uid: int | None) -> set[int]:
    return {0, os.geteuid()} | ({server_uid} if server_uid is not None else set())
