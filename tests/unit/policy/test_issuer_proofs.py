"""Proofs about jobs of every kind of issuer, against counting every job of a small universe, and against z3."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
import z3  # type: ignore[import-untyped]  # ships no types
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.profiles import PROFILES
from broker.policy.conditions import conditions
from broker.policy.decide import matches
from broker.policy.model import Condition, Environment
from broker.policy.overlap import overlaps
from broker.policy.reading import Table
from broker.policy.satisfy import Question, Solver, inside
from broker.toml_source import Problem, parse

# --- universes that can be counted: every value that the conditions can tell apart -----------------------------------------

_UIDS = [f"{n}" * 8 + "-aaaa-4aaa-8aaa-" + "a" * 12 for n in range(3)]
_POD = "/kubernetes.io/pod/name"
_SPACE = "/kubernetes.io/namespace"
_REFS = ["a", "b", "a/a", "a/b", "z", "z/z", "za", "az", "z/a"]
Job = dict[str, ClaimValue | None]


@dataclass(frozen=True)
class Universe:
    free: Mapping[str, list[ClaimValue | None]]
    clauses: Mapping[str, list[Any]]  # values of a condition; a bool stands alone, others in lists
    stable: str
    tied: list[Job] = field(default_factory=lambda: [{}])

    def jobs(self) -> Iterator[ClaimSet]:
        for tied, values in product(self.tied, product(*self.free.values())):
            job = tied | dict(zip(self.free, values, strict=True))
            yield ClaimSet({name: value for name, value in job.items() if value is not None})


UNIVERSES = {
    "github": Universe(
        stable="repository_id",
        tied=[
            {"ref_type": kind, "ref": prefix + ref}
            for kind, prefix in (("branch", "refs/heads/"), ("branch", "refs/pull/"), ("tag", "refs/tags/"))
            for ref in _REFS
        ],
        free={
            "repository_id": ["1", "2", "3"],
            "ref_protected": [None, True, False],
            "event_name": ["push", "pull_request", "pull_request_target", "workflow_run", "release", "other"],
            "environment": [None, "a", "b", "z"],
        },
        clauses={
            "repository_id": ["1", "2"],
            "ref_protected": [True, False],
            "event_name": ["push", "pull_request", "workflow_run", "release"],
            "environment": ["a", "b"],
            "ref_type": ["branch", "tag"],
            "ref": ["refs/heads/a", "refs/heads/*", "refs/heads/**", "refs/pull/**", "refs/tags/b", "refs/*/a", "refs/heads/a/*"],
        },
    ),
    "okta": Universe(
        stable="cid",
        tied=[{"cid": cid, "sub": sub} for cid in ("1", "2", "3") for sub in (None, cid)],
        free={
            "uid": [None, "1", "2", "3"],
            "scp": [(), ("a",), ("b",), ("z",), ("a", "b"), ("a", "z"), ("b", "z"), ("a", "b", "z")],
            "groups": [None, (), ("a",), ("b",), ("z",), ("a", "b")],
            "ver": [None, 1, 2, 3],
        },
        clauses={
            "cid": ["1", "2"],
            "sub": ["1", "2"],
            "uid": ["1", "2"],
            "scp": ["a", "b"],
            "groups": ["a", "b"],
            "ver": [1, 2],
        },
    ),
    "kubernetes": Universe(
        stable="/kubernetes.io/serviceaccount/uid",
        free={
            "/kubernetes.io/serviceaccount/uid": list(_UIDS),
            _SPACE: ["a", "b", "z"],
            _POD: [None, "a", "b", "z"],
            "/kubernetes.io/node/uid": [None, *_UIDS],
        },
        clauses={
            "/kubernetes.io/serviceaccount/uid": _UIDS[:2],
            _SPACE: ["a", "b"],
            _POD: ["a", "b"],
            "/kubernetes.io/node/uid": _UIDS[:2],
        },
    ),
    "generic": Universe(
        stable="sub",
        free={
            "sub": ["1", "2", "3"],
            "roles": [None, (), ("a",), ("b",), ("z",), ("a", "b")],
            "/org/name": [None, "a", "b", "z"],
            "ref_protected": [None, "true", "z"],  # a text like any other
        },
        clauses={"sub": ["1", "2"], "roles": ["a", "b"], "/org/name": ["a", "b"], "ref_protected": ["true"]},
    ),
}
_JOBS = {name: list(universe.jobs()) for name, universe in UNIVERSES.items()}


def _values(values: list[Any]) -> st.SearchStrategy[Any]:
    if isinstance(values[0], bool):
        return st.sampled_from(values)
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


def _compiled(kind: str, clause: str, table: dict[str, Any]) -> list[Condition]:
    problems: list[Problem] = []
    found = conditions(clause, Table(parse("", "x"), (), table, problems), PROFILES[kind])
    assert not problems
    return found


@st.composite
def environments(draw: st.DrawFn, kind: str, order: int = 0) -> Environment:
    universe = UNIVERSES[kind]
    every = {name: _values(values) for name, values in universe.clauses.items()}
    rest = {name: strategy for name, strategy in every.items() if name != universe.stable}
    when = draw(st.fixed_dictionaries({universe.stable: every[universe.stable]}, optional=rest))
    found = (*_compiled(kind, "when", when), *_compiled(kind, "unless", draw(st.fixed_dictionaries({}, optional=every))))
    return Environment(
        name=f"e{order}", issuer=kind, profile=kind, pinned_by=universe.stable, pinned_to=frozenset(when[universe.stable]),
        conditions=found, allow_forks=draw(st.booleans()), max_session=None, max_exchanges=8, hints="own", order=order,
    )  # fmt: skip


@st.composite
def questions(draw: st.DrawFn, kind: str) -> Question:
    asked = inside([draw(environments(kind))])
    every = {name: _values(values) for name, values in UNIVERSES[kind].clauses.items()}
    more, fails = (_compiled(kind, "when", draw(st.fixed_dictionaries({}, optional=every))) for _ in range(2))
    outside = tuple(draw(st.lists(environments(kind), max_size=2)))
    return Question(profile=kind, held=(*asked.held, *more[:2]), broken=tuple(fails[:2]), fork=asked.fork, outside=outside)


def _answers(question: Question, job: ClaimSet) -> bool:
    return (
        all(c.holds(job.get(c.claim)) for c in question.held)
        and not any(c.holds(job.get(c.claim)) for c in question.broken)
        and (question.fork is None or PROFILES[question.profile].is_fork(job) is question.fork)
        and not any(matches(environment, job) for environment in question.outside)
    )


def _agrees_with_counting(question: Question) -> None:
    found = Solver().job(question)
    there = any(_answers(question, job) for job in _JOBS[question.profile])
    assert (found is not None) is there, found and dict(found)
    assert found is None or _answers(question, found)


@pytest.mark.parametrize("kind", UNIVERSES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_proof_agrees_with_counting_every_job(kind: str, data: st.DataObject) -> None:
    _agrees_with_counting(data.draw(questions(kind)))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", UNIVERSES)
@settings(max_examples=2000, deadline=None)
@given(data=st.data())
def test_thousands_of_proofs_agree_with_counting(kind: str, data: st.DataObject) -> None:
    _agrees_with_counting(data.draw(questions(kind)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(UNIVERSES)).flatmap(environments), min_size=2, max_size=5))
def test_environments_meet_exactly_where_one_job_of_one_issuer_is_in_both(drawn: list[Environment]) -> None:
    """Through the index of pairs, with several issuers in one policy."""
    found = {(one, other) for one, other, _ in overlaps(drawn)}
    for n, one in enumerate(drawn):
        for other in drawn[n + 1 :]:
            jobs = _JOBS[one.profile] if one.issuer == other.issuer else []
            assert ((one, other) in found) is any(matches(one, job) and matches(other, job) for job in jobs)


# --- z3, for the ties ------------------------------------------------------------------------------------------------------


def _z3_fits(value: Any, condition: Condition) -> Any:
    return z3.Or(*(value == z3.StringVal(str(text)) for text in condition.exact))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["cid", "sub"]), st.sampled_from(["when", "unless"]), _values(["1", "2"])), max_size=4),
    st.lists(st.tuples(st.sampled_from(["cid", "sub"]), st.sampled_from(["when", "unless"]), _values(["1", "2"])), max_size=4),
)
def test_oktas_twins_agree_with_z3(held: list[tuple[str, str, list[str]]], broken: list[tuple[str, str, list[str]]]) -> None:
    cid, present, solver = z3.String("cid"), z3.Bool("has sub"), z3.Solver()
    solver.set("timeout", 1000)
    solver.add(z3.Length(cid) > 0)

    def made(rows: list[tuple[str, str, list[str]]]) -> list[Condition]:
        return [condition for claim, clause, values in rows for condition in _compiled("okta", clause, {claim: values})]

    def holds(condition: Condition) -> Any:
        fits = _z3_fits(cid, condition)  # `sub` is `cid`, or absent
        there = present if condition.claim == "sub" else z3.BoolVal(True)
        return z3.And(there, z3.Not(fits) if condition.negated else fits)

    asked, failing = made(held), made(broken)
    solver.add(*(holds(condition) for condition in asked), *(z3.Not(holds(condition)) for condition in failing))
    theirs = solver.check()
    assert theirs != z3.unknown
    ours = Solver().job(Question(profile="okta", held=tuple(asked), broken=tuple(failing)))
    assert (ours is not None) is (theirs == z3.sat)
