"""All fields of one lease at once: what a BundleParameter reads as."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from luigi_contrib_secrets.client import client
from luigi_contrib_secrets.errors import ReferenceInvalid, SecretUnavailable
from luigi_contrib_secrets.instant import parse_length
from luigi_contrib_secrets.lease import Lease
from luigi_contrib_secrets.reference import Reference
from luigi_contrib_secrets.secret_str import SecretStr, never_pickled


class Snapshot:
    """One version of a credential: its fields as attributes (`c.username`, or `c["user-name"]`), `expires_at`, `version`.

    Reading a field that is not there raises SecretMisconfigured, and after the lease's true end SecretUnavailable.
    """

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    @property
    def expires_at(self) -> datetime:
        return self._lease.expires_at

    @property
    def version(self) -> int:
        return self._lease.version

    def __getitem__(self, field: str) -> SecretStr:
        if self._lease.left(time.monotonic()) <= 0:
            reason = "this snapshot's lease has ended; ask for a longer one with lease(min_ttl=…), or take a new snapshot"
            raise SecretUnavailable(reason, code="ttl_unavailable", grant=self._lease.reference.path, again=False)
        return self._lease.value(field)

    def __getattr__(self, field: str) -> SecretStr:
        if field.startswith("__"):  # a protocol (copy, pickle, inspect) that asks whether we take part
            raise AttributeError(field)
        return self[field]

    def __repr__(self) -> str:
        return f"<snapshot of {self._lease.reference}, version {self.version}>"

    __reduce__ = never_pickled


class Bundle:
    """A grant by name. It fetches nothing until `lease()`, and is a reference wherever it is written down."""

    __slots__ = ("_task", "reference")

    def __init__(self, reference: Reference, task: str = "") -> None:
        if reference.field:
            raise ReferenceInvalid("a bundle is a whole grant: its reference has no #field")
        self.reference = reference
        self._task = task

    @contextmanager
    def lease(self, min_ttl: str | int | timedelta | None = None) -> Iterator[Snapshot]:
        """One atomic snapshot of the current version, alive for at least `min_ttl` ("3h", seconds or a timedelta) from now.

        Raises SecretError; with code `ttl_unavailable` when the grant cannot last that long. The broker takes the lease back
        when the job ends, not at the end of the block: what was opened with it may still be open.
        """
        yield Snapshot(client().current(self.reference, min_ttl=parse_length(min_ttl), task=self._task))

    def __repr__(self) -> str:
        return str(self.reference)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bundle) and other.reference == self.reference

    def __hash__(self) -> int:
        return hash(self.reference)

    def __reduce__(self) -> tuple[object, ...]:
        return Bundle, (self.reference,)
