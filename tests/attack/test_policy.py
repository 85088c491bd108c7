"""Rows 33 to 66 of gitlab-tokens.md 5.3 that policy decides: a real token, the verifier, then base rule R; and for merge requests
and forks the policy that the project ships as its example.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from broker.assertions import role_session_name
from broker.demo.issuer import ABSENT
from broker.errors import Code, Refused
from broker.identity.claims import JobIdentity
from broker.identity.jwks import Keys
from broker.identity.verify import TokenVerifier
from broker.policy.check import warnings
from broker.policy.decide import decide
from broker.policy.language import PolicyInvalid, load, parse
from broker.policy.model import Allow, Decision, Deny, Policy
from broker.policy.templates import fill
from tests.fakes.forge import job_token, jwks_file, settings
from tests.strategies import moment

SHIPPED = Path(__file__).parents[2] / "deploy" / "policy" / "policy.toml"
OF_SHIPPED: dict[str, Any] = {"project_id": "4711", "job_project_id": "4711"}

_GRANT = """
[[grant]]
name = "lake"
environments = ["production"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"
"""
_RULE = """version = 1
[[environment]]
name = "production"
when.issuer = "gitlab"
when.project_id = "20"
when.ref_path = "refs/heads/main"
when.ref_protected = true
"""

Decide = Callable[..., Any]


def rule(*more: str, take: str = "") -> Policy:
    """Base rule R, with more conditions, or without a line."""
    return parse(_RULE.replace(take, "") + "".join(line + "\n" for line in more) + _GRANT, "policy.toml", _no_template)


def _no_template(name: str) -> str:
    raise AssertionError(name)


@pytest.fixture
async def verifier(tmp_path: Path) -> AsyncIterator[TokenVerifier]:
    own = settings(jwks_file=jwks_file(tmp_path))
    one = TokenVerifier([(own, Keys(own))])
    yield one
    await one.close()


async def job(verifier: TokenVerifier, claims: Mapping[str, Any]) -> JobIdentity:
    return await verifier.verify(job_token(**claims), moment())


def denied(decision: Decision) -> bool:
    """In no environment."""
    return isinstance(decision, Deny) and decision.code is Code.NO_ENVIRONMENT


_ENVIRONMENT = 'when.environment = "production"'
_NAMESPACE = 'when.namespace_path = "acme/**"'

# name, what the rule has beside R, the change to B that is denied, the change that is allowed
DENIED: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("37 a prefix without a slash", _NAMESPACE, {"namespace_path": "acme-evil/x"}, {"namespace_path": "acme/x"}),
    ("37 a prefix with a slash", 'when.project_path = "acme/*"', {"project_path": "acme/x/data"}, {}),
    ("40 a tag of the branch's name", "", {"ref_type": "tag", "ref": "main", "ref_path": "refs/tags/main"}, {}),
    ("41 a branch that is named like a path", "", {"ref": "refs/heads/main"}, {}),
    ("41 a tag that is named like a path", "", {"ref_type": "tag", "ref": "refs/heads/main"}, {}),
    ("42 an unprotected ref", "", {"ref_protected": "false"}, {}),
    ("44 a fork's merge request, as old GitLab shows it", "",
     {"pipeline_source": "merge_request_event", "ref_protected": "false", "job_project_id": ABSENT}, {}),
    ("45 a fork's merge request, as new GitLab shows it", "",
     {"project_id": "666", "job_project_id": "20", "pipeline_source": "merge_request_event"}, {}),
    ("46 a protected merge request of the project itself", "", {"pipeline_source": "merge_request_event"}, {}),
    ("47 a child pipeline", "", {"pipeline_source": "parent_pipeline"}, {}),
    ("47 an external pull request", "", {"pipeline_source": "external_pull_request_event"}, {}),
    ("48 by hand where only pushes are listed", 'when.pipeline_source = ["push"]', {"pipeline_source": "web"}, {}),
    ("49 a feature branch that names production", _ENVIRONMENT,
     {"ref": "x", "ref_protected": "false", "environment": "production", "environment_protected": "false"}, {}),
    *((f"50 environment {name!r}", _ENVIRONMENT, {"environment": name}, {})
      for name in ("production/../review", "production ", "Production", "review/prod", "production/", "prod")),
    ("51 an environment that is being stopped", 'when.environment_action = "start"', {"environment_action": "stop"}, {}),
    ("51 an environment that is only looked at", 'when.environment_action = "start"', {"environment_action": "access"}, {}),
    ("52 a protected environment on the Free tier", "when.environment_protected = true", {}, {"environment_protected": "true"}),
    ("53 no environment", _ENVIRONMENT, {"environment": ABSENT}, {}),
    ("53 a null environment", _ENVIRONMENT, {"environment": None}, {}),
    ("54 the path of another project", "", {"project_id": "999", "job_project_id": "999"}, {}),
    ("59 the owner of a fork", 'when.user_access_level = "owner"',
     {"user_access_level": "owner", "project_id": "666", "job_project_id": "20"}, {"user_access_level": "owner"}),
    ("60 more groups than are sent", 'when.groups_direct = "acme/ops"', {}, {"groups_direct": ["acme", "acme/ops"]}),
    ("60 a group that only starts so", 'when.groups_direct = "acme/ops"', {"groups_direct": ["acme/ops-evil"]},
     {"groups_direct": ["acme/ops"]}),
    ("61 a runner of one's own", 'when.runner_environment = "gitlab-hosted"', {}, {"runner_environment": "gitlab-hosted"}),
    ("62 no configuration in the project", 'when.ci_config_ref_uri = "gitlab.com/acme/data//.gitlab-ci.yml@refs/heads/main"',
     {"ci_config_ref_uri": None}, {"ci_config_ref_uri": "gitlab.com/acme/data//.gitlab-ci.yml@refs/heads/main"}),
    ("62 the configuration of another project", 'when.ci_config_ref_uri = "gitlab.com/acme/data//.gitlab-ci.yml@refs/heads/main"',
     {"ci_config_ref_uri": "gitlab.com/evil/data//.gitlab-ci.yml@refs/heads/main"},
     {"ci_config_ref_uri": "gitlab.com/acme/data//.gitlab-ci.yml@refs/heads/main"}),
]  # fmt: skip


@pytest.mark.parametrize(("more", "attack", "twin"), [case[1:] for case in DENIED], ids=[case[0] for case in DENIED])
async def test_a_job_that_the_rule_does_not_mean_is_in_no_environment(
    verifier: TokenVerifier, more: str, attack: dict[str, Any], twin: dict[str, Any]
) -> None:
    """The token is GitLab's, and right; the rule says no to it, and yes to its twin."""
    policy = rule(more)
    assert denied(decide(policy, await job(verifier, attack), None))
    allowed = decide(policy, await job(verifier, twin), None)
    assert isinstance(allowed, Allow), allowed
    assert allowed.environment == "production"


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"project_path": "Acme/Data"}, 55),
        ({"sub": "project_path:acme/data"}, 56),
        ({"sub": "project_id:20:ref_type:branch:ref:main"}, 56),
        ({"sub": "project_path:acme/data:deployment_tier:production"}, 56),
        ({"sub": "project_path:evil/data:ref_type:branch:ref:main"}, 56),
        ({"user_access_level": "owner"}, 59),
        ({"brand_new": "x"}, 12),
    ],
)
async def test_what_nothing_is_decided_on_changes_nothing(verifier: TokenVerifier, change: dict[str, Any], row: int) -> None:
    """Names of paths in another case, any shape of `sub`, a level of access, a claim of next year."""
    assert row
    base = decide(rule(), await job(verifier, {}), None)
    assert decide(rule(), await job(verifier, change), None) == base
    assert isinstance(base, Allow)


async def test_row_39_a_glob_stops_at_a_slash_and_no_glob_is_on_sub(verifier: TokenVerifier) -> None:
    """`sub` cannot be matched at all; a star on a path crosses neither `/` nor what stands behind it."""
    with pytest.raises(PolicyInvalid, match="maintainer shapes sub"):
        rule('when.sub = "project_path:acme/*:ref_type:branch:ref:main"')
    policy = rule('when.ref_path = "refs/heads/release/*"', take='when.ref_path = "refs/heads/main"\n')
    assert isinstance(decide(policy, await job(verifier, {"ref": "release/1"}), None), Allow)
    for ref in ("release/1/evil", "release-evil", "x/release/1", "release/"):
        decision = decide(policy, await job(verifier, {"ref": ref}), None)
        assert isinstance(decision, Allow) is (ref == "release/"), ref


@pytest.mark.parametrize("pattern", ["main|release", "^main$", "(main|release)", "main."])
def test_row_38_there_are_no_expressions(pattern: str) -> None:
    """Alternation and anchors are letters here: only a ref of exactly that name meets them."""
    found = rule(f'when.ref = "{pattern}"', 'when.ref_type = "branch"', take='when.ref_path = "refs/heads/main"\n')
    (asked,) = (c for c in found.environments[0].conditions if c.claim == "ref")
    assert asked.holds(pattern)
    assert not any(asked.holds(ref) for ref in ("main", "release", "main-evil", "xrelease", "main\n", "mainx"))


@pytest.mark.parametrize("pattern", ["mai[n]", "mai?"])
def test_row_38_wildcards_of_other_languages_are_refused(pattern: str) -> None:
    """What somebody would take for one matches nothing, and is said."""
    with pytest.raises(PolicyInvalid, match="no wildcard"):
        rule(f'when.ref = "{pattern}"', 'when.ref_type = "branch"', take='when.ref_path = "refs/heads/main"\n')


@pytest.mark.parametrize("line", ["", 'when.project_path = "acme/data"', 'when.user_id = "1"'])
def test_row_35_a_rule_without_a_project_is_not_loaded(line: str) -> None:
    """An audience, a path or a person pins nothing: every project of the instance can have the first two."""
    with pytest.raises(PolicyInvalid, match="pins no project"):
        rule(line, take='when.project_id = "20"\n')
    assert rule(line).environments


@pytest.mark.parametrize(
    "line", ['when.project_path = "*"', 'when.project_path = "**"', 'when.project_id = "*"', 'when.ref = "**"']
)
def test_row_36_a_wildcard_for_everything_is_not_loaded(line: str) -> None:
    """Neither as a path, nor as an id."""
    with pytest.raises(PolicyInvalid, match=r"matches everything|compared exactly"):
        rule(line, take='when.project_id = "20"\n')
    assert rule('when.project_path = "acme/*"').environments


def test_row_63_an_environment_without_a_ref_is_warned_about() -> None:
    """Its name is whatever the pipeline says."""
    loose = rule(_ENVIRONMENT, take='when.ref_path = "refs/heads/main"\nwhen.ref_protected = true\n')
    said = " ".join(str(problem) for problem in warnings(loose))
    assert "does not look at the ref" in said
    assert "environment is what the writer of the pipeline says it is" in said
    assert not warnings(rule(_ENVIRONMENT))


def test_row_64_two_rules_for_one_job_are_not_loaded() -> None:
    """With the job that both would take."""
    second = _RULE.replace("version = 1\n", "").replace('"production"', '"staging"')
    with pytest.raises(PolicyInvalid, match="can both match one job"):
        parse(_RULE + second + _GRANT, "policy.toml", _no_template)


@pytest.mark.parametrize("ref", ["*", "../../prod", "a+b", "feature/x", "x" * 255, "\u4e3b", "$(id)", "{environment}"])
async def test_row_65_no_branch_name_becomes_part_of_a_role_a_path_or_a_session(verifier: TokenVerifier, ref: str) -> None:
    """Templates know ids and the environment alone: the branch is nowhere in them, whatever it is called."""
    policy = rule(take='when.ref_path = "refs/heads/main"\n')
    lake = next(grant for grant in policy.grants if grant.name == "lake")
    asked = await job(verifier, {"ref": ref})
    target = fill(lake, "production", asked, "")
    assert target == fill(lake, "production", await job(verifier, {}), "")
    assert role_session_name(asked, "abcdefghij") == "gl-20-302-abcdefgh"
    with pytest.raises(PolicyInvalid, match="no placeholder"):
        parse(_RULE + _GRANT.replace("{environment}", "{ref}"), "policy.toml", _no_template)


async def test_row_66_ids_are_joined_by_what_no_id_has(verifier: TokenVerifier) -> None:
    """Project 20, job 302 and project 203, job 02 cannot have one name: ids are decimal, and start with no zero."""
    assert role_session_name(await job(verifier, {}), "abcdefghij") == "gl-20-302-abcdefgh"
    with pytest.raises(Refused, match="not an id that GitLab writes"):
        await job(verifier, {"project_id": "acme-20"})
    with pytest.raises(Refused, match="not an id that GitLab writes"):
        await job(verifier, {"job_id": "02"})


# --- merge requests and forks, against what is shipped ---------------------------------------------------------------------

_MERGE: dict[str, Any] = {"ref": "feature/x", "ref_protected": "false", "environment": ABSENT}
_MERGE["pipeline_source"] = "merge_request_event"
SHIPPED_CASES: list[tuple[str, dict[str, Any], str]] = [
    ("44 an old GitLab's fork", _MERGE | {"job_project_id": ABSENT}, ""),
    ("44 an old GitLab's fork that names main", _MERGE | {"ref": "main", "job_project_id": ABSENT}, ""),
    ("44 the project's own merge request", _MERGE, "review"),
    ("45 a new GitLab's fork", _MERGE | {"project_id": "666"}, ""),
    ("45 a fork whose own pipeline runs", {"project_id": "666", "job_project_id": "666"}, ""),
    ("46 a protected merge request into main", {"pipeline_source": "merge_request_event"}, ""),
    ("46 a push to main", {}, "production"),
    ("47 a child of a merge request", _MERGE | {"pipeline_source": "parent_pipeline"}, ""),
    ("47 a child on main", {"pipeline_source": "parent_pipeline"}, ""),
    ("47 an external pull request", _MERGE | {"pipeline_source": "external_pull_request_event"}, ""),
    ("48 a trigger on main", {"pipeline_source": "trigger"}, ""),
    ("48 a schedule on main", {"pipeline_source": "schedule"}, "production"),
    ("49 a feature branch that names production", {"ref": "feature/x", "ref_protected": "false"}, "review"),
    ("49 a merge request that names production", _MERGE | {"environment": "production"}, "review"),
    ("54 the path of another project", {"project_id": "999", "job_project_id": "999", "project_path": "acme/data"}, ""),
    ("59 the owner of a fork", _MERGE | {"project_id": "666", "user_access_level": "owner"}, ""),
]


@pytest.mark.parametrize(
    ("changes", "environment"), [case[1:] for case in SHIPPED_CASES], ids=[case[0] for case in SHIPPED_CASES]
)
async def test_merge_requests_and_forks_against_the_shipped_example(
    verifier: TokenVerifier, changes: dict[str, Any], environment: str
) -> None:
    """No fork is anywhere, no merge request is in production, and review has no warehouse."""
    policy = load(SHIPPED, issuers={"gitlab": "gitlab"})
    decision = decide(policy, await job(verifier, OF_SHIPPED | changes), None)
    if environment:
        assert isinstance(decision, Allow), decision
        assert decision.environment == environment
        assert ("warehouse" in decision.grants) is (environment != "review")
    else:
        assert isinstance(decision, Deny)
        assert decision.code is Code.NO_ENVIRONMENT
