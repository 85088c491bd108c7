"""Proof that no two environments can match one job, or a job that both match.

The proof itself is `satisfy`'s. Here it is asked of few pairs only: what every value of a claim has to be (an exact value, the
literal beginning, end and segments of a glob) sorts environments into sets, kept as the bits of one integer, and a pair that
cannot be in one set on some claim is apart without being looked at.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

from broker.identity.claims import ClaimSet
from broker.identity.profile import ClaimKind
from broker.policy.automata import TooComplexError
from broker.policy.decide import matches
from broker.policy.model import Condition, Environment
from broker.policy.satisfy import Question, Solver, inside

__all__ = ["TooComplexError", "can_meet", "find_job", "overlaps"]

_LAST = "\U0010ffff"


def overlaps(environments: Sequence[Environment]) -> Iterator[tuple[Environment, Environment, ClaimSet]]:
    """Every pair that can match one job, with such a job's claims. Raises TooComplexError."""
    solver = Solver()
    for one, other in _pairs(environments):
        pair = (environments[one], environments[other])
        witness = _found(solver, pair)
        if witness is not None:
            yield *pair, witness


def find_job(environments: Sequence[Environment], solver: Solver | None = None) -> ClaimSet | None:
    """Claims of a job that is in all of these (of one issuer), as few and as short as there are; None proves that none is.

    Raises TooComplexError.
    """
    return _found(solver or Solver(), environments)


def can_meet(asked: Sequence[Condition], unless: Condition, profile: str) -> bool:
    """Whether some value that all of `asked` take is one that `unless` names. Raises TooComplexError."""
    question = Question(profile=profile, held=tuple(asked), broken=(unless,))
    return Solver().job(question) is not None


def _found(solver: Solver, environments: Sequence[Environment]) -> ClaimSet | None:
    if len({environment.profile for environment in environments}) > 1:
        return None  # a job's issuer has one profile
    job = solver.job(inside(environments))
    if job is not None and not all(matches(environment, job) for environment in environments):
        raise TooComplexError  # the model and the evaluator differ: neither is to be relied on
    return job


# --- pairs worth a proof ----------------------------------------------------------------------------------------------


def _pairs(environments: Sequence[Environment]) -> Iterator[tuple[int, int]]:
    """Those that no claim keeps apart at a glance, each pair once, in order."""
    everyone = (1 << len(environments)) - 1
    reach = [everyone] * len(environments)
    issuers: dict[str, int] = defaultdict(int)
    by_claim: dict[str, dict[int, Condition]] = defaultdict(dict)
    for number, environment in enumerate(environments):
        issuers[environment.issuer] |= 1 << number
        for condition in environment.conditions:
            if not condition.negated and condition.kind is not ClaimKind.TEXTS:
                known = by_claim[condition.claim].get(number)
                if known is None or _width(condition) < _width(known):
                    by_claim[condition.claim][number] = condition
    for number, environment in enumerate(environments):
        reach[number] &= issuers[environment.issuer]
    for asked in by_claim.values():
        _narrow(reach, asked, everyone)
    for number, others in enumerate(reach):
        left, other = others >> (number + 1), number
        while left:
            step = (left & -left).bit_length()
            left, other = left >> step, other + step
            yield number, other


def _width(condition: Condition) -> tuple[int, int]:
    return len(condition.globs), len(condition.exact)


def _narrow(reach: list[int], asked: dict[int, Condition], everyone: int) -> None:
    """Takes from each environment's reach those whose values of this claim are others."""
    texts = {number: (list(map(str, c.exact)), [glob.text for glob in c.globs]) for number, c in asked.items()}
    _narrow_by(reach, texts, everyone)
    if any(globs for _, globs in texts.values()):
        for backwards in (False, True):
            for place in _segments(texts, backwards=backwards):
                _narrow_by(reach, place, everyone)


_Texts = dict[int, tuple[list[str], list[str]]]  # exact texts and globs of each environment


def _narrow_by(reach: list[int], texts: _Texts, everyone: int) -> None:
    heads = _Ends({n: (exact, [glob.partition("*")[0] for glob in globs]) for n, (exact, globs) in texts.items()})
    tails = _Ends(
        {n: ([e[::-1] for e in exact], [g.rpartition("*")[2][::-1] for g in globs]) for n, (exact, globs) in texts.items()}
    )
    free = everyone & ~sum(1 << number for number in texts)
    for number in texts:
        reach[number] &= free | (heads.like(number) & tails.like(number))


class _Ends:
    """Who can begin like whom: exact texts whole, globs by what stands before their first star."""

    def __init__(self, texts: dict[int, tuple[list[str], list[str]]]) -> None:
        self._texts = texts
        self._exact: dict[str, int] = defaultdict(int)
        self._heads: dict[str, int] = defaultdict(int)
        for number, (exact, heads) in texts.items():
            for text in exact:
                self._exact[text] |= 1 << number
            for head in heads:
                self._heads[head] |= 1 << number
        self._exact_order, self._head_order = sorted(self._exact), sorted(self._heads)
        self._known: dict[tuple[str, bool], int] = {}

    def like(self, number: int) -> int:
        exact, heads = self._texts[number]
        found = 0
        for text in exact:
            found |= self._of(text, whole=True)
        for head in heads:
            found |= self._of(head, whole=False)
        return found

    def _of(self, text: str, *, whole: bool) -> int:
        known = self._known.get((text, whole))
        if known is None:
            known = self._known[text, whole] = self._computed(text, whole=whole)
        return known

    def _computed(self, text: str, *, whole: bool) -> int:
        found = self._exact.get(text, 0)
        for length in range(len(text) + 1):
            found |= self._heads.get(text[:length], 0)
        if not whole:
            for order, masks in ((self._exact_order, self._exact), (self._head_order, self._heads)):
                for longer in order[bisect_left(order, text) : bisect_right(order, text + _LAST)]:
                    found |= masks[longer]
        return found


def _segments(texts: _Texts, *, backwards: bool) -> list[_Texts]:
    """For each place between slashes, counted from one end: what an environment wants there, if all its values have one there."""
    places: list[_Texts] = []
    for number, (exact, globs) in texts.items():
        rows = [_row(text, backwards=backwards) for text in (*exact, *globs)]
        for place in range(min(map(len, rows))):
            while len(places) <= place:
                places.append({})
            named = {row[place] for row in rows}
            places[place][number] = ([part for part in named if "*" not in part], [part for part in named if "*" in part])
    return places


def _row(text: str, *, backwards: bool) -> list[str]:
    """The segments up to the first that may be several."""
    parts = text.split("/")
    row: list[str] = []
    for part in reversed(parts) if backwards else parts:
        if "**" in part:
            break
        row.append(part)
    return row
