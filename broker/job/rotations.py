"""Learns of each new value of the session before output that could contain it is let go.

The command may read credentials from the broker by itself (Luigi does), so `exec` does not see every value pass. But what the
command has printed it has read before, and what it has read the broker lists; so the list is asked for after the output came and
before it goes on.
"""

import threading
import time
from collections.abc import Callable

from broker.errors import BrokerError, Refused
from broker.job.answers import Credential
from broker.job.client import BrokerClient
from broker.job.masking import Masker
from broker.secret import Secret

_SECONDS = 2.0  # for one question; output waits for it
_AWAY_SECONDS = 5.0
_NO_SECRETS = frozenset({"access_key_id", "account_id", "region", "host", "port", "username", "user"})


def secret_values(credential: Credential) -> list[Secret]:
    """The fields that must not be printed. Names of accounts, hosts and users are no secrets, and hiding them hides the log."""
    return [value for name, value in credential.fields.items() if name.lower() not in _NO_SECRETS]


class Rotations:
    """Which versions the masker knows. Safe to use from several threads."""

    def __init__(
        self, client: BrokerClient, handle: Secret, masker: Masker, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._handle = handle
        self._masker = masker
        self._clock = clock
        self._known: dict[tuple[str, str], int] = {}
        self._asked_at = float("-inf")
        self._away_until = float("-inf")
        self._over = False
        self._lock = threading.Lock()
        self.pause = 0.25 if client.address.scheme == "unix" else 1.0

    def note(self, credential: Credential, subpath: str) -> None:
        """A credential that `exec` read itself."""
        self._masker.learn(secret_values(credential))
        with self._lock:
            self._known[credential.grant, subpath] = credential.version

    def due_in(self) -> float:
        """Seconds until the broker may be asked again; output is gathered for that long."""
        return max(0.0, self._asked_at + self.pause - self._clock())

    def catch_up(self) -> None:
        """The masker knows every value that the command had when this was called; as far as the broker can be asked."""
        with self._lock:
            if self._over or self._clock() < self._away_until:
                return
            try:
                self._asked_at = self._clock()
                for lease in self._client.view(self._handle, seconds=_SECONDS).leases:
                    key = (lease.grant, lease.subpath)
                    if self._known.get(key, 0) < lease.version:
                        self._known[key] = lease.version
                        credential = self._client.credential(self._handle, lease.grant, lease.subpath, seconds=_SECONDS)
                        self._masker.learn(secret_values(credential))
                        self._known[key] = credential.version
            except Refused as refused:
                self._over = refused.code.http_status == 401  # noqa: PLR2004 - the session is over: nobody gets new values
            except BrokerError:
                self._away_until = self._clock() + _AWAY_SECONDS
