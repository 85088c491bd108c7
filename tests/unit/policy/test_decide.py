"""The decision: every denial beside the job that is allowed."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Code
from broker.identity.claims import ClaimSet
from broker.policy.decide import decide, decide_claims, matches
from broker.policy.model import Allow, Deny, Policy
from broker.policy.trail import examine, shown
from tests.unit.policy.build import HEAD, LAKE, PRODUCTION, WHOLE, job, policy


@pytest.fixture(scope="module")
def whole() -> Policy:
    return policy(WHOLE)


def _denied(rules: Policy, wants: tuple[str, ...] | None = None, **claims: Any) -> Deny:
    decision = decide(rules, job(**claims), wants)
    assert isinstance(decision, Deny)
    return decision


def _environment(rules: Policy, **claims: Any) -> str | None:
    decision = decide(rules, job(**claims), None)
    return decision.environment if isinstance(decision, Allow) else None


# --- environments ---------------------------------------------------------------------------------------------------------


def test_a_job_is_in_its_environment_and_gets_all_its_grants(whole: Policy) -> None:
    decision = decide(whole, job(), None)
    assert isinstance(decision, Allow)
    assert (decision.environment, decision.grants) == ("production", ("lake", "warehouse"))
    assert (decision.rule.max_session, decision.rule.max_exchanges) == (timedelta(hours=12), 8)
    assert all(step.met for step in decision.trail)
    assert [(s.clause, s.claim, s.value, s.wanted) for s in decision.trail][:2] == [
        ("file", "project_id", "4711", '"4711"'),
        ("when", "ref_path", "refs/heads/main", '"refs/heads/main"'),
    ]


@pytest.mark.parametrize(
    ("claims", "hint"),
    [
        ({"ref_path": "refs/heads/main-evil"}, "ref_path is 'refs/heads/main-evil'"),
        ({"ref_path": "refs/tags/main"}, "ref_path is 'refs/tags/main'"),
        ({"ref_path": "refs/heads/refs/heads/main"}, "ref_path is 'refs/heads/refs/heads/main'"),
        ({"ref_path": "REFS/heads/main"}, "ref_path is 'REFS/heads/main'"),
        ({"ref_path": "refs/heads/main\n"}, "ref_path is 'refs/heads/main\\n'"),
        ({"ref_path": None}, "ref_path is absent (sent by GitLab 16.0 or newer)"),
        ({"ref_protected": False}, "ref_protected is 'false'"),
        ({"ref_protected": "true"}, "ref_protected is 'true'"),
        ({"ref_protected": 1}, "ref_protected is '1'"),
        ({"environment": "Production"}, "environment is 'Production'"),
        ({"environment": "production/../review"}, "environment is 'production/../review'"),
        ({"environment": None}, "environment is absent (sent by GitLab, for a job with `environment:`)"),
        ({"pipeline_source": "api"}, "pipeline_source is 'api'"),
        ({"pipeline_source": "merge_request_event"}, "pipeline_source is 'merge_request_event'"),
        (
            {"pipeline_source": "merge_request_event", "job_project_id": None},
            "it runs a fork's code, or its token does not say whose",
        ),
        ({"job_project_id": "666"}, "it runs a fork's code"),
    ],
)
def test_one_claim_that_is_not_as_it_should_be_keeps_a_job_out_of_production(claims: dict[str, Any], hint: str) -> None:
    """And the job is told that claim, with its own value."""
    rules = policy(HEAD + PRODUCTION + 'when.environment = "production"\nwhen.pipeline_source = ["push", "web"]\n' + LAKE)
    assert _environment(rules) == "production"
    denial = _denied(rules, **claims)
    assert denial.code is Code.NO_ENVIRONMENT
    assert hint in denial.hint


def test_a_glob_takes_what_it_describes_and_unless_takes_one_out(whole: Policy) -> None:
    claims = {"ref_protected": False, "environment": None}
    assert _environment(whole, ref_path="refs/heads/feature/x", **claims) == "review"
    assert _environment(whole, ref_path="refs/heads/main", **claims) is None
    assert _environment(whole, ref_path="refs/tags/v1", **claims) is None


def test_unless_is_closed_and_an_absent_claim_keeps_a_job_out() -> None:
    """And one of another type does, too: `unless` never lets in what cannot be compared."""
    rules = policy(HEAD + PRODUCTION + 'unless.environment = "staging"\nunless.runner_id = 7\n' + LAKE)
    assert _environment(rules, runner_id=8) == "production"
    for claims in ({"runner_id": 7}, {"environment": "staging", "runner_id": 8}, {"environment": None, "runner_id": 8}):
        assert _environment(rules, **claims) is None
    for odd in (None, "8", True, 8.0):
        assert _environment(rules, runner_id=odd) is None


def test_a_list_claim_matches_by_any_of_its_elements() -> None:
    rules = policy(HEAD + PRODUCTION + 'when.groups_direct = ["acme/data"]\nunless.groups_direct = ["acme/interns"]\n' + LAKE)
    assert _environment(rules, groups_direct=("x", "acme/data")) == "production"
    assert _environment(rules, groups_direct=("acme/data", "acme/interns")) is None
    assert _environment(rules, groups_direct=()) is None
    assert _environment(rules, groups_direct=None) is None


@pytest.mark.parametrize("source", ["push", "web", "schedule", "api", "trigger", "pipeline"])
def test_without_a_source_an_environment_takes_ordinary_pipelines(source: str) -> None:
    assert _environment(policy(HEAD + PRODUCTION + LAKE), pipeline_source=source) == "production"


@pytest.mark.parametrize(
    "source", ["merge_request_event", "external_pull_request_event", "parent_pipeline", "ondemand_dast_scan", "new", None]
)
def test_without_a_source_an_environment_takes_no_proposal_and_nothing_unknown(source: str | None) -> None:
    """Also not the project's own merge request from one protected branch to another."""
    assert _environment(policy(HEAD + PRODUCTION + LAKE), pipeline_source=source) is None


def test_a_listed_merge_request_source_takes_the_projects_own_and_no_fork() -> None:
    rules = policy(HEAD + PRODUCTION + 'when.pipeline_source = "merge_request_event"\n' + LAKE)
    claims = {"pipeline_source": "merge_request_event"}
    assert _environment(rules, **claims) == "production"
    assert _environment(rules, job_project_id="666", **claims) is None
    assert _environment(rules, job_project_id=None, **claims) is None


def test_forks_come_in_where_they_are_allowed() -> None:
    text = PRODUCTION.replace("when.ref_protected = true", "allow_forks = true")
    rules = policy(HEAD + text + 'when.pipeline_source = "merge_request_event"\n' + LAKE)
    for job_project in ("666", None, "4711"):
        assert _environment(rules, pipeline_source="merge_request_event", job_project_id=job_project) == "production"


def test_a_project_that_took_anothers_path_is_a_stranger() -> None:
    """The path is for people; the id decides."""
    rules = policy(HEAD + PRODUCTION + 'when.project_path = "acme/data"\n' + LAKE)
    assert _environment(rules) == "production"
    assert _environment(rules, project_id="999", job_project_id="999") is None


def test_a_namespace_pins_its_own_projects_alone() -> None:
    text = PRODUCTION.replace('when.project_id = "4711"', 'when.namespace_id = ["72", "73"]')
    rules = policy(HEAD + text + LAKE)
    assert _environment(rules, project_id="5", job_project_id="5") == "production"
    assert _environment(rules, namespace_id="73") == "production"
    assert _environment(rules, namespace_id="7") is None


def test_the_same_project_number_of_another_issuer_is_a_stranger(whole: Policy) -> None:
    denial = _denied(whole, issuer_name="gitlab-two")
    assert denial.code is Code.NO_ENVIRONMENT
    assert denial.trail == ()


def test_a_profile_that_is_unknown_or_another_matches_nothing(whole: Policy) -> None:
    claims = job().claims
    assert isinstance(decide_claims(whole, "gitlab", "gitlab", claims, None), Allow)
    assert isinstance(decide_claims(whole, "gitlab", "none", claims, None), Deny)


def test_two_environments_are_none_should_the_proof_have_a_hole(whole: Policy) -> None:
    first, review = whole.environments
    twice = Policy(hash="x", text="", environments=(first, review, first), grants=whole.grants)
    denial = _denied(twice)
    assert denial.code is Code.NO_ENVIRONMENT
    assert "two environments" in denial.hint


# --- hints ----------------------------------------------------------------------------------------------------------------


def test_a_stranger_learns_nothing(whole: Policy) -> None:
    denial = _denied(whole, project_id="999", job_project_id="999", ref_path="refs/heads/x")
    assert denial.hint == "this job is in no environment of this broker's policy"


def test_a_hint_never_shows_the_policys_side(whole: Policy) -> None:
    denial = _denied(whole, ref_path="refs/tags/v1", pipeline_source="api")
    assert "refs/tags/v1" in denial.hint
    for secret in ("refs/heads", "schedule", "review", "**"):
        assert secret not in denial.hint


def test_full_hints_show_what_that_environment_wants_and_no_other(whole: Policy) -> None:
    rules = policy(WHOLE.replace('max_session = "12h"', 'hints = "full"'))
    hint = _denied(rules, ref_path="refs/tags/v1").hint
    assert "'production' wants ref_path \"refs/heads/main\"" in hint
    assert "refs/heads/**" not in hint


def test_a_long_value_is_cut_and_a_person_is_not_named() -> None:
    rules = policy(HEAD + PRODUCTION + 'when.user_login = "alice"\n' + LAKE)
    denial = _denied(rules, user_login="mallory", ref_path="refs/heads/" + "x" * 500)
    assert "mallory" not in denial.hint + repr(denial.trail)
    assert "alice" not in denial.hint
    assert "x" * 81 not in denial.hint


def test_a_hint_and_a_trail_stay_short_however_many_environments_there_are() -> None:
    many = "".join(PRODUCTION.replace('"production"', f'"e{n}"').replace("heads/main", f"heads/r{n}") for n in range(40))
    rules = policy(HEAD + many + LAKE.replace('["production"]', '["e0"]'))
    denial = _denied(rules, ref_path="refs/heads/x", ref_protected=False)
    assert len(denial.trail) == 64
    assert len(denial.hint) < 400


# --- grants ---------------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_given_once_and_in_that_order(whole: Policy) -> None:
    decision = decide(whole, job(), ("warehouse", "lake", "warehouse"))
    assert isinstance(decision, Allow)
    assert decision.grants == ("warehouse", "lake")


def test_one_grant_of_another_environment_refuses_all(whole: Policy) -> None:
    claims = {"ref_path": "refs/heads/x"}
    assert isinstance(decide(whole, job(**claims), ("lake",)), Allow)
    denial = _denied(whole, ("lake", "warehouse"), **claims)
    assert denial.code is Code.GRANT_DENIED
    assert denial.hint == "grant 'warehouse' is not for environment 'review', which this job is in"


def test_a_grant_that_does_not_exist_is_unknown(whole: Policy) -> None:
    denial = _denied(whole, ("lake", "lakes" * 50))
    assert denial.code is Code.GRANT_UNKNOWN
    assert "there is no grant 'lakeslakes" in denial.hint
    assert len(denial.hint) < 200


def test_a_stranger_cannot_ask_which_grants_there_are(whole: Policy) -> None:
    for grant in ("lake", "no-such-grant"):
        assert _denied(whole, (grant,), project_id="9", job_project_id="9").code is Code.NO_ENVIRONMENT


# --- always and never -----------------------------------------------------------------------------------------------------

_CLAIMS = st.fixed_dictionaries(
    {
        "ref_path": st.sampled_from(["refs/heads/main", "refs/heads/x", "refs/tags/v1", None]) | st.text(max_size=20),
        "ref_protected": st.sampled_from([True, False, None, "true", 1]),
        "environment": st.sampled_from(["production", "review", None]) | st.text(max_size=5),
        "pipeline_source": st.sampled_from(["push", "web", "merge_request_event", None]) | st.text(max_size=5),
        "namespace_id": st.sampled_from(["72", "4711", None]),
    }
)


@given(_CLAIMS, st.text("0123456789", min_size=1, max_size=6).filter(lambda text: text != "4711"), st.booleans())
def test_another_project_is_never_granted(claims: dict[str, Any], project: str, own_job: bool) -> None:
    rules = policy(WHOLE)
    claims = claims | {"project_id": project, "job_project_id": project if own_job else "4711"}
    assert isinstance(decide(rules, job(**claims), None), Deny)


@given(_CLAIMS)
def test_a_trail_is_all_met_exactly_when_the_environment_matches_and_is_the_same_each_time(claims: dict[str, Any]) -> None:
    rules = policy(WHOLE)
    identity = job(**claims)
    for environment in rules.environments:
        trail = list(examine(environment, identity.claims))
        assert all(step.met for step in trail) == matches(environment, identity.claims)
    assert decide(rules, identity, None) == decide(rules, identity, None)


def test_the_cost_of_a_decision_does_not_grow_with_other_projects() -> None:
    """Only the job's own environments are looked at, however many there are."""
    many = "".join(PRODUCTION.replace('"production"', f'"e{n}"').replace("4711", str(n)) for n in range(1, 300))
    rules = policy(HEAD + many + LAKE.replace('["production"]', '["e7"]'))
    ((claim, found),) = rules.pins("gitlab", "gitlab")
    assert claim == "project_id"
    assert [e.name for e in found["7"]] == ["e7"]
    assert "4711" not in found
    assert rules.pins("gitlab", "github") == rules.pins("other", "gitlab") == ()
    assert _environment(rules, project_id="7", job_project_id="7") == "e7"


def test_values_are_shown_as_people_read_them() -> None:
    assert [shown(v) for v in (None, True, 7, ("a", "b"), "x")] == [None, "true", "7", "a, b", "x"]
    assert ClaimSet({"a": "b"}).get("c") is None
