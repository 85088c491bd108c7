"""The proof that no two environments match one job, against counting them all."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.profiles import PROFILES
from broker.policy import automata, overlap, satisfy
from broker.policy.conditions import conditions
from broker.policy.decide import matches
from broker.policy.model import Environment
from broker.policy.overlap import TooComplexError, find_job, overlaps
from broker.policy.reading import Table
from broker.toml_source import Problem, parse
from tests.bench.bench_proofs import SHAPES, rules
from tests.unit.policy.build import HEAD, LAKE, PRODUCTION, refusals

GITLAB = PROFILES["gitlab"]


def _environment(
    name: str, when: dict[str, Any], unless: dict[str, Any], *, allow_forks: bool = False, order: int = 0
) -> Environment:
    problems: list[Problem] = []
    source = parse("", "x")
    found = conditions("when", Table(source, (), when, problems), GITLAB)
    found += conditions("unless", Table(source, (), unless, problems), GITLAB)
    assert not problems
    pin = when.get("project_id", ["1"])
    return Environment(
        name=name, issuer="gitlab", profile="gitlab", pinned_by="project_id", pinned_to=frozenset(pin), conditions=tuple(found),
        allow_forks=allow_forks, max_session=None, max_exchanges=8, hints="own", order=order,
    )  # fmt: skip


# --- a universe that can be counted ---------------------------------------------------------------------------------------
#
# Conditions name only these values and patterns. Two path values that no pattern tells apart are one, so the universe has a
# value of every kind that any of them can tell apart: counting it is as good as counting everything.

_PATHS = ["a", "b", "a/a", "a/b", "b/a", "a/z", "z/a", "z", "z/z", "a/z/a", "a/a/a", "a/z/z", "z/z/a", "za", "az", "a/za", "a/az"]
_PATTERNS = ["a", "b", "a/b", "a/*", "a/**", "*/a", "**/a", "a*", "*a", "a/*/a"]
_UNIVERSE: dict[str, list[ClaimValue | None]] = {
    "environment": [None, *_PATHS, "a/a/z/a", "zza", "z/z/z/a", "a/z/z/a", "a/z/zz", "a/"],
    "ref_protected": [None, True, False],
    "pipeline_source": [None, "push", "merge_request_event", "parent_pipeline"],
    "job_project_id": [None, "1", "2", "3", "4"],
    "project_id": ["1", "2"],
}
_JOBS = [
    ClaimSet({name: value for name, value in zip(_UNIVERSE, values, strict=True) if value is not None})
    for values in product(*_UNIVERSE.values())
]


def _some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


_CLAUSE = {
    "environment": _some(_PATTERNS),
    "ref_protected": st.booleans(),
    "pipeline_source": _some(["push", "merge_request_event", "parent_pipeline"]),
    "job_project_id": _some(["1", "2", "3"]),
}


@st.composite
def environments(draw: st.DrawFn, name: str) -> Environment:
    when = draw(st.fixed_dictionaries({"project_id": _some(["1", "2"]), "pipeline_source": _CLAUSE["pipeline_source"]}, optional={
        "environment": _CLAUSE["environment"], "ref_protected": st.booleans(), "job_project_id": _CLAUSE["job_project_id"],
    }))  # fmt: skip
    unless = draw(st.fixed_dictionaries({}, optional=_CLAUSE))
    return _environment(name, when, unless, allow_forks=draw(st.booleans()), order=int(name))


@settings(max_examples=150, deadline=None)
@given(environments("0"), environments("1"))
def test_the_proof_agrees_with_counting(first: Environment, second: Environment) -> None:
    """A pair is proved apart exactly when no job of the universe is in both; and a witness is in both."""
    both = [job for job in _JOBS if matches(first, job) and matches(second, job)]
    found = list(overlaps([first, second]))
    assert bool(found) == bool(both)
    for _, _, witness in found:
        assert matches(first, witness)
        assert matches(second, witness)


@settings(max_examples=150, deadline=None)
@given(environments("0"))
def test_an_environment_is_reachable_exactly_when_some_job_is_in_it(environment: Environment) -> None:
    witness = find_job([environment])
    assert (witness is not None) == any(matches(environment, job) for job in _JOBS)
    assert witness is None or matches(environment, witness)


_GLOBS = (
    st.lists(st.sampled_from(["a", "b", "/", "*", "**"]), min_size=1, max_size=5)
    .map("".join)
    .filter(lambda p: "***" not in p and bool(p.strip("*/")))
)


@settings(max_examples=150, deadline=None)
@given(_GLOBS, _GLOBS, _GLOBS)
def test_random_globs_meet_exactly_when_a_short_value_meets_them(one: str, two: str, out: str) -> None:
    """Five parts a pattern: if any value meets two and not the third, one of at most seven characters does."""
    base: dict[str, Any] = {"project_id": ["1"], "pipeline_source": "push"}
    first = _environment("0", base | {"environment": one}, {})
    second = _environment("1", base | {"environment": two}, {"environment": out}, order=1)
    rest: dict[str, ClaimValue] = {"project_id": "1", "pipeline_source": "push"}
    found = list(overlaps([first, second]))
    if found:
        assert matches(first, found[0][2])
        assert matches(second, found[0][2])
        return
    for length in range(7):
        for letters in product("ab/z", repeat=length) if length < 6 else product("a/z", repeat=length):
            job = ClaimSet({**rest, "environment": "".join(letters)})
            assert not (matches(first, job) and matches(second, job))


# --- by hand --------------------------------------------------------------------------------------------------------------


def _second(*lines: str) -> str:
    return PRODUCTION.replace('"production"', '"second"').split("when.ref_path")[0] + "\n".join(lines) + "\n"


def test_two_environments_that_meet_are_refused_with_a_job_that_is_in_both() -> None:
    found = refusals(HEAD + PRODUCTION + _second('when.ref_path = "refs/heads/**"') + LAKE)
    assert len(found) == 1
    assert found[0] == (
        "policy.toml:10: environments 'production' and 'second' can both match one job: pipeline_source = 'api', "
        "project_id = '4711', ref_path = 'refs/heads/main', ref_protected = 'true'; a job is in exactly one environment: "
        "let a `when` or `unless` of one keep the other's jobs out"
    )


@pytest.mark.parametrize(
    "line",
    [
        'when.ref_path = "refs/tags/**"',
        'when.ref_path = "refs/heads/**"\nunless.ref_path = "refs/heads/main"',
        "when.ref_protected = false",
        "unless.ref_protected = true",
        'when.ref_path = "refs/heads/*/*"',
        'when.pipeline_source = "merge_request_event"',
    ],
)
def test_two_environments_that_one_condition_keeps_apart_are_taken(line: str) -> None:
    assert refusals(HEAD + PRODUCTION + _second(line) + LAKE) == []


def test_an_absent_claim_does_not_keep_environments_apart() -> None:
    """One asks for an environment, the other does not look: a job with it is in both."""
    found = refusals(HEAD + PRODUCTION + _second('when.environment = "x"') + LAKE)
    assert len(found) == 1
    assert "environment = 'x'" in found[0]


def test_a_namespace_and_a_project_of_it_can_meet() -> None:
    by_namespace = PRODUCTION.replace('"production"', '"second"').replace("project_id", "namespace_id")
    found = refusals(HEAD + PRODUCTION + by_namespace + LAKE)
    assert len(found) == 1
    assert "namespace_id = '4711', pipeline_source = 'api', project_id = '4711'" in found[0]


def test_other_projects_and_other_issuers_do_not_meet() -> None:
    other = PRODUCTION.replace('"production"', '"second"')
    assert refusals(HEAD + PRODUCTION + other.replace("4711", "4712") + LAKE) == []
    assert refusals(HEAD + PRODUCTION + other.replace("gitlab", "gitlab-two") + LAKE) == []


def test_a_merge_request_witness_runs_its_own_projects_code() -> None:
    merge = {"project_id": ["1"], "pipeline_source": ["merge_request_event"]}
    job = find_job([_environment("0", merge, {}), _environment("1", merge, {}, allow_forks=True)])
    assert job is not None
    assert job["job_project_id"] == "1"


def test_an_id_that_is_barred_makes_a_merge_request_impossible() -> None:
    merge = {"project_id": ["1"], "pipeline_source": ["merge_request_event"]}
    assert find_job([_environment("0", merge, {"job_project_id": "1"})]) is None
    assert find_job([_environment("0", merge, {"job_project_id": "1"}, allow_forks=True)]) is not None


def test_numbers_and_lists_are_part_of_the_proof() -> None:
    base: dict[str, Any] = {"project_id": ["1"], "pipeline_source": "push"}
    seven = _environment("0", base | {"runner_id": 7, "groups_direct": ["a", "b"]}, {})
    assert find_job([seven, _environment("1", base, {"runner_id": [7, 8]})]) is None
    job = find_job([seven, _environment("1", base | {"groups_direct": "c"}, {"groups_direct": "a", "runner_id": [1, 2]})])
    assert job is not None
    assert (job["runner_id"], job["groups_direct"]) == (7, ("b", "c"))
    assert find_job([seven, _environment("1", base, {"groups_direct": ["a", "b"]})]) is None
    free = find_job([_environment("1", base, {"groups_direct": ["a"], "runner_id": [1, 2], "user_id": "1"})])
    assert free is not None
    assert (free["runner_id"], free["groups_direct"]) == (3, ())


def test_a_pair_is_reported_once_however_many_projects_they_share() -> None:
    text = PRODUCTION.replace('"4711"', '["1", "2", "3"]')
    assert len(refusals(HEAD + text + text.replace('"production"', '"second"') + LAKE)) == 1


def test_only_so_many_pairs_are_reported() -> None:
    many = "".join(PRODUCTION.replace('"production"', f'"e{n}"') for n in range(10))
    assert len(refusals(HEAD + many + LAKE.replace('["production"]', '["e0"]'))) == 20


def test_what_cannot_be_proved_within_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken on trust."""
    monkeypatch.setattr(automata, "_MAX_STATES", 3)
    stars = _second('when.ref_path = "refs/heads/*a*/**"')
    found = refusals(HEAD + PRODUCTION.replace("refs/heads/main", "refs/heads/**b/c*") + stars + LAKE)
    assert len(found) == 1
    assert "it cannot be proved that no two environments match one job" in found[0]
    monkeypatch.setattr(satisfy, "_MAX_CASES", 0)
    merge = {"project_id": ["1"], "pipeline_source": ["merge_request_event"]}
    with pytest.raises(TooComplexError):
        find_job([_environment("0", merge, {})])


def test_a_witness_looks_like_a_path() -> None:
    """The shortest text in two globs may be `refs/heads/`, which no ref is."""
    base: dict[str, Any] = {"project_id": ["1"], "pipeline_source": "push"}
    heads = _environment("0", base | {"ref_path": "refs/heads/*"}, {})
    job = find_job([heads, _environment("1", base | {"ref_path": "refs/**"}, {})])
    assert job is not None
    assert job["ref_path"] == "refs/heads/x"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rules_of_one_project_that_differ_plainly_are_apart_at_a_glance(shape: Callable[[int], str]) -> None:
    """Of 2 000 rules no pair has to be searched: the cost is not that of two million proofs."""
    assert list(overlap._pairs(rules(2_000, shape))) == []
    assert list(overlap._pairs([*rules(300, shape), *rules(1, shape)])) == [(0, 300)]
