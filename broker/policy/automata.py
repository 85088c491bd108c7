"""Languages over one claim's text: patterns, what they exclude, the claim's own grammar, and the shortest text in all of them.

Globs and exact values describe regular languages, so the search through the product of their automata, breadth first, is exact:
it gives the shortest text, or proves that there is none. It has a bound on its states, beyond which it gives neither.
"""

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

from broker.policy.glob import Automaton, automaton

_MAX_STATES = 50_000
_ORDINARY = "xyzabcdefghijklmnopqrstuvw123456789XYZABCDEFGHIJKLMNOPQRSTUVW_-0"
_OPENING, _FRESH, _DOT, _PLAIN = 1, 2, 3, 4  # states of a grammar: at the start, after a slash, after a dot, in a segment


class TooComplexError(Exception):
    """Neither a proof nor a witness within bounds. What is not proved is not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """Which texts a claim can be at all. Where in doubt wider than the issuer's: a proof over more values holds for fewer."""

    signs: re.Pattern[str]  # of one character
    empty: bool = False
    segments: bool = False  # no empty segment: no slash at either end, no two in a row
    dots: bool = True  # False: as in git, no segment starts with a dot, no two dots in a row, none at the end
    zero: bool = True  # False: a number without leading zeros
    named: ClassVar[str] = ""

    def step(self, state: int, character: str) -> int:
        """The next state; 0 when the text cannot go on like this."""
        if not self.signs.match(character):
            return 0
        if character == "/":
            if self.segments and state in (_OPENING, _FRESH):
                return 0
            return _FRESH
        if character == ".":
            return 0 if not self.dots and state != _PLAIN else _DOT
        return 0 if state == _OPENING and character == "0" and not self.zero else _PLAIN

    def accepts(self, state: int) -> bool:
        if state == _OPENING:
            return self.empty
        if state == _FRESH:
            return not self.segments
        return state == _PLAIN or (state == _DOT and self.dots)

    def admits(self, text: str) -> bool:
        state = _OPENING
        for character in text:
            state = self.step(state, character)
            if not state:
                return False
        return self.accepts(state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Texts of one length, each place with signs of its own. A hyphen is all that the places tell apart."""

    places: tuple[re.Pattern[str], ...]
    segments: ClassVar[bool] = True
    signs: ClassVar[re.Pattern[str]] = re.compile(r"[0-9a-f-]")
    named: ClassVar[str] = "-"

    def step(self, state: int, character: str) -> int:
        return state + 1 if state <= len(self.places) and self.places[state - 1].match(character) else 0

    def accepts(self, state: int) -> bool:
        return state == len(self.places) + 1

    def admits(self, text: str) -> bool:
        return len(text) == len(self.places) and all(p.match(c) for p, c in zip(self.places, text, strict=True))


class Spelling(Protocol):
    """What is asked of a grammar. State 1 is the start of the text, 0 is a dead end."""

    @property
    def signs(self) -> re.Pattern[str]: ...

    @property
    def named(self) -> str:
        """Signs that no other stands for."""

    @property
    def segments(self) -> bool: ...

    def step(self, state: int, character: str) -> int: ...

    def accepts(self, state: int) -> bool: ...

    def admits(self, text: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Track:
    """One pattern, from where it stands once a known beginning has been read."""

    automaton: Automaton
    start: int


@lru_cache(maxsize=8192)
def track(pattern: str, beginning: str = "") -> Track:
    """The pattern (or exact text) of what may follow `beginning`."""
    machine = automaton(pattern)
    states = machine.start
    for character in beginning:
        states = machine.step(states, character)
    return Track(machine, states)


def shortest(grammar: Spelling, asked: Sequence[Sequence[Track]], barred: Sequence[Track]) -> str | None:
    """The shortest text of the grammar that one track of every group in `asked` accepts and none of `barred`.

    First one without empty segments, which nobody takes for a slip, then any. None proves that there is none. Raises
    TooComplexError.
    """
    found = None if grammar.segments else _search(grammar, asked, barred, tidy=True)
    return _search(grammar, asked, barred, tidy=False) if found is None else found


def _search(grammar: Spelling, asked: Sequence[Sequence[Track]], barred: Sequence[Track], *, tidy: bool) -> str | None:
    flat = [one for group in asked for one in group] + list(barred)
    machines = [one.automaton for one in flat]
    ends = [sum(map(len, asked[: n + 1])) for n in range(len(asked))]
    groups = list(zip([0, *ends], ends, strict=False))
    alphabet = _alphabet(machines, grammar)
    first = len(flat) - len(barred)
    start = (tuple(one.start for one in flat), _OPENING)
    queue = deque([(start, "")])
    seen = {start}
    while queue:
        (states, spelled), text = queue.popleft()
        if not (tidy and spelled in (_OPENING, _FRESH)) and grammar.accepts(spelled):
            accepted = [machine.accepts(state) for machine, state in zip(machines, states, strict=True)]
            if all(any(accepted[low:high]) for low, high in groups) and not any(accepted[first:]):
                return text
        for character in _next(machines, states, groups, alphabet):
            if tidy and character == "/" and spelled in (_OPENING, _FRESH):
                continue
            goes_on = grammar.step(spelled, character)
            if not goes_on:
                continue
            moved = tuple(machine.step(state, character) for machine, state in zip(machines, states, strict=True))
            node = (moved, goes_on)
            if node not in seen and all(any(moved[low:high]) for low, high in groups):
                seen.add(node)
                queue.append((node, text + character))
        if len(seen) > _MAX_STATES:
            raise TooComplexError
    return None


def _alphabet(machines: Iterable[Automaton], grammar: Spelling) -> list[str]:
    """Every character that some pattern names, the slash, and one that stands for all others: no pattern tells those apart,
    and of them the least restricted by the grammar is taken.
    """
    named = {"/", *grammar.named}.union(*(machine.literal for machine in machines))
    others = (c for c in _ORDINARY + "".join(map(chr, range(0x21, 0x2000))) if c not in named and c.isprintable())
    other = next((c for c in others if grammar.signs.match(c)), None)
    known = sorted(named, key=lambda c: (not c.isalnum(), c))
    return known if other is None else [other, *known]


def _next(
    machines: Sequence[Automaton], states: Sequence[int], groups: Sequence[tuple[int, int]], alphabet: Sequence[str]
) -> Sequence[str]:
    """The characters worth trying: where some group can only go on literally, only its own."""
    best = alphabet
    for low, high in groups:
        own: set[str] = set()
        for machine, state in zip(machines[low:high], states[low:high], strict=True):
            if state & (machine.within | machine.across):
                break
            own.update(c for c, positions in machine.literal.items() if positions & state)
        else:
            if len(own) < len(best):
                best = sorted(own)
    return best
