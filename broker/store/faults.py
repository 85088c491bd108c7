"""SQLite's errors as ours. The chain is cut: a library's message never reaches a caller."""

import sqlite3
from pathlib import Path

from broker.errors import Broken, BrokerError, Code, Misconfigured, Unavailable

RETRY_SECONDS = 5.0


def sqlite_name(error: sqlite3.Error) -> str:
    """`SQLITE_BUSY` and the like; "" for errors of the Python layer alone."""
    return getattr(error, "sqlite_errorname", "")


def not_written(error: sqlite3.Error) -> BrokerError:
    """What a caller is told whose commit did not happen: full, read-only, locked and failing disks are all outages of the log."""
    if sqlite_name(error).startswith("SQLITE_CANTOPEN"):
        return not_reached(error)
    return Unavailable(
        Code.LOG_UNAVAILABLE,
        "the issuance log cannot be written, so nothing was done; ask again later",
        detail=f"{sqlite_name(error)}: {error}",
        retry_after=RETRY_SECONDS,
    )


def not_reached(error: sqlite3.Error) -> BrokerError:
    return Unavailable(
        Code.STORE_UNAVAILABLE,
        "the broker's store cannot be reached; ask again later",
        detail=f"{sqlite_name(error)}: {error}",
        retry_after=RETRY_SECONDS,
    )


def another_log(path: Path, broken: Broken) -> BrokerError:
    return Misconfigured(
        Code.CONFIG_INVALID, f"the log in {path} does not go with this [keys] log and [log] origin: {broken.detail}"
    )


def closed() -> BrokerError:
    return Unavailable(
        Code.STORE_UNAVAILABLE,
        "the broker is stopping; ask again later",
        detail="the ledger is closed",
        retry_after=RETRY_SECONDS,
    )
