"""Proofs, against counting every job of a small universe, and against z3 over the same model of claims."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import z3  # type: ignore[import-untyped]  # ships no types
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.profile import ClaimKind
from broker.identity.profiles import PROFILES
from broker.policy import satisfy
from broker.policy.automata import TooComplexError
from broker.policy.claims_model import model_of
from broker.policy.conditions import conditions
from broker.policy.decide import decide_claims, matches
from broker.policy.explain import explain
from broker.policy.model import Allow, Condition, Environment
from broker.policy.prove import ask, violation, who_can
from broker.policy.reading import Table
from broker.policy.satisfy import Question, Solver, inside
from broker.toml_source import Problem, SourceInvalid, parse
from tests.unit.policy.build import HEAD, LAKE, PRODUCTION, WHOLE, policy, refusals

GITLAB = PROFILES["gitlab"]

# --- a universe that can be counted ---------------------------------------------------------------------------------------
#
# Conditions name only these values and patterns; for every set of them that some text of the grammar can tell apart, the
# universe has such a text. `ref_path`, `ref` and `ref_type` tell one story, as in every job that is let in.

_REFS = ["a", "b", "a/a", "a/b", "b/a", "a/z", "z/a", "z", "z/z", "a/z/a", "a/z/z", "z/z/a", "za", "az", "refs/heads/a"]
_REF_PATTERNS = ["a", "b", "a/b", "a/*", "a/**", "*/a", "a*", "*a"]
_PATH_PATTERNS = [
    "refs/heads/a",
    "refs/heads/*",
    "refs/heads/**",
    "refs/tags/**",
    "refs/*/a",
    "refs/tags/b",
    "refs/heads/a/*",
    "refs/**/a",
]
_KINDS = {"branch": "refs/heads/", "tag": "refs/tags/"}
_FREE: dict[str, list[ClaimValue | None]] = {
    "ref_protected": [True, False],
    "environment": [None, "a", "b", "a/b", "z", "a/z"],
    "pipeline_source": ["push", "merge_request_event", "parent_pipeline", "other"],
    "job_project_id": [None, "1", "2", "3", "4"],
    "project_id": ["1", "2"],
}


def _jobs() -> Iterator[ClaimSet]:
    for kind, ref, values in product(_KINDS, _REFS, product(*_FREE.values())):
        job = {"ref_type": kind, "ref": ref, "ref_path": _KINDS[kind] + ref} | dict(zip(_FREE, values, strict=True))
        yield ClaimSet({name: value for name, value in job.items() if value is not None})


_JOBS = list(_jobs())


def _some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


_CLAUSE: dict[str, st.SearchStrategy[Any]] = {
    "environment": _some(["a", "b", "a/*", "a/b"]),
    "ref_protected": st.booleans(),
    "ref": _some(_REF_PATTERNS),
    "ref_path": _some(_PATH_PATTERNS),
    "ref_type": _some(["branch", "tag"]),
    "pipeline_source": _some(["push", "merge_request_event", "parent_pipeline"]),
    "job_project_id": _some(["1", "2", "3"]),
}


def _compiled(clause: str, table: dict[str, Any]) -> list[Condition]:
    problems: list[Problem] = []
    found = conditions(clause, Table(parse("", "x"), (), table, problems), GITLAB)
    assert not problems
    return found


def _environment(when: dict[str, Any], unless: dict[str, Any], *, allow_forks: bool) -> Environment:
    found = (*_compiled("when", when), *_compiled("unless", unless))
    return Environment(
        name="e", issuer="gitlab", profile="gitlab", pinned_by="project_id", pinned_to=frozenset(when["project_id"]),
        conditions=found, allow_forks=allow_forks, max_session=None, max_exchanges=8, hints="own", order=0,
    )  # fmt: skip


@st.composite
def environments(draw: st.DrawFn) -> Environment:
    pinned = st.fixed_dictionaries({"project_id": _some(["1", "2"])}, optional=_CLAUSE)
    return _environment(draw(pinned), draw(st.fixed_dictionaries({}, optional=_CLAUSE)), allow_forks=draw(st.booleans()))


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """In one environment, outside up to two, some conditions held and some not."""
    asked = inside([draw(environments())])
    more = _compiled("when", draw(st.fixed_dictionaries({}, optional=_CLAUSE)))
    fails = _compiled("when", draw(st.fixed_dictionaries({}, optional=_CLAUSE)))
    outside = tuple(draw(st.lists(environments(), max_size=2)))
    return Question(profile="gitlab", held=(*asked.held, *more[:2]), broken=tuple(fails[:2]), fork=asked.fork, outside=outside)


def _answers(question: Question, job: ClaimSet) -> bool:
    return (
        all(c.holds(job.get(c.claim)) for c in question.held)
        and not any(c.holds(job.get(c.claim)) for c in question.broken)
        and (question.fork is None or GITLAB.is_fork(job) is question.fork)
        and not any(matches(environment, job) for environment in question.outside)
    )


@settings(max_examples=50, deadline=None)
@given(questions())
def test_a_proof_agrees_with_counting_every_job(question: Question) -> None:
    """A witness answers the question, and "there is none" is said exactly when no job of the universe does."""
    _agrees_with_counting(question)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(max_examples=3000, deadline=None)
@given(questions())
def test_thousands_of_proofs_agree_with_counting(question: Question) -> None:
    _agrees_with_counting(question)


def _agrees_with_counting(question: Question) -> None:
    found = Solver().job(question)
    if found is None:
        assert not any(_answers(question, job) for job in _JOBS)
    else:
        assert _answers(question, found)
        assert any(_answers(question, job) for job in _JOBS), f"the universe is too small for {dict(found)}"


# --- z3 -------------------------------------------------------------------------------------------------------------------


def _regex(pattern: str) -> Any:
    """A glob as z3 has regular expressions."""
    anything = z3.Star(z3.Range(" ", "~"))
    segment = z3.Star(z3.Union(z3.Range(" ", "."), z3.Range("0", "~")))
    whole = z3.Re("")
    for part in pattern.replace("**", "\0").replace("*", "\1"):
        whole = z3.Concat(whole, anything if part == "\0" else segment if part == "\1" else z3.Re(part))
    return whole


class _Z3:
    """The written model of claims, and `holds` and `is_fork`, once more and in another language."""

    def __init__(self) -> None:
        self.solver = z3.Solver()
        self.solver.set("timeout", 1000)
        self.present: dict[str, Any] = {}
        self.value: dict[str, Any] = {}
        for name in (*_FREE, "ref", "ref_path", "ref_type"):
            boolean = GITLAB.claims[name].kind is ClaimKind.BOOL
            self.value[name] = z3.Bool(name) if boolean else z3.String(name)
            self.present[name] = z3.BoolVal(True) if GITLAB.claims[name].required else z3.Bool(f"has {name}")
            if name.endswith("project_id"):
                self.solver.add(z3.InRe(self.value[name], z3.Concat(z3.Range("1", "9"), z3.Star(z3.Range("0", "9")))))
        sign = z3.Union(*(z3.Range(a, b) for a, b in (("!", "-"), ("0", "9"), ("A", "Z"), ("a", "z"))))
        self.solver.add(z3.InRe(self.value["ref"], z3.Concat(z3.Star(z3.Concat(z3.Plus(sign), z3.Re("/"))), z3.Plus(sign))))
        kind, ref, path = (self.value[name] for name in ("ref_type", "ref", "ref_path"))
        self.solver.add(
            z3.Or(*(z3.And(kind == name, path == z3.Concat(z3.StringVal(prefix), ref)) for name, prefix in _KINDS.items()))
        )

    def holds(self, condition: Condition) -> Any:
        value = self.value[condition.claim]
        fits = [value == (z3.BoolVal(v) if isinstance(v, bool) else z3.StringVal(str(v))) for v in condition.exact]
        fits += [z3.InRe(value, _regex(glob.text)) for glob in condition.globs]
        described = z3.Or(*fits)
        return z3.And(self.present[condition.claim], z3.Not(described) if condition.negated else described)

    def fork(self) -> Any:
        own, pinned, source = (self.value[name] for name in ("job_project_id", "project_id", "pipeline_source"))
        proposals = [source == name for name in ("merge_request_event", "external_pull_request_event")]
        return z3.If(self.present["job_project_id"], own != pinned, z3.Or(*proposals))

    def inside(self, environment: Environment) -> Any:
        every = [self.holds(condition) for condition in environment.conditions]
        return z3.And(*every, *(() if environment.allow_forks else (z3.Not(self.fork()),)))

    def possible(self, question: Question) -> bool | None:
        """None when z3 gives up."""
        self.solver.add(*(self.holds(c) for c in question.held), *(z3.Not(self.holds(c)) for c in question.broken))
        self.solver.add(*(z3.Not(self.inside(environment)) for environment in question.outside))
        if question.fork is not None:
            self.solver.add(self.fork() == question.fork)
        found = self.solver.check()
        return None if found == z3.unknown else bool(found == z3.sat)


_SEEN = {"decided": 0, "undecided": 0}


@settings(max_examples=120, deadline=None)
@given(questions())
def test_a_proof_agrees_with_z3(question: Question) -> None:
    """Over the same model, wherever z3 answers within its second."""
    _agrees_with_z3(question)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=3000, deadline=None)
@given(questions())
def test_thousands_of_proofs_agree_with_z3(question: Question) -> None:
    _agrees_with_z3(question)


def _agrees_with_z3(question: Question) -> None:
    theirs = _Z3().possible(question)
    _SEEN["undecided" if theirs is None else "decided"] += 1
    if theirs is not None:
        assert (Solver().job(question) is not None) is theirs


def test_z3_answers_nearly_always() -> None:
    """Runs after the one above: agreement with an oracle that gives up shows nothing."""
    if _SEEN["decided"]:
        assert _SEEN["undecided"] <= _SEEN["decided"] / 10


# --- invariants and questions ---------------------------------------------------------------------------------------------

NEVER = """
[[invariant]]
name = "no unprotected ref reaches production"
never.environment = "production"
never.claim.ref_protected = false
"""
REVIEW = 'when.project_id = "4711"\nwhen.ref_path = "refs/heads/**"\nunless.ref_path = "refs/heads/main"\n'
BOTH = HEAD + PRODUCTION + '[[environment]]\nname = "review"\nwhen.issuer = "gitlab"\n' + REVIEW + LAKE


def test_an_invariant_that_holds_is_taken() -> None:
    assert refusals(BOTH + NEVER) == []


def test_an_invariant_that_does_not_hold_is_refused_with_the_job_that_breaks_it() -> None:
    found = refusals((BOTH + NEVER).replace("when.ref_protected = true\n", ""))
    assert len(found) == 1
    assert found[0] == (
        "policy.toml:21: invariant 'no unprotected ref reaches production' does not hold: a job with pipeline_source = 'api', "
        "project_id = '4711', ref_path = 'refs/heads/main', ref_protected = 'false' is in environment 'production' "
        "(policy.toml:3); narrow that environment, or the invariant"
    )


def test_unless_false_proves_no_protection_of_a_claim_that_can_be_absent_and_does_of_one_that_cannot() -> None:
    """`environment_protected` is sent with an environment alone; GitLab sends `ref_protected` with every token."""
    weak = PRODUCTION.replace("when.ref_protected = true", "unless.environment_protected = false")
    asked = ask(policy(HEAD + weak + LAKE), "environment=production,claim.environment_protected=false")
    assert violation(policy(HEAD + weak + LAKE), asked) is None  # `unless` wants the claim to be there
    without = policy(HEAD + PRODUCTION + LAKE)
    witness = violation(without, ask(without, "environment=production,claim.environment_protected=false"))
    assert witness is not None
    assert "environment_protected" not in witness.job
    total = policy(HEAD + PRODUCTION.replace("when.ref_protected = true", "unless.ref_protected = false") + LAKE)
    assert violation(total, ask(total, "environment=production,claim.ref_protected=false")) is None


def test_a_claim_that_cannot_be_absent_is_part_of_the_proof() -> None:
    """`not proved true` is `false` for a total claim: whoever says "not false" has said "true"."""
    profile = model_of("gitlab")
    assert "ref_protected" in profile.total
    assert "environment_protected" not in profile.total


def test_a_ref_and_its_path_are_one_story() -> None:
    loaded = policy(BOTH)
    assert violation(loaded, ask(loaded, "claim.ref_type=tag")) is None
    assert violation(loaded, ask(loaded, "environment=production,claim.ref=other")) is None
    witness = violation(loaded, ask(loaded, "claim.ref=other"))
    assert witness is not None
    assert witness.job["ref_path"] == "refs/heads/other"


def test_a_question_about_a_grant_looks_at_environments_that_have_it() -> None:
    loaded = policy(BOTH)
    assert violation(loaded, ask(loaded, "grant=lake,claim.ref_protected=false")) is None
    witness = violation(loaded, ask(loaded, "environment=production,environment=review,claim.ref_protected=false"))
    assert witness is not None
    assert witness.environment.name == "review"


def test_a_witness_is_what_explain_takes_and_it_says_the_same() -> None:
    loaded = policy(WHOLE)
    for text in ("environment=review", "grant=warehouse", "claim.pipeline_source=schedule", "claim.ref_protected=false"):
        witness = violation(loaded, ask(loaded, text))
        assert witness is not None, text
        claims = json.loads(json.dumps(dict(witness.job)))
        explained = explain(loaded, "gitlab", claims).decision
        assert isinstance(explained, Allow)
        assert explained.environment == witness.environment.name
        decided = decide_claims(loaded, "gitlab", "gitlab", ClaimSet(witness.job), None)
        assert isinstance(decided, Allow)


def test_who_can_names_every_rule_with_its_least_job() -> None:
    loaded = policy(WHOLE)
    assert [(r.environment.name, r.job is not None) for r in who_can(loaded, "lake")] == [("production", True), ("review", True)]
    assert [r.environment.name for r in who_can(loaded, "lake", "review")] == ["review"]
    assert who_can(loaded, "warehouse", "review") == ()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("environment", "'environment' is not KEY=VALUE"),
        ("environment=,claim.ref=x", "'environment=' is not KEY=VALUE"),
        ("environment=prod", "never.environment: there is no environment 'prod'"),
        ("grant=lak", "never.grant: there is no grant 'lak'"),
        ("claim.ref_protectd=false", "never.claim.ref_protectd: gitlab tokens have no such claim"),
        ("claim.ref_protected=no", "never.claim.ref_protected is a boolean and 'no' is none"),
        ("colour=red", "unknown key 'colour'"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(text: str, what: str) -> None:
    with pytest.raises(SourceInvalid) as refused:
        ask(policy(WHOLE), text)
    assert what in str(refused.value.problems[0])


def test_a_question_beyond_the_bounds_is_neither_proved_nor_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = policy(BOTH)
    monkeypatch.setattr(satisfy, "_MAX_CASES", 0)
    with pytest.raises(TooComplexError):
        violation(loaded, ask(loaded, "environment=review"))
    assert "invariant 'no unprotected ref reaches production' cannot be proved" in "".join(
        problem for problem in refusals(HEAD + PRODUCTION + LAKE + NEVER)
    )


def test_a_fork_is_told_apart_by_two_ids_that_differ() -> None:
    """Outside an environment that takes no forks is also who is one: a job of another project than the one that is pinned."""
    when = {"project_id": ["1"], "pipeline_source": ["merge_request_event"], "job_project_id": ["1", "2"]}
    open_to_all, closed = _environment(when, {}, allow_forks=True), _environment(when, {}, allow_forks=False)
    question = Question(profile="gitlab", held=inside([open_to_all]).held, outside=(closed,))
    job = Solver().job(question)
    assert job is not None
    assert (job["project_id"], job["job_project_id"]) == ("1", "2")
    alone = _environment({**when, "job_project_id": ["1"]}, {}, allow_forks=True)
    assert Solver().job(Question(profile="gitlab", held=inside([alone]).held, outside=(closed,))) is None
    wide = _environment({**when, "project_id": ["1", "2"], "job_project_id": ["1"]}, {}, allow_forks=True)
    found = Solver().job(Question(profile="gitlab", held=inside([wide]).held, fork=True))
    assert found is not None
    assert (found["project_id"], found["job_project_id"]) == ("2", "1")
