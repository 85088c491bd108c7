"""What a policy can never do, and who can have what: answered by proof, or by the shortest job that shows the opposite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.profile import ClaimKind, Profile
from broker.identity.profiles import PROFILES
from broker.policy.automata import TooComplexError
from broker.policy.decide import matches
from broker.policy.invariants import invariant_from
from broker.policy.model import Condition, Environment, Forbidden, Invariant, Policy
from broker.policy.reading import Table
from broker.policy.satisfy import Solver, inside
from broker.toml_source import Problem, SourceInvalid, parse

__all__ = ["Reach", "TooComplexError", "Witness", "ask", "violation", "who_can"]

_ASKED = "--never"


@dataclass(frozen=True, slots=True)
class Witness:
    """A job that gets what nobody should: its claims, as `policy explain` takes them, and the environment it is in."""

    environment: Environment
    job: ClaimSet
    grants: tuple[str, ...]  # those of the question; empty when it asked for none


@dataclass(frozen=True, slots=True)
class Reach:
    """One environment that has a grant, with the least job that is in it; None proves that no job is."""

    environment: Environment
    job: ClaimSet | None


def violation(policy: Policy, invariant: Invariant, solver: Solver | None = None) -> Witness | None:
    """The shortest job that breaks it; None proves that no job of `claims_model` does. Raises TooComplexError."""
    solver = solver or Solver()
    found: list[Witness] = []
    for environment in policy.environments:
        if invariant.environments and environment.name not in invariant.environments:
            continue
        grants = tuple(name for name in policy.granted(environment) if name in invariant.grants)
        if invariant.grants and not grants:
            continue
        job = _forbidden_job(solver, environment, invariant.claims)
        if job is not None:
            found.append(Witness(environment, job, grants))
    return min(found, key=lambda witness: (_size(witness.job), witness.environment.order), default=None)


def who_can(policy: Policy, grant: str, environment: str | None = None, solver: Solver | None = None) -> tuple[Reach, ...]:
    """Every environment that has this grant, with a job that is in it. Raises TooComplexError."""
    solver = solver or Solver()
    return tuple(
        Reach(rule, _forbidden_job(solver, rule, ()))
        for rule in policy.environments
        if grant in policy.granted(rule) and environment in (None, rule.name)
    )


def ask(policy: Policy, text: str) -> Invariant:
    """`environment=production,claim.ref_protected=false` as an invariant; a key that stands twice means either value.

    Raises SourceInvalid with what is wrong with it.
    """
    never = _table(policy, text)
    problems: list[Problem] = []
    source = parse("", _ASKED)
    profiles = [PROFILES[name] for name in dict.fromkeys(e.profile for e in policy.environments)]
    environments = {environment.name for environment in policy.environments}
    grants = {grant.name for grant in policy.grants}
    data = {"name": text, "never": never}
    made = invariant_from(Table(source, (), data, problems), environments=environments, grants=grants, profiles=profiles)
    if problems or made is None:
        if len(problems) > 1:  # what is wrong with a part says more than that nothing is left
            problems = [problem for problem in problems if problem.what != "never says nothing"]
        raise SourceInvalid(problems or [Problem(_ASKED, 1, f"{text!r} asks nothing", "write environment=NAME,claim.NAME=VALUE")])
    return made


def _table(policy: Policy, text: str) -> dict[str, object]:
    """The `never` table that the text means."""
    profiles = [PROFILES[environment.profile] for environment in policy.environments]
    never: dict[str, list[object]] = {}
    claims: dict[str, list[object]] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not key or not equals or not value:
            raise SourceInvalid([Problem(_ASKED, 1, f"{part!r} is not KEY=VALUE", "write environment=NAME,claim.NAME=VALUE")])
        if key.startswith("claim."):
            name = key.removeprefix("claim.")
            claims.setdefault(name, []).append(_typed(profiles, name, value))
        else:
            never.setdefault(key, []).append(value)
    whole: dict[str, object] = dict(never.items())
    if claims:
        whole["claim"] = {name: values[0] if len(values) == 1 else values for name, values in claims.items()}
    return whole


def _typed(profiles: Sequence[Profile], name: str, value: str) -> object:
    kinds = {profile.claims[name].kind for profile in profiles if name in profile.claims}
    if ClaimKind.BOOL in kinds and value in ("true", "false"):
        return value == "true"
    return int(value) if ClaimKind.NUMBER in kinds and value.isascii() and value.isdecimal() else value


def _forbidden_job(solver: Solver, environment: Environment, claims: Sequence[Forbidden]) -> ClaimSet | None:
    held: list[Condition] = []
    failing: list[Condition] = []
    own = [_own(forbidden, PROFILES[environment.profile]) for forbidden in claims]
    for forbidden in own:
        if forbidden is None:
            return None  # this issuer's tokens never carry it
        if forbidden.absent:
            if forbidden.condition.claim in PROFILES[environment.profile].claims:
                failing.append(replace(forbidden.condition, exact=frozenset({True})))  # not proved true: false, or not there
        else:
            held.append(forbidden.condition)
    question = inside([environment])
    job = solver.job(replace(question, held=(*question.held, *held), broken=tuple(failing)))
    if job is not None and not (
        matches(environment, job) and all(f.holds(job.get(f.condition.claim)) for f in own if f is not None)
    ):
        raise TooComplexError  # the model and the evaluator differ: neither is to be relied on
    return job


def _own(forbidden: Forbidden, profile: Profile) -> Forbidden | None:
    """The same of this profile's claim, which may be a list where another's is a text; None: its tokens have no such value."""
    claim = profile.claims.get(forbidden.condition.claim)
    if forbidden.absent or (claim is not None and claim.kind is forbidden.condition.kind):
        return forbidden
    if claim is None or not {claim.kind, forbidden.condition.kind} <= {ClaimKind.TEXT, ClaimKind.TEXTS}:
        return None
    return replace(forbidden, condition=replace(forbidden.condition, kind=claim.kind))


def _size(job: Mapping[str, ClaimValue]) -> tuple[int, int]:
    return len(job), sum(len(str(value)) for value in job.values())
