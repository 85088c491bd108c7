"""Globs over whole values: `*` stops at `/`, `**` crosses it, nothing else is special, upper and lower case differ.

Values come from whoever names branches, so matching has no bad input: with one wildcard the two ends are compared, with more the
pattern's automaton is run. The overlap proof runs the same automaton.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

_WILDCARDS = re.compile(r"\*+")
_NOT_OURS = {"?": "`?` is no wildcard", "[": "`[…]` is no wildcard", "{": "`{…}` is no choice"}


def is_glob(text: str) -> bool:
    return "*" in text


@dataclass(frozen=True, slots=True)
class Automaton:
    """A pattern as sets of positions, kept as the bits of one integer: bit i is "the first i tokens have matched"."""

    start: int
    final: int
    literal: dict[str, int]  # character -> positions that expect it
    within: int  # positions of `*`
    across: int  # positions of `**`

    def step(self, states: int, character: str) -> int:
        moved = (states & self.literal.get(character, 0)) << 1 | states & self.across
        if character != "/":
            moved |= states & self.within
        return moved | (moved & (self.within | self.across)) << 1

    def accepts(self, states: int) -> bool:
        return states & self.final != 0

    def matches(self, value: str) -> bool:
        states = self.start
        for character in value:
            states = self.step(states, character)
            if not states:
                return False
        return self.accepts(states)


def automaton(pattern: str) -> Automaton:
    """The automaton of a pattern that has passed `compile_glob`, or of any literal text without `*`."""
    literal: dict[str, int] = {}
    within = across = 0
    position = 1
    for part in re.findall(r"\*\*|.", pattern, re.DOTALL):
        if part == "**":
            across |= position
        elif part == "*":
            within |= position
        else:
            literal[part] = literal.get(part, 0) | position
        position <<= 1
    start = 1 | (1 & (within | across)) << 1
    return Automaton(start, position, literal, within, across)


@dataclass(frozen=True, slots=True)
class Glob:
    """One pattern, ready to match. Equal when its text is."""

    text: str
    _ends: tuple[str, str, bool] | None = field(compare=False, repr=False)  # before and after the one wildcard; crosses slashes
    automaton: Automaton = field(compare=False, repr=False)

    def matches(self, value: str) -> bool:
        """Whether the whole value is described."""
        if self._ends is None:
            return self.automaton.matches(value)
        before, after, across = self._ends
        if not (value.startswith(before) and value.endswith(after)):
            return False
        end = len(value) - len(after)
        return end >= len(before) and (across or "/" not in value[len(before) : end])


@lru_cache(maxsize=4096)  # policies name the same few patterns again and again
def compile_glob(text: str) -> Glob:
    """That pattern. Raises ValueError with what is wrong with it: three stars, or signs that are wildcards elsewhere only."""
    for sign, why in _NOT_OURS.items():
        if sign in text:
            raise ValueError(f"{why} in a policy; only `*` (within a segment) and `**` (across segments) are wildcards")
    runs = _WILDCARDS.findall(text)
    if any(run not in ("*", "**") for run in runs):
        raise ValueError("`***` means nothing, write `*` (within a segment) or `**` (across segments)")
    ends = None
    if len(runs) == 1:
        before, after = _WILDCARDS.split(text)
        ends = (before, after, runs[0] == "**")
    return Glob(text, ends, automaton(text))
