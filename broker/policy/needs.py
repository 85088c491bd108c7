"""What one claim has to do: the conditions that its value meets and fails, as lists of values and as automata."""

from dataclasses import dataclass

from broker.policy.automata import Spelling, Track, shortest, track
from broker.policy.model import Condition

_Conditions = frozenset[Condition]


@dataclass(frozen=True, slots=True)
class Needs:
    """What one claim has to do: meet all of `held`, fail all of `broken`."""

    held: _Conditions = frozenset()
    broken: _Conditions = frozenset()
    absent: bool = False
    present: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.held | other.held, self.broken | other.broken, self.absent or other.absent, self.present or other.present
        )


def meets(value: str | bool | int, needs: Needs) -> bool:
    """Of a present value."""
    return all(c.describes(value) is not c.negated for c in needs.held) and all(
        c.describes(value) is c.negated for c in needs.broken
    )


def _split(needs: Needs) -> tuple[list[Condition], list[Condition]]:
    """Conditions whose description the value has to fit, and those whose it must not: an `unless` that fails has to fit."""
    asked = [c for c in needs.held if not c.negated] + [c for c in needs.broken if c.negated]
    barred = [c for c in needs.held if c.negated] + [c for c in needs.broken if not c.negated]
    return asked, barred


def listed(needs: Needs) -> list[str | bool | int] | None:
    """Every value that could meet the needs, shortest first, when they can be listed."""
    lists = [c.exact for c in _split(needs)[0] if not c.globs]
    return sorted(frozenset.intersection(*lists), key=lambda value: (len(str(value)), str(value))) if lists else None


def tracks(needs: Needs, beginning: str) -> tuple[list[list[Track]], list[Track]]:
    asked, barred = _split(needs)
    groups = [_alternatives(condition, beginning) for condition in sorted(asked, key=lambda c: c.wanted)]
    return groups, [one for condition in barred for one in _alternatives(condition, beginning)]


def _alternatives(condition: Condition, beginning: str) -> list[Track]:
    texts = [*sorted(map(str, condition.exact)), *(glob.text for glob in condition.globs)]
    tracks = [track(text, beginning) for text in texts]
    return [one for one in tracks if one.start]


def elements(grammar: Spelling, needs: Needs) -> tuple[str, ...] | None:
    """Each element answers one condition; none may be a barred one."""
    asked, barred = _split(needs)
    bars = [one for condition in barred for one in _alternatives(condition, "")]
    found = [shortest(grammar, [_alternatives(condition, "")], bars) for condition in sorted(asked, key=lambda c: c.wanted)]
    whole = tuple(dict.fromkeys(element for element in found if element is not None))
    return whole if None not in found else None
