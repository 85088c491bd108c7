"""What is deployed upstream against what the policy says: where it admits more of the broker's assertions, and where less.

Exact over the assertions that the broker can sign (DESIGN 3.2): `sub` is spelled from environment, grant, issuer and project, the
other claims are free. Wider is told against what `policy render` writes, the tightest that the upstream can express; narrower
against the policy's own jobs. What a deployed role says in a way that is not understood is said, and compared no further.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from broker.identity.profile import ClaimKind
from broker.identity.profiles import PROFILES
from broker.policy.automata import Grammar, Track, shortest, track
from broker.policy.claims_model import model_of
from broker.policy.glob import compile_glob
from broker.policy.model import Condition
from broker.policy.render_roles import MAINTENANCE_SUBJECT, SESSIONS, Served, have_refs
from broker.policy.render_subject import PARTS, Subject
from broker.policy.satisfy import Solver, inside

Kind = Literal["wider", "narrower", "missing", "unknown"]

# What an assertion says that no part of its subject does, as wide as any issuer's jobs have it; "" where they have none.
_FREE: Mapping[str, Grammar] = {
    "ref_path": Grammar(signs=re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]"), segments=True, dots=False, empty=True),
    "pipeline_id": Grammar(signs=re.compile(r"[0-9]"), zero=False, empty=True),
    "job_id": Grammar(signs=re.compile(r"[!-~]")),
}
# The job's own claims that those are. Where a job is missing, it is an id that is no single claim.
_FROM: Mapping[str, Mapping[str, str]] = {
    "gitlab": {"ref_path": "ref_path", "pipeline_id": "pipeline_id", "job_id": "job_id"},
    "github": {"ref_path": "ref", "pipeline_id": "run_id"},
}
_CLAIMS = frozenset({"sub", "project_id", "ref_protected", "session_name", *PARTS, *_FREE})
_PROJECT = "stable_id"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-:_.@/+="  # all of a subject


class UnreadableError(ValueError):
    """Something in a deployed role that cannot be compared; the text says what."""


@dataclass(frozen=True, slots=True)
class Test:
    """One claim has to be one of these: exact texts, and patterns in which `**` is any text."""

    claim: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Admission:
    """All of the tests have to be met; a role has one of these, or several of which any will do."""

    tests: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """`witness`: the claims of an assertion that is admitted and should not be, or of a job whose assertion is not admitted."""

    role: str
    kind: Kind
    what: str
    witness: Mapping[str, Any] | None = None


def rendered(served: Sequence[Served]) -> list[Admission]:
    """What the rendering admits for these grants."""
    subjects = tuple(sorted({_any_text(s) for one in served for s in one.subjects}))
    protected = {value for one in served for value in one.protected} if have_refs(served) else {"true", "false"}
    return [Admission((Test("sub", subjects), Test("ref_protected", tuple(sorted(protected)))))]


def compare(role: str, deployed: Sequence[Admission], served: Sequence[Served]) -> Iterator[Finding]:
    """Where the deployed role is wider and where narrower than these grants ask for. Raises TooComplexError."""
    wider = _more(deployed, rendered(served))
    if wider is not None:
        yield Finding(role, "wider", "it admits what the policy gives to nobody", wider)
    if _admits_upkeep(deployed):
        yield Finding(role, "wider", "it admits the broker's own upkeep assertion", {"sub": MAINTENANCE_SUBJECT})
    for one in served:
        job = _left_out(deployed, one)
        if job is not None:
            what = f"it refuses a job of {one.rule.name} that the policy gives {one.grant.name}"
            yield Finding(role, "narrower", what, job)


def compare_upkeep(role: str, deployed: Sequence[Admission]) -> Iterator[Finding]:
    """The same for the role that only the broker itself may be."""
    wider = _more(deployed, [])
    if wider is not None:
        yield Finding(role, "wider", "it admits jobs, and is for the broker's upkeep alone", wider)
    if not _admits_upkeep(deployed):
        yield Finding(role, "narrower", "it refuses the broker's upkeep assertion", {"sub": MAINTENANCE_SUBJECT})


def _any_text(pattern: str) -> str:
    return pattern.replace("*", "**")


# --- wider ------------------------------------------------------------------------------------------------------------


def _more(deployed: Sequence[Admission], wanted: Sequence[Admission]) -> dict[str, str] | None:
    """An assertion about a job that `deployed` admits and `wanted` does not; None proves that there is none."""
    for admission in deployed:
        for failing in product(*(one.tests for one in wanted)):
            found = _assertion(admission.tests, failing)
            if found is not None:
                return found
    return None


def _assertion(met: Sequence[Test], failed: Sequence[Test]) -> dict[str, str] | None:
    """The shortest assertion that meets these tests and fails those."""
    asked: dict[str, list[list[Track]]] = {}
    barred: dict[str, list[Track]] = {}
    for test in met:
        if test.claim not in _CLAIMS:
            return None  # no assertion has that claim
        asked.setdefault(_same(test.claim), []).append([track(pattern) for pattern in test.patterns])
    for test in failed:
        barred.setdefault(_same(test.claim), []).extend(track(pattern) for pattern in test.patterns)
    found: dict[str, str] = {}
    protected = [value for value in ("true", "false") if _fits(value, asked, barred)]
    if not protected:
        return None
    if "ref_protected" in asked or "ref_protected" in barred:
        found["ref_protected"] = protected[0]
    for claim, grammar in _FREE.items():
        if claim in asked or claim in barred:
            value = shortest(grammar, asked.get(claim, []), barred.get(claim, []))
            if value is None:
                return None
            found[claim] = value
    subject = Subject({part: (asked.get(part, []), barred.get(part, [])) for part in PARTS})
    # Every letter is named: the parts tell signs apart, so none can stand for all others.
    letters = [*subject.spelling, track(_LETTERS)]
    spelled = shortest(subject, [*asked.get("sub", []), [track("**"), *letters]], barred.get("sub", []))
    return None if spelled is None else {"sub": spelled, **found}


def _same(claim: str) -> str:
    """`project_id` and `stable_id` say one thing."""
    return _PROJECT if claim == "project_id" else claim


def _fits(value: str, asked: Mapping[str, list[list[Track]]], barred: Mapping[str, list[Track]]) -> bool:
    groups = asked.get("ref_protected", [])
    return all(any(one.automaton.matches(value) for one in group) for group in groups) and not any(
        one.automaton.matches(value) for one in barred.get("ref_protected", [])
    )


def _admits_upkeep(deployed: Sequence[Admission]) -> bool:
    """Its assertion has a `sub` and nothing else; a session may be called anything by whoever asks for it."""
    return any(
        all((test.claim == "sub" and _takes(test, MAINTENANCE_SUBJECT)) or test.claim == "session_name" for test in one.tests)
        for one in deployed
    )


# --- narrower ---------------------------------------------------------------------------------------------------------


def _left_out(deployed: Sequence[Admission], one: Served) -> dict[str, Any] | None:
    """A job that has this grant, and whose assertion no admission takes; None proves that there is none."""
    solver = Solver()
    for failing in product(*(admission.tests for admission in deployed)):
        job = _job(solver, one, failing)
        if job is not None:
            return job
    return None


def _job(solver: Solver, one: Served, failing: Sequence[Test]) -> dict[str, Any] | None:
    question = inside([one.rule])
    for test in failing:
        more = _failed(one, test)
        if more is None:
            return None
        question = replace(question, held=(*question.held, *more[0]), broken=(*question.broken, *more[1]))
    job = solver.job(question)
    return None if job is None else dict(job)


_Conditions = tuple[tuple[Condition, ...], tuple[Condition, ...]]  # that hold, that do not


def _failed(one: Served, test: Test) -> _Conditions | None:
    """What a job is like whose assertion fails this test; None when no job's does."""
    profile = PROFILES[one.rule.profile]
    own = {"project_id": profile.stable_id, _PROJECT: profile.stable_id, **_FROM.get(profile.name, {})}
    said = _said(one)
    if test.claim == "sub":
        return _other_subject(one, test)
    if test.claim in own:
        return (), (_condition(own[test.claim], ClaimKind.TEXT, test.patterns),)
    if test.claim in said:
        return None if _takes(test, said[test.claim]) else ((), ())
    if test.claim == "ref_protected":
        return _otherwise_protected(test)
    if test.claim == "job_id" and shortest(_FREE[test.claim], [], [track(pattern) for pattern in test.patterns]) is None:
        return None
    return (), ()  # it fails for somebody, or for everybody: no assertion has that claim


def _said(one: Served) -> dict[str, str]:
    """What the assertions of all jobs of this grant say alike."""
    profile = PROFILES[one.rule.profile]
    said = {"environment": one.rule.name, "grant": one.grant.name, "issuer_name": one.rule.issuer}
    said["session_name"] = SESSIONS[profile.name] + "x"  # stands for all of them: no pattern that is read tells them apart
    if not profile.refs:
        said |= {"ref_path": "", "pipeline_id": "", "ref_protected": "false"}
    return said


def _other_subject(one: Served, test: Test) -> _Conditions | None:
    profile = PROFILES[one.rule.profile]
    prefix = f"environment:{one.rule.name}:grant:{one.grant.name}:issuer:{one.rule.issuer}:project:"
    grammar = model_of(profile.name).grammar(profile.stable_id)
    project = shortest(grammar, _pins(one), [track(pattern, prefix) for pattern in test.patterns])
    return None if project is None else ((_condition(profile.stable_id, ClaimKind.TEXT, (project,)),), ())


def _otherwise_protected(test: Test) -> _Conditions | None:
    """`true` is said of a job that has the claim and is true, `false` of every other."""
    true = replace(_condition("ref_protected", ClaimKind.BOOL, ()), exact=frozenset({True}))
    match [value for value in ("true", "false") if not _takes(test, value)]:
        case []:
            return None
        case ["true"]:
            return (true,), ()
        case ["false"]:
            return (), (true,)
    return (), ()


def _takes(test: Test, value: str) -> bool:
    return any(track(pattern).automaton.matches(value) for pattern in test.patterns)


def _pins(one: Served) -> list[list[Track]]:
    return [[track(subject.rpartition(":")[2]) for subject in one.subjects]] if not one.open_ended else []


def _condition(claim: str, kind: ClaimKind, patterns: Sequence[str]) -> Condition:
    exact = frozenset[str | bool | int](p for p in patterns if "*" not in p)
    globs = tuple(compile_glob(p) for p in patterns if "*" in p)
    return Condition(
        claim=claim, clause="deployed", kind=kind, exact=exact, globs=globs, negated=False, wanted=", ".join(patterns)
    )
