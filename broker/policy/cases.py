"""Cases: jobs written down beside the policy, and what each is meant to get. Read, decided, and told apart from what came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.errors import Code
from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.profile import ClaimKind, Profile
from broker.policy.decide import decide_claims
from broker.policy.explain import Trail, explain_claims, issuers_of, profile_of
from broker.policy.model import Allow, Decision, Environment, Policy
from broker.policy.reading import Table
from broker.toml_source import Problem, Source, SourceInvalid, did_you_mean
from broker.toml_source import parse as parse_toml

_CODES = {code.word: code for code in (Code.NO_ENVIRONMENT, Code.GRANT_DENIED, Code.GRANT_UNKNOWN)}
_TYPES: Mapping[ClaimKind, type] = {ClaimKind.TEXT: str, ClaimKind.BOOL: bool, ClaimKind.NUMBER: int}


class CasesInvalid(SourceInvalid):
    """Cases that cannot be run, with every problem found in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a case wants. What is None is not looked at."""

    environment: str | None
    file: str | None  # of a folder: the policy file whose environment it is
    grants: frozenset[str] | None
    deny: Code | None
    missing: frozenset[str] | None  # the claims that keep it out of the nearest environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    file: str
    line: int
    issuer: str
    claims: ClaimSet
    wants: tuple[str, ...] | None
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One case, decided. `differences` are sentences; there are none when it is as expected."""

    case: Case
    decision: Decision
    differences: tuple[str, ...]
    trails: tuple[Trail, ...]  # the nearest environment first; only of a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    outcomes: tuple[Outcome, ...]
    unselected: tuple[Environment, ...]  # no case ends up in them

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.differences)


def run(policy: Policy, cases: Sequence[Case]) -> Report:
    """Every case, decided by that policy."""
    outcomes = tuple(_decided(policy, case) for case in cases)
    selected = {outcome.decision.rule.order for outcome in outcomes if isinstance(outcome.decision, Allow)}
    return Report(outcomes=outcomes, unselected=tuple(e for e in policy.environments if e.order not in selected))


def parse_cases(text: str, name: str, policy: Policy) -> tuple[Case, ...]:
    """The cases in that text, for that policy. Raises CasesInvalid with every problem."""
    try:
        source = parse_toml(text, name)
    except SourceInvalid as invalid:
        raise CasesInvalid(invalid.problems) from None
    problems: list[Problem] = []
    top = Table(source, (), source.data, problems)
    defaults = top.table("defaults")
    tables = top.tables("case")
    if not tables and not problems:
        top.problem("case", "there is no [[case]]", "write at least one: a job that gets something, and one that does not")
    top.refuse_others()
    reader = _Reader(source, policy, defaults.members() if defaults is not None else {})
    cases = [case for table in tables if (case := reader.case(table)) is not None]
    _names_once(tables)
    if problems:
        raise CasesInvalid(problems)
    return tuple(cases)


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reader:
    source: Source
    policy: Policy
    defaults: Mapping[str, Any]

    def case(self, table: Table) -> Case | None:
        """Anything wrong goes to the table's problems."""
        name = table.text("name", required=True)
        claims = table.table("claims")
        without = table.texts("without")
        wants = table.texts("wants") or None
        expect = table.table("expect", required=True)
        members = {**self.defaults, **(claims.members() if claims is not None else {})}
        members = {claim: value for claim, value in members.items() if claim not in without}
        issuer = self._issuer(table, members.pop("issuer", None))
        expected = _expected(expect, self.policy) if expect is not None else None
        table.refuse_others()
        if name is None or issuer is None or expected is None:
            return None
        profile = profile_of(self.policy, issuer)
        for claim in without:
            if claim not in profile.claims:
                table.problem("without", f"without: no such claim {claim!r}", did_you_mean(claim, profile.claims))
        typed = _typed(claims or table, members, profile)
        line = self.policy_line(table)
        return Case(name=name, file=self.source.name, line=line, issuer=issuer, claims=typed, wants=wants, expected=expected)

    def policy_line(self, table: Table) -> int:
        return self.source.line_of(table.place.path)

    def _issuer(self, table: Table, named: object) -> str | None:
        known = issuers_of(self.policy)
        if named is None and len(known) == 1:
            return known[0]
        if isinstance(named, str) and named in known:
            return named
        what = "issuer is missing" if named is None else f"no environment is of issuer {named!r}"
        table.problem("claims", what, f"write issuer = … in [defaults]; the policy's are {', '.join(known)}")
        return None


def _typed(table: Table, members: Mapping[str, Any], profile: Profile) -> ClaimSet:
    found: dict[str, ClaimValue] = {}
    for name, value in members.items():
        claim = profile.claims.get(name)
        if claim is None:
            table.problem(name, f"{profile.name} tokens have no claim {name!r}", did_you_mean(name, profile.claims))
        elif claim.kind is ClaimKind.TEXTS and type(value) is list and all(type(element) is str for element in value):
            found[name] = tuple(value)
        elif claim.one_or_more and isinstance(value, str):
            found[name] = (value,)
        elif isinstance(value, str | bool | int) and type(value) is _TYPES.get(claim.kind):
            found[name] = value
        else:
            table.problem(name, f"{name} is {claim.kind.value}, and {value!r} is not", "write it as the claim is compared")
    return ClaimSet(found)


def _expected(expect: Table, policy: Policy) -> Expected | None:
    environment = expect.text("environment")
    file = expect.text("file")
    grants = expect.texts("grants", empty=True) if "grants" in expect else None
    deny = expect.text("deny")
    missing = expect.texts("missing") if "missing" in expect else None
    expect.refuse_others()
    environments = {e.name for e in policy.environments}
    if environment is not None and environment not in environments:
        expect.problem("environment", f"there is no environment {environment!r}", did_you_mean(environment, environments))
    if file is not None and file not in policy.sources:
        expect.problem("file", f"the policy has no file {file!r}", did_you_mean(file, policy.sources))
    names = {grant.name for grant in policy.grants}
    for grant in grants or ():
        if grant not in names:
            expect.problem("grants", f"there is no grant {grant!r}", did_you_mean(grant, names))
    if deny is not None and deny not in _CODES:
        expect.problem("deny", f"deny is {deny!r}", did_you_mean(deny, _CODES))
    if (environment is None) == (deny is None):
        what = "expect says both `environment` and `deny`" if deny else "expect says neither `environment` nor `deny`"
        expect.problem("", what, 'write { environment = "…", grants = […] } or { deny = "no_environment" }')
        return None
    for key, beside, is_there in (("grants", "environment", grants is not None), ("missing", "deny", missing is not None)):
        if is_there and (environment if beside == "environment" else deny) is None:
            expect.problem(key, f"{key} says something only beside `{beside}`", f"leave it out, or write {beside} = …")
    return Expected(
        environment=environment,
        file=file,
        grants=None if grants is None else frozenset(grants),
        deny=None if deny is None else _CODES.get(deny),
        missing=None if missing is None else frozenset(missing),
    )


def _names_once(tables: Sequence[Table]) -> None:
    seen: set[str] = set()
    for table in tables:
        name = table.raw("name")
        if isinstance(name, str) and name in seen:
            table.problem("name", f"case {name!r} stands twice", "give each its own name")
        elif isinstance(name, str):
            seen.add(name)


# --- running ----------------------------------------------------------------------------------------------------------


def _decided(policy: Policy, case: Case) -> Outcome:
    profile = profile_of(policy, case.issuer)
    decision = decide_claims(policy, case.issuer, profile.name, case.claims, case.wants)
    trails = explain_claims(policy, case.issuer, case.claims).trails
    differences = tuple(_differences(case.expected, decision, trails))
    return Outcome(case=case, decision=decision, differences=differences, trails=trails if differences else ())


def _differences(expected: Expected, decision: Decision, trails: Sequence[Trail]) -> list[str]:
    if isinstance(decision, Allow):
        if expected.deny is not None:
            return [f"expected to be denied with {expected.deny.word}, and is in {_where(decision)}"]
        found = []
        if decision.environment != expected.environment:
            found.append(f"expected environment {expected.environment}, and is in {_where(decision)}")
        elif expected.file is not None and decision.rule.file != expected.file:
            found.append(f"expected the rule in {expected.file}, and is in {_where(decision)}")
        if expected.grants is not None and frozenset(decision.grants) != expected.grants:
            more, less = sorted({*decision.grants} - expected.grants), sorted(expected.grants - {*decision.grants})
            said = [f"gets {', '.join(more)} too"] if more else []
            said += [f"does not get {', '.join(less)}"] if less else []
            found.append(f"grants differ: it {' and '.join(said)}")
        return found
    if expected.deny is None:
        return [f"expected environment {expected.environment}, and is denied with {decision.code.word}: {decision.hint}"]
    if decision.code is not expected.deny:
        return [f"expected to be denied with {expected.deny.word}, and is denied with {decision.code.word}: {decision.hint}"]
    missing = frozenset(step.claim for step in trails[0].missing) if trails else frozenset[str]()
    if expected.missing is not None and missing != expected.missing:
        what = ", ".join(sorted(missing)) or "nothing"
        return [f"expected to be kept out by {', '.join(sorted(expected.missing))}, and it is {what}"]
    return []


def _where(decision: Allow) -> str:
    return f"{decision.environment} ({decision.rule.file})"
