"""Is there a job for which these conditions hold and those do not? Exact over `claims_model`: such a job, or a proof.

Every condition restricts one claim, so a set of them can be met exactly if each claim's own set can; the model's ties between
claims (a ref and its path, twins, the fork rule) are told apart by cases. Whatever is found is what the search says; the callers
that hand a witness on have it decided by the evaluator as well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice

from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.profile import ClaimKind
from broker.identity.profiles import PROFILES
from broker.policy.automata import TooComplexError, shortest
from broker.policy.claims_model import Model, model_of
from broker.policy.model import Condition, Environment
from broker.policy.needs import Needs, elements, listed, meets, tracks

_MAX_CASES = 200_000
_COMPARED = 2_000  # witnesses, to take the shortest of
_FIRST_NUMBER = 1


class _Absent(Enum):
    ABSENT = "absent"


_ABSENT = _Absent.ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A job of one kind of issuer: conditions that hold, conditions that do not, and whether it may run a fork's code."""

    profile: str
    held: tuple[Condition, ...] = ()
    broken: tuple[Condition, ...] = ()
    fork: bool | None = None  # None: either
    outside: tuple[Environment, ...] = field(default=())  # of the same issuer: the job is in none of them


def inside(environments: Sequence[Environment]) -> Question:
    """A job that is in all of these, which are of one issuer."""
    forks_welcome = all(environment.allow_forks for environment in environments)
    return Question(
        profile=environments[0].profile,
        held=tuple(condition for environment in environments for condition in environment.conditions),
        fork=None if forks_welcome else False,
    )


class Solver:
    """Answers questions, and remembers what it found out about single claims: rules of one policy repeat them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, Needs], ClaimValue | _Absent | None] = {}
        self._refs_known: dict[tuple[str, str, Needs, Needs], str | None] = {}
        self._cases = 0

    def job(self, question: Question) -> ClaimSet | None:
        """Claims of such a job, as few and as short as there are; None proves that there is none. Raises TooComplexError."""
        self._cases = 0
        needs: dict[str, Needs] = {}
        for condition in question.held:
            needs[condition.claim] = needs.get(condition.claim, Needs()) | Needs(held=frozenset({condition}))
        for condition in question.broken:
            needs[condition.claim] = needs.get(condition.claim, Needs()) | Needs(broken=frozenset({condition}))
        ways = self._outside(question, needs, question.fork, question.outside)
        found = min(islice(ways, _COMPARED), key=_size, default=None)
        if found is None:
            return None
        job = ClaimSet(found)
        if question.fork is not None and PROFILES[question.profile].is_fork(job) is not question.fork:
            raise TooComplexError  # a rule on forks that the model does not have
        return job

    def can_hold(self, profile: str, held: Iterable[Condition]) -> bool:
        """Whether one value of one claim meets all of these conditions on it. Raises TooComplexError."""
        needs = Needs(held=frozenset(held))
        return self._value(model_of(profile), profile, next(iter(needs.held)).claim, needs) is not None

    # --- cases --------------------------------------------------------------------------------------------------------

    def _outside(
        self, question: Question, needs: dict[str, Needs], fork: bool | None, outside: Sequence[Environment]
    ) -> Iterator[dict[str, ClaimValue]]:
        """Every way of being in none of `outside`: each is left by one condition that fails, or by being a fork."""
        self._cases += 1
        if self._cases > _MAX_CASES:
            raise TooComplexError
        if not outside:
            yield from self._twins(question.profile, needs, fork)
            return
        first, rest = outside[0], outside[1:]
        if any(not self._may(question.profile, needs, Needs(held=frozenset({c})), c.claim) for c in first.conditions):
            yield from self._outside(question, needs, fork, rest)  # it is outside already
            return
        for condition in first.conditions:
            fails = Needs(broken=frozenset({condition}))
            if self._may(question.profile, needs, fails, condition.claim):
                more = {condition.claim: needs.get(condition.claim, Needs()) | fails}
                yield from self._outside(question, needs | more, fork, rest)
        if not first.allow_forks and fork is not False:
            yield from self._outside(question, needs, True, rest)

    def _may(self, profile: str, needs: Mapping[str, Needs], more: Needs, claim: str) -> bool:
        """Whether the claim alone can do that as well. False is a proof."""
        return self._value(model_of(profile), profile, claim, needs.get(claim, Needs()) | more) is not None

    def _twins(self, profile: str, needs: dict[str, Needs], fork: bool | None) -> Iterator[dict[str, ClaimValue]]:
        """A claim that is absent, or has the value of the one that it equals."""
        model = model_of(profile)
        twin = next((claim for claim in model.twins if claim in needs), None)
        if twin is None:
            yield from self._forks(profile, needs, fork)
            return
        other = model.twins[twin]
        yield from self._forks(profile, needs | {twin: needs[twin] | Needs(absent=True)}, fork)
        both = self._value(model, profile, other, needs[twin] | needs.get(other, Needs()) | Needs(present=True))
        if isinstance(both, str):
            others = {name: need for name, need in needs.items() if name not in (twin, other)}
            for rest in self._forks(profile, others, fork):
                yield rest | {twin: both, other: both}

    def _forks(self, profile: str, needs: dict[str, Needs], fork: bool | None) -> Iterator[dict[str, ClaimValue]]:
        rule = model_of(profile).forks
        if fork is None or rule is None:
            if not fork:  # without a rule there is no fork
                yield from self._refs(profile, needs)
            return
        own, pinned, source = (needs.get(name, Needs()) for name in (rule.own, rule.pinned, rule.source))
        proposal = replace(_exactly(rule.source, ""), exact=rule.proposals, globs=rule.alike)
        without = needs | ({rule.own: own | Needs(absent=True)} if rule.own else {})
        if fork:
            yield from self._refs(profile, without | {rule.source: source | Needs(held=frozenset({proposal}))})
            if rule.own:
                yield from self._apart(profile, needs, (rule.own, rule.pinned))
            return
        # Without a condition on the source, no source at all is shorter than one; with one, it is no proposal.
        honest = {rule.source: source | Needs(broken=frozenset({proposal}))} if source != Needs() else {}
        yield from self._refs(profile, without | honest)
        if not rule.own:
            return
        both = self._value(model_of(profile), profile, rule.pinned, own | pinned | Needs(present=True))
        if isinstance(both, str):
            others = {name: need for name, need in needs.items() if name not in (rule.own, rule.pinned)}
            for rest in self._refs(profile, others):
                yield rest | {rule.own: both, rule.pinned: both}

    def _apart(self, profile: str, needs: dict[str, Needs], pair: tuple[str, str]) -> Iterator[dict[str, ClaimValue]]:
        """Both claims present, with different values. Relies on the second being one that is never absent."""
        model = model_of(profile)
        one, other = (needs.get(name, Needs()) | Needs(present=True) for name in pair)
        first = self._value(model, profile, pair[0], one)
        second = self._value(model, profile, pair[1], other)
        if not isinstance(first, str) or not isinstance(second, str):
            return
        if first == second:
            second = self._value(model, profile, pair[1], other | Needs(broken=frozenset({_exactly(pair[1], first)})))
        if second is None and isinstance(first, str):
            second = self._value(model, profile, pair[1], other)
            first = self._value(model, profile, pair[0], one | Needs(broken=frozenset({_exactly(pair[0], str(second))})))
        if isinstance(first, str) and isinstance(second, str):
            others = {name: need for name, need in needs.items() if name not in pair}
            for rest in self._refs(profile, others):
                yield rest | {pair[0]: first, pair[1]: second}

    def _refs(self, profile: str, needs: dict[str, Needs]) -> Iterator[dict[str, ClaimValue]]:
        """The claims that spell one another, for each kind of ref; then all others."""
        model = model_of(profile)
        tied = _names(model) & needs.keys()
        others: dict[str, ClaimValue] = {}
        for claim, need in needs.items():
            if claim not in tied:
                value = self._value(model, profile, claim, need)
                if value is None:
                    return
                if value is not _ABSENT:
                    others[claim] = value
        if not tied or model.spelled is None:
            yield others
            return
        spelled = model.spelled
        for kind, prefix in ((kind, prefix) for kind, prefixes in spelled.prefixes.items() for prefix in prefixes):
            if not meets(kind, needs.get(spelled.kind, Needs())):
                continue
            rest = self._tied(model, profile, needs, prefix)
            if rest is None:
                continue
            whole: dict[str, ClaimValue] = {spelled.kind: kind, spelled.rest: rest, spelled.whole: prefix + rest}
            yield others | {name: value for name, value in whole.items() if name in tied}

    # --- one claim ----------------------------------------------------------------------------------------------------

    def _tied(self, model: Model, profile: str, needs: Mapping[str, Needs], prefix: str) -> str | None:
        """The shortest rest that meets its own conditions, and behind the prefix those of the whole."""
        assert model.spelled is not None
        rest, whole = needs.get(model.spelled.rest, Needs()), needs.get(model.spelled.whole, Needs())
        key = (profile, prefix, rest, whole)
        if key not in self._refs_known:
            groups, bars = tracks(rest, "")
            more_groups, more_bars = tracks(whole, prefix)
            grammar = model.grammar(model.spelled.rest or model.spelled.whole)
            found = shortest(grammar, [*groups, *more_groups], [*bars, *more_bars])
            self._refs_known[key] = found
        return self._refs_known[key]

    def _value(self, model: Model, profile: str, claim: str, needs: Needs) -> ClaimValue | _Absent | None:
        """The least value that meets these needs, "absent" before any; None proves that there is none."""
        key = (profile, claim, needs)
        if key not in self._known:
            self._known[key] = self._computed(model, profile, claim, needs)
        return self._known[key]

    def _computed(self, model: Model, profile: str, claim: str, needs: Needs) -> ClaimValue | _Absent | None:
        may_be_absent = not needs.held and not needs.present and claim not in model.total
        if needs.absent or may_be_absent:
            return _ABSENT if may_be_absent else None
        return _present(model, profile, claim, needs)


def _present(model: Model, profile: str, claim: str, needs: Needs) -> ClaimValue | None:
    """The least value of a claim that is there."""
    kind, grammar = PROFILES[profile].claims[claim].kind, model.grammar(claim)
    if any(condition.kind is not kind for condition in needs.held):
        return None  # a value of another type meets nothing
    needs = replace(needs, broken=frozenset(condition for condition in needs.broken if condition.kind is kind))
    if kind is ClaimKind.TEXTS:
        return elements(grammar, needs)
    finite = listed(needs)
    if model.spelled is not None and claim == model.spelled.kind:
        finite = list(model.spelled.prefixes)
    elif kind is ClaimKind.BOOL:
        finite = [True, False]
    if finite is not None:
        fitting = (value for value in finite if meets(value, needs))
        return next((value for value in fitting if kind is not ClaimKind.TEXT or grammar.admits(str(value))), None)
    if kind is ClaimKind.NUMBER:
        return next(number for number in range(_FIRST_NUMBER, 2**53) if meets(number, needs))
    return shortest(grammar, *tracks(needs, ""))


def _names(model: Model) -> frozenset[str]:
    tie = model.spelled
    return frozenset() if tie is None else frozenset({tie.whole, tie.rest, tie.kind}) - {""}


def _size(job: Mapping[str, ClaimValue]) -> tuple[int, int, str]:
    return len(job), sum(len(str(value)) for value in job.values()), str(sorted(job.items(), key=lambda item: item[0]))


def _exactly(claim: str, value: str) -> Condition:
    return Condition(
        claim=claim, clause="model", kind=ClaimKind.TEXT, exact=frozenset({value}), globs=(), negated=False, wanted=""
    )
