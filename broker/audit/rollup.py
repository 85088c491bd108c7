"""How much strangers and jobs can write into the log: so much, and then only counts (DESIGN section 8)."""

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from typing import Protocol

from broker.errors import Code
from broker.moment import Moment

OWN_ENTRIES = 20  # signed denials of one (issuer, stable id) in any WINDOW that get an entry of their own
WINDOW_SECONDS = 60.0
_MOST_SUBJECTS = 10_000


class Subject(Protocol):
    """Whose signed denial it is: a JobIdentity, or what a signature proves of a token that was refused."""

    @property
    def issuer(self) -> str: ...

    @property
    def stable_id(self) -> str: ...


class BoundedDenials:
    """Which refusals get an entry of their own; all others are counted per (code, listener) for the next `rollup`.

    Memory is bounded: codes and listeners are our own closed lists, and past 10 000 subjects in one minute a new subject's
    denials are counted only. Implements `refusing.Denials`; for one thread.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._admitted: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()  # least recently admitted first

    def unsigned(self, code: Code, listener: str) -> None:
        """A token without a valid signature: never an entry, whoever sends it."""
        self._counts[code.word, listener] += 1

    def admit(self, whose: Subject, code: Code, listener: str, now: Moment) -> bool:
        """Whether this signed denial gets its own entry: at most 20 in any 60 s of one (issuer, stable id)."""
        self._forget(now.mono)
        subject = (whose.issuer, whose.stable_id)
        recent = self._admitted.get(subject)
        if recent is None and len(self._admitted) < _MOST_SUBJECTS:
            recent = self._admitted[subject] = deque(maxlen=OWN_ENTRIES)
        if recent is None or (len(recent) == OWN_ENTRIES and now.mono - recent[0] < WINDOW_SECONDS):
            self._counts[code.word, listener] += 1
            return False
        recent.append(now.mono)
        self._admitted.move_to_end(subject)
        return True

    def drain(self, now: Moment) -> Sequence[tuple[str, str, int]]:
        """What was only counted since the last drain: (code, listener, count), sorted. Counting starts again at zero."""
        self._forget(now.mono)
        counts = [(code, listener, count) for (code, listener), count in sorted(self._counts.items())]
        self._counts.clear()
        return counts

    def restore(self, counts: Sequence[tuple[str, str, int]]) -> None:
        """What was drained and could not be written is counted still, beside what has come since."""
        for code, listener, count in counts:
            self._counts[code, listener] += count

    def _forget(self, mono: float) -> None:
        while self._admitted:
            subject, recent = next(iter(self._admitted.items()))
            if mono - recent[-1] < WINDOW_SECONDS:
                return
            del self._admitted[subject]
