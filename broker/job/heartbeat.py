"""Keeps a session alive while a command runs."""

import threading
from collections.abc import Callable

from broker.errors import BrokerError, Refused

_EACH_SECONDS = 60.0


class Heartbeat:
    """Beats once a minute from `start` to `stop`. An outage is survived silently; a refusal is told once, and ends it."""

    def __init__(self, beat: Callable[[], None], told: Callable[[str], None], *, each: float = _EACH_SECONDS) -> None:
        self._beat = beat
        self._told = told
        self._each = each
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._each):
            self._once()

    def _once(self) -> None:
        try:
            self._beat()
        except Refused as refused:
            if not self._over.is_set():  # else it is `exec` itself that is ending the session
                # The command goes on: what it does without credentials is its own business, and its own failure to report.
                self._told(f"the session is over ({refused.code.word}): {refused.public}")
            self._over.set()
        except BrokerError:
            pass
