"""What jobs may do under one policy and not under another: proved for all jobs of `claims_model`, shown by the shortest ones.

A job's rights are its environment's name, the names of its grants there, and what those grants are. Compared are rules of one
issuer and one environment name; a job that only changes environment is gained in one, lost in the other, and says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta

from broker.identity.claims import ClaimSet
from broker.policy.automata import TooComplexError
from broker.policy.decide import decide_claims, matches
from broker.policy.model import Allow, Environment, Grant, Policy, Rate
from broker.policy.satisfy import Question, Solver, inside
from broker.policy.target import AwsGrant, VaultGrant

_SHOWN_CHARS = 200

__all__ = ["Changed", "Difference", "Gained", "TooComplexError", "compare", "said"]


@dataclass(frozen=True, slots=True)
class Gained:
    """Jobs that have these grants in one policy and not in the other; `job` is the shortest of them."""

    environment: Environment
    grants: tuple[str, ...]  # () when only the environment itself is new to them
    job: ClaimSet
    before: str  # what the other policy says to `job`, in words


@dataclass(frozen=True, slots=True)
class Changed:
    """The same jobs have something else than before."""

    environment: str
    grant: str  # "" for the environment's own settings
    key: str
    old: str
    new: str
    wider: bool  # False is sure; True also when nobody can say
    job: ClaimSet


@dataclass(frozen=True, slots=True)
class Difference:
    gained: tuple[Gained, ...]
    lost: tuple[Gained, ...]
    changed: tuple[Changed, ...]

    @property
    def widens(self) -> bool:
        return bool(self.gained) or any(change.wider for change in self.changed)


def compare(old: Policy, new: Policy) -> Difference:
    """Every difference, each with a witness. None at all proves that no job is decided otherwise. Raises TooComplexError."""
    solver = Solver()
    changes = {_what(change): change for rule in new.environments for change in _changed(solver, old, new, rule)}
    return Difference(
        gained=tuple(found for rule in new.environments for found in _gained(solver, old, new, rule)),
        lost=tuple(found for rule in old.environments for found in _gained(solver, new, old, rule)),
        changed=tuple(changes.values()),
    )


def said(policy: Policy, issuer: str, profile: str, job: ClaimSet) -> str:
    """What this policy gives that job, in a few words."""
    decision = decide_claims(policy, issuer, profile, job, None)
    if isinstance(decision, Allow):
        return f"{decision.environment}: {', '.join(decision.grants) or 'no grants'}"
    return decision.code.word


# --- jobs -------------------------------------------------------------------------------------------------------------


def _gained(solver: Solver, other: Policy, policy: Policy, rule: Environment) -> Iterator[Gained]:
    """Jobs in this rule of `policy` that do not have its grants in `other`, one witness for grants with the same jobs."""
    alike = [o for o in _namesakes(other, rule) if _meet(solver, rule, o) is not None]
    wanted: dict[tuple[int, ...], list[str]] = {}
    for name in policy.granted(rule):
        having = tuple(o.order for o in alike if name in other.granted(o))
        wanted.setdefault(having, []).append(name)
    # Being in the environment is a right of its own: it is said to upstreams, and later grants are given to it.
    wanted.setdefault(tuple(o.order for o in alike), [])
    told: list[ClaimSet] = []
    for having, grants in wanted.items():
        covered = [o for o in alike if o.order in having]
        if any(_same_jobs(rule, o) for o in covered):
            continue
        question = inside([rule])
        job = solver.job(Question(profile=rule.profile, held=question.held, fork=question.fork, outside=tuple(covered)))
        if job is None or (not grants and job in told):
            continue
        if not matches(rule, job) or any(matches(o, job) for o in covered):
            raise TooComplexError  # the model and the evaluator differ: neither is to be relied on
        told.append(job)
        yield Gained(rule, tuple(grants), job, said(other, rule.issuer, rule.profile, job))


def _what(change: Changed) -> tuple[str, ...]:
    """What is one line, whatever rules and files it is true of."""
    return change.environment, change.grant, change.key, change.old, change.new


def _namesakes(policy: Policy, rule: Environment) -> Sequence[Environment]:
    return [
        o
        for o in policy.environments
        if (o.name, o.issuer, o.profile) == (rule.name, rule.issuer, rule.profile)
        and (o.pinned_by != rule.pinned_by or o.pinned_to & rule.pinned_to)
    ]


def _meet(solver: Solver, one: Environment, other: Environment) -> ClaimSet | None:
    return solver.job(inside([one, other]))


def _same_jobs(one: Environment, other: Environment) -> bool:
    """Whether they are written alike: then no search is needed. False means only "look"."""
    return one.allow_forks == other.allow_forks and _asked(one) == _asked(other)


def _asked(rule: Environment) -> frozenset[object]:
    return frozenset((c.claim, c.negated, c.exact, tuple(glob.text for glob in c.globs)) for c in rule.conditions)


# --- what they get ----------------------------------------------------------------------------------------------------


def _changed(solver: Solver, old: Policy, new: Policy, rule: Environment) -> Iterator[Changed]:
    for before in _namesakes(old, rule):
        job = _meet(solver, rule, before)
        if job is None:
            continue
        for key, was, now, wider in _settings(before, rule):
            yield Changed(rule.name, "", key, was, now, wider, job)
        olds, news = old.granted(before), new.granted(rule)
        for name in (name for name in news if name in olds):
            for key, was, now, wider in _definitions(olds[name], news[name]):
                yield Changed(rule.name, name, key, was, now, wider, job)


_Row = tuple[str, str, str, bool]


def _settings(old: Environment, new: Environment) -> Iterator[_Row]:
    if old.max_session != new.max_session:
        yield "max_session", _told(old.max_session), _told(new.max_session), _longer(old.max_session, new.max_session)
    if old.max_exchanges != new.max_exchanges:
        yield "max_exchanges", str(old.max_exchanges), str(new.max_exchanges), new.max_exchanges > old.max_exchanges
    if old.hints != new.hints:
        yield "hints", old.hints, new.hints, new.hints == "full"


def _definitions(old: Grant, new: Grant) -> Iterator[_Row]:
    if old.max_ttl != new.max_ttl:
        yield "max_ttl", _told(old.max_ttl), _told(new.max_ttl), _longer(old.max_ttl, new.max_ttl)
    if old.rate != new.rate:
        yield "rate", _told(old.rate), _told(new.rate), _faster(old.rate, new.rate)
    if old.strict_expiry != new.strict_expiry:
        yield "strict_expiry", _told(old.strict_expiry), _told(new.strict_expiry), not new.strict_expiry
    if type(old.target) is not type(new.target):
        yield "upstream", _kind(old.target), _kind(new.target), True
        return
    for field in fields(old.target):
        was, now = getattr(old.target, field.name), getattr(new.target, field.name)
        if was != now:
            wider = _longer(was, now) if field.name == "ttl" else True
            yield f"{_kind(new.target)}.{field.name}", _told(was), _told(now), wider


def _kind(target: AwsGrant | VaultGrant) -> str:
    return "aws" if isinstance(target, AwsGrant) else "vault"


def _longer(old: timedelta | None, new: timedelta | None) -> bool:
    """No limit is longer than any."""
    return old is not None and (new is None or new > old)


def _faster(old: Rate | None, new: Rate | None) -> bool:
    """Sure not to be only when it is lower over the same time: 60 in an hour allow what 1 in a minute does not."""
    return old is not None and (new is None or new.per != old.per or new.count > old.count)


def _told(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return f"{int(value.total_seconds())}s"
    if isinstance(value, Rate):
        return f"{value.count} in {int(value.per.total_seconds())}s"
    text = ", ".join(value) if isinstance(value, tuple) else " ".join(str(value).split())
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
