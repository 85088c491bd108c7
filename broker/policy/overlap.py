"""Proof that no two environments can match one job, or a job that both match.

Exact, over this model (policy-engines.md section 3): a claim is absent or has a value; booleans are true or false; claims are
independent of each other, but for the rule on forks, which is asked with real values. Every condition then restricts one claim,
so a set of conditions can be met exactly if each claim's own set can; and globs describe regular languages, whose intersection
and complement a search through the product of their automata decides, shortest witness first.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.profile import Assurance, ClaimKind
from broker.identity.profiles import PROFILES
from broker.policy.glob import Automaton, automaton
from broker.policy.model import Condition, Environment

_MAX_STATES = 50_000
_MAX_TRIES = 100_000
_ORDINARY = "xyzabcdefghijklmnopqrstuvw0123456789"


class TooComplexError(Exception):
    """Neither a proof nor a witness within bounds. The policy is refused: what is not proved is not taken."""


def overlaps(environments: Sequence[Environment]) -> Iterator[tuple[Environment, Environment, ClaimSet]]:
    """Every pair that can match one job, with such a job's claims. Raises TooComplexError."""
    heads = [_heads(environment) for environment in environments]
    for one, other in _pairs(environments):
        if not _apart(heads[one], heads[other]):
            witness = find_job([environments[one], environments[other]])
            if witness is not None:
                yield environments[one], environments[other], witness


def find_job(environments: Sequence[Environment]) -> ClaimSet | None:
    """Claims of a job that is in all of these (of one issuer), as few and as short as there are; None proves that none is.

    Raises TooComplexError.
    """
    by_claim: dict[str, list[Condition]] = {}
    for environment in environments:
        for condition in environment.conditions:
            by_claim.setdefault(condition.claim, []).append(condition)
    found: dict[str, ClaimValue] = {}
    for claim, conditions in by_claim.items():
        value = _value(conditions)
        if value is None:
            return None
        found[claim] = value
    profile = PROFILES[environments[0].profile]
    if all(e.allow_forks for e in environments) or not profile.is_fork(ClaimSet(found)):
        return ClaimSet(found)
    return _own_job(environments[0], found, by_claim)


def can_meet(asked: Sequence[Condition], unless: Condition) -> bool:
    """Whether some value that all of `asked` take is one that `unless` names. Raises TooComplexError."""
    return _value([*asked, replace(unless, negated=False)]) is not None


# --- pairs ------------------------------------------------------------------------------------------------------------


def _pairs(environments: Sequence[Environment]) -> list[tuple[int, int]]:
    """Those that share an issuer and are not apart by their pins alone, each pair once."""
    buckets: dict[tuple[str, str, str], list[int]] = {}
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, environment in enumerate(environments):
        kinds.setdefault((environment.issuer, environment.pinned_by), []).append(number)
        for value in environment.pinned_to:
            buckets.setdefault((environment.issuer, environment.pinned_by, value), []).append(number)
    seen: set[tuple[int, int]] = set()
    for bucket in buckets.values():
        seen.update(combinations(bucket, 2))
    for (one, here), (other, there) in combinations(kinds.items(), 2):
        if one[0] == other[0]:
            seen.update((min(pair), max(pair)) for pair in product(here, there))
    return sorted(seen)


def _heads(environment: Environment) -> dict[str, tuple[str, ...]]:
    """What each claim's text has to start with, for the cheap proof; the longest lists last, so that it ends early."""
    heads = {
        c.claim: (*(str(value) for value in c.exact), *(glob.text.partition("*")[0] for glob in c.globs))
        for c in environment.conditions
        if not c.negated and c.kind is not ClaimKind.TEXTS
    }
    return dict(sorted(heads.items(), key=lambda item: len(item[1])))


def _apart(first: dict[str, tuple[str, ...]], second: dict[str, tuple[str, ...]]) -> bool:
    """The cheap proof, which most pairs have: one claim would have to start in two ways. False means only "not proved"."""
    for claim, mine in first.items():
        theirs = second.get(claim)
        if theirs is not None and not any(a.startswith(b) or b.startswith(a) for a in mine for b in theirs):
            return True
    return False


# --- one claim --------------------------------------------------------------------------------------------------------


def _value(conditions: Sequence[Condition]) -> ClaimValue | None:
    """A value that holds in all of these conditions on one claim."""
    kind = conditions[0].kind
    asked = [c for c in conditions if not c.negated]
    barred = [c for c in conditions if c.negated]
    if kind is ClaimKind.TEXTS:
        # Each element answers one condition; none may be a barred one.
        elements = [_text([condition], barred) for condition in asked]
        whole = tuple(element for element in elements if element is not None)
        return whole if len(whole) == len(elements) else None
    finite = _finite(conditions)
    if finite is not None:
        return next(finite, None)
    if kind is ClaimKind.NUMBER:
        return next(number for number in range(1, 2**53) if all(c.holds(number) for c in barred))
    return _text(asked, barred)


def _finite(conditions: Sequence[Condition]) -> Iterator[ClaimValue] | None:
    """Every value that holds, when they can be listed."""
    listed: list[frozenset[str | bool | int]] = [c.exact for c in conditions if not c.negated and not c.globs]
    if conditions[0].kind is ClaimKind.BOOL:
        listed = [frozenset({True, False})]
    if not listed or conditions[0].kind is ClaimKind.TEXTS:
        return None
    values = sorted(frozenset.intersection(*listed), key=lambda value: (len(str(value)), str(value)))
    return (value for value in values if all(c.holds(value) for c in conditions))


def _text(asked: Sequence[Condition], barred: Sequence[Condition]) -> str | None:
    """The shortest text that all of `asked` describe and none of `barred`: first one that looks like a path, then any."""
    machines = [_machines(c) for c in asked]
    bars = [machine for c in barred for machine in _machines(c)]
    for sensible in (True, False):
        found = _search(machines, bars, sensible=sensible)
        if found is not None:
            return found
    return None


def _machines(condition: Condition) -> list[Automaton]:
    return [automaton(str(value)) for value in sorted(condition.exact, key=str)] + [glob.automaton for glob in condition.globs]


def _search(asked: Sequence[Sequence[Automaton]], barred: Sequence[Automaton], *, sensible: bool) -> str | None:
    """Breadth first through the product. `sensible` leaves out empty texts and empty segments, which no real path has."""
    flat = [machine for group in asked for machine in group] + list(barred)
    ends = [sum(map(len, asked[: n + 1])) for n in range(len(asked))]
    groups = list(zip([0, *ends], ends, strict=False))
    alphabet = _alphabet(flat)
    start = (tuple(machine.start for machine in flat), True)
    queue = deque([(start, "")])
    seen = {start}
    while queue:
        (states, fresh), text = queue.popleft()
        accepted = [machine.accepts(state) for machine, state in zip(flat, states, strict=True)]
        if (
            all(any(accepted[low:high]) for low, high in groups)
            and not any(accepted[len(accepted) - len(barred) :])
            and not (sensible and fresh)
        ):
            return text
        for character in _next(flat, states, groups, alphabet):
            if sensible and fresh and character == "/":
                continue
            moved = tuple(machine.step(state, character) for machine, state in zip(flat, states, strict=True))
            node = (moved, character == "/")
            if node not in seen and all(any(moved[low:high]) for low, high in groups):
                seen.add(node)
                queue.append((node, text + character))
        if len(seen) > _MAX_STATES:
            raise TooComplexError
    return None


def _alphabet(machines: Iterable[Automaton]) -> list[str]:
    """Every character that some pattern names, the slash, and one that stands for all others."""
    named = {"/"}.union(*(machine.literal for machine in machines))
    others = (c for c in _ORDINARY + "".join(map(chr, range(0xA1, 0x2000))) if c not in named and c.isprintable())
    return [next(others), *sorted(named, key=lambda c: (not c.isalnum(), c))]


def _next(
    flat: Sequence[Automaton], states: Sequence[int], groups: Sequence[tuple[int, int]], alphabet: Sequence[str]
) -> Sequence[str]:
    """The characters worth trying: where some pattern can only go on literally, only its own."""
    best = alphabet
    for low, high in groups:
        own: set[str] = set()
        for machine, state in zip(flat[low:high], states[low:high], strict=True):
            if state & (machine.within | machine.across):
                break
            own.update(c for c, positions in machine.literal.items() if positions & state)
        else:
            if len(own) < len(best):
                best = sorted(own)
    return best


# --- forks ------------------------------------------------------------------------------------------------------------


def _own_job(environment: Environment, found: dict[str, ClaimValue], by_claim: dict[str, list[Condition]]) -> ClaimSet | None:
    """Another choice of ids and source under which the job runs its own project's code; None when there is none.

    Relies on `is_fork` reading ids and the source only, and on its comparing ids for being the same.
    """
    profile = PROFILES[environment.profile]
    ids = {name for name, claim in profile.claims.items() if claim.assurance is Assurance.ID and claim.kind is ClaimKind.TEXT}
    chosen = [name for name in by_claim if name in ids or name == profile.source]
    lists: list[list[ClaimValue]] = []
    for name in chosen:
        values = _finite(by_claim[name])
        pins = (pin for pin in sorted(environment.pinned_to) if all(c.holds(pin) for c in by_claim[name]))
        lists.append([*pins, found[name]] if values is None else list(values))
    for number, choice in enumerate(product(*lists)):
        if number == _MAX_TRIES:
            raise TooComplexError
        job = found | dict(zip(chosen, choice, strict=True))
        for extra in _same_ids(job, ids):
            if not profile.is_fork(ClaimSet(job | extra)):
                needed = [n for n in extra if profile.is_fork(ClaimSet(job | {k: v for k, v in extra.items() if k != n}))]
                return ClaimSet(job | {n: extra[n] for n in needed})
    return None


def _same_ids(job: Mapping[str, ClaimValue], ids: set[str]) -> Iterator[dict[str, ClaimValue]]:
    """What the ids that no condition speaks of can be: absent, or the same as one that is chosen."""
    yield {}
    for value in dict.fromkeys(job[name] for name in sorted(ids & job.keys())):
        yield dict.fromkeys(sorted(ids - job.keys()), value)
