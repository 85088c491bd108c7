"""Every intent comes to one outcome, and nothing is issued that was not promised (DESIGN 3.4)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.audit.facets import Facets

_OUTCOMES = frozenset({"issued", "renewed", "intent_failed", "intent_swept"})


@dataclass(slots=True)
class _Promise:
    index: int
    session_id: str
    grant: str
    time_ms: int


@dataclass(slots=True)
class Promises:
    """The intents that are open at this point of the log. Memory is that of the open ones."""

    _open: dict[str, _Promise] = field(default_factory=dict)
    _latest_ms: int = 0

    def take(self, index: int, said: Facets) -> Iterator[str]:
        """One more entry, in order. Yields what is wrong with it."""
        self._latest_ms = max(self._latest_ms, said.time_ms)
        if said.kind == "intent":
            self._open[said.entry_id] = _Promise(index, said.session_id, said.grant, said.time_ms)
        elif said.kind in _OUTCOMES and (said.intent_id or said.kind != "renewed"):
            promise = self._open.pop(said.intent_id, None)
            if promise is None:
                yield f"{said.kind} without an open intent {said.intent_id!r}: it was never promised, or has an outcome already"
            elif (promise.session_id, promise.grant) != (said.session_id, said.grant):
                yield f"{said.kind} for session {said.session_id!r} and grant {said.grant!r}, but its intent was for another"

    @property
    def open(self) -> int:
        return len(self._open)

    def overdue(self, patience_ms: int) -> Iterator[tuple[int, str]]:
        """(index, id) of intents that the log left open for longer than this, oldest first. They stop counting as open."""
        late = [(p.index, name) for name, p in self._open.items() if self._latest_ms - p.time_ms > patience_ms]
        for index, name in late:
            del self._open[name]
            yield index, name
