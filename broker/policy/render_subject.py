"""The `sub` of an assertion as a language: what each of its parts can be, in the search for one whole text."""

import re
from collections.abc import Mapping, Sequence

from broker.policy.automata import Track

PARTS = ("environment", "grant", "issuer_name", "stable_id")
_BEFORE = ("environment:", ":grant:", ":issuer:", ":project:")
_NAME = re.compile(r"[a-z0-9-]")
_ID = re.compile(r"[A-Za-z0-9_.@/+=-]")  # whatever the issuer: what `assertions` lets into a subject

Wanted = tuple[Sequence[Sequence[Track]], Sequence[Track]]  # one track of every group, and none of the barred
_State = tuple[int, int, bool, tuple[int, ...]]  # which part; how much of what stands before it is read; begun; its tracks


class Subject:
    """`environment:E:grant:G:issuer:I:project:S`, each part a name (the last an id) that meets its own tests.

    A `Spelling` for `shortest`. Alphabet and tests of the parts have to be among what `shortest` is given or named here.
    """

    signs = re.compile(r"[A-Za-z0-9_.@/+=:-]")
    segments = True
    named = ""

    def __init__(self, wanted: Mapping[str, Wanted]) -> None:
        self._groups = [wanted[part][0] for part in PARTS]
        self._barred = [wanted[part][1] for part in PARTS]
        self._tracks = [[*(t for group in wanted[part][0] for t in group), *wanted[part][1]] for part in PARTS]
        first: _State = (0, 0, False, self._fresh(0))
        self._states = [first]
        self._numbers = {first: 1}

    @property
    def spelling(self) -> list[Track]:
        """Every track of the parts: their letters belong to the alphabet of the search."""
        return [one for tracks in self._tracks for one in tracks]

    def step(self, state: int, character: str) -> int:
        moved = self._moved(self._states[state - 1], character)
        if moved is None:
            return 0
        number = self._numbers.get(moved)
        if number is None:
            self._states.append(moved)
            number = self._numbers[moved] = len(self._states)
        return number

    def accepts(self, state: int) -> bool:
        part, read, begun, tracks = self._states[state - 1]
        return part == len(PARTS) - 1 and read == len(_BEFORE[part]) and begun and self._met(part, tracks)

    def admits(self, text: str) -> bool:
        state = 1
        for character in text:
            state = state and self.step(state, character)
        return bool(state) and self.accepts(state)

    def _moved(self, state: _State, character: str) -> _State | None:
        part, read, begun, tracks = state
        if read < len(_BEFORE[part]):
            return (part, read + 1, False, tracks) if _BEFORE[part][read] == character else None
        if character == ":":
            more = part + 1 < len(PARTS) and begun and self._met(part, tracks)
            return (part + 1, 1, False, self._fresh(part + 1)) if more else None
        last = part == len(PARTS) - 1
        if not (_ID if last else _NAME).match(character) or (not last and not begun and character == "-"):
            return None
        moved = tuple(t.automaton.step(at, character) for t, at in zip(self._tracks[part], tracks, strict=True))
        return part, read, True, moved

    def _fresh(self, part: int) -> tuple[int, ...]:
        return tuple(one.start for one in self._tracks[part])

    def _met(self, part: int, tracks: tuple[int, ...]) -> bool:
        accepted = [t.automaton.accepts(at) for t, at in zip(self._tracks[part], tracks, strict=True)]
        at = 0
        for group in self._groups[part]:
            if not any(accepted[at : at + len(group)]):
                return False
            at += len(group)
        return not any(accepted[at:])
