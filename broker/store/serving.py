"""One broker at a time serves from a SQLite store.

What a session holds is in the memory of the process that serves it. A second broker on the file would end sessions whose
heartbeats reach the first, and go on serving those that the first has revoked.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from broker.errors import Code, Misconfigured


@contextlib.contextmanager
def only_server_of(store: Path) -> Iterator[None]:
    """While this is entered, nobody else can enter it for the same file; the kernel ends it with the process.

    The lock is on a file of its own beside the store: closing any descriptor of a database drops SQLite's locks on it. Readers
    (`credbroker audit`) take no part. Raises Misconfigured(config_invalid) when another broker serves from it.
    """
    beside = store.with_name(store.name + "-serving")
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(
            Code.CONFIG_INVALID, f"the store {store} cannot be opened for writing: {error.strerror}; see [store] url"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Misconfigured(
                Code.CONFIG_INVALID,
                f"another broker serves from the store {store}; stop that one, or give this one its own",
            ) from None
        yield
    finally:
        os.close(descriptor)
