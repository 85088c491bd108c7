"""Policies of every kind of issuer, and mixed ones: decided, proved, compared, rendered, explained."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from broker.assertions import role_session_name
from broker.cli import cli
from broker.errors import Misconfigured
from broker.identity.profiles import PROFILES
from broker.policy.cases import parse_cases, run
from broker.policy.check import warnings
from broker.policy.decide import decide, decide_claims
from broker.policy.diff import compare
from broker.policy.explain import explain
from broker.policy.model import Allow
from broker.policy.overlap import find_job
from broker.policy.prove import ask, violation, who_can
from broker.policy.render_aws import AwsSide, aws
from broker.policy.render_exports import check_aws, check_vault
from broker.policy.render_roles import SESSIONS
from broker.policy.render_vault import VaultSide, vault
from tests.fakes.workloads import ACCOUNT_UID, workload
from tests.strategies import identity
from tests.unit.policy.build import HEAD, LAKE, PRODUCTION, policy, refusals

# --- whole policies --------------------------------------------------------------------------------------------------------

GITHUB = """
[[environment]]
name = "production"
when.issuer = "github"
when.repository_id = "74"
when.ref = "refs/heads/main"
when.ref_protected = true
"""
OKTA = """
[[environment]]
name = "batch"
when.issuer = "okta"
when.cid = "0oa2hl2inow5Uqc6c357"
when.sub = "0oa2hl2inow5Uqc6c357"
when.scp = "etl.run"
"""
KUBERNETES = f"""
[[environment]]
name = "cluster"
when.issuer = "kubernetes"
when."/kubernetes.io/serviceaccount/uid" = "{ACCOUNT_UID}"
when."/kubernetes.io/namespace" = "etl"
"""
GENERIC = """
[[environment]]
name = "agents"
when.issuer = "generic"
when.sub = "pipeline/0183a2e1/main"
when.organization_slug = "acme"
when.groups = "etl-prod"
when."/agent/tags/queue" = "deploy"
"""
OWN = {"github": GITHUB, "okta": OKTA, "kubernetes": KUBERNETES, "generic": GENERIC}
NAMES = {"github": "production", "okta": "batch", "kubernetes": "cluster", "generic": "agents"}
GRANTS = """
[[grant]]
name = "lake"
environments = ["production", "batch", "cluster", "agents"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"

[[grant]]
name = "warehouse"
environments = ["production", "batch", "cluster", "agents"]
[grant.vault]
role = "etl-{environment}"
path = "database/creds/etl-{environment}"
"""
MIXED = HEAD + PRODUCTION.replace('"production"', '"gitlab-production"') + "".join(OWN.values()) + GRANTS.replace(
    '["production"', '["gitlab-production", "production"'
)  # fmt: skip
VAULT = VaultSide(issuer_url="https://broker.example.com", audience="https://vault.example.com")
AWS = AwsSide(issuer_url="https://broker.example.com")


def _alone(kind: str) -> str:
    return HEAD + OWN[kind] + GRANTS.replace('["production", "batch", "cluster", "agents"]', f'["{NAMES[kind]}"]')


@pytest.mark.parametrize("kind", OWN)
def test_a_token_of_its_kind_is_in_its_environment_and_its_claims_under_another_issuer_are_not(kind: str) -> None:
    loaded = policy(MIXED)
    job = workload(kind)
    found = decide_claims(loaded, kind, kind, job.claims, None)
    assert isinstance(found, Allow)
    assert found.environment == NAMES[kind]
    assert not isinstance(decide(loaded, job, None), Allow)  # this token's issuer is called `our-…`
    for other in PROFILES:
        if other != kind:
            assert not isinstance(decide_claims(loaded, other, other, job.claims, None), Allow)


@pytest.mark.parametrize("kind", OWN)
def test_the_least_job_is_one_that_explain_and_decide_put_there(kind: str) -> None:
    loaded = policy(MIXED)
    (reach,) = (one for one in who_can(loaded, "lake") if one.environment.name == NAMES[kind])
    assert reach.job is not None
    explained = explain(loaded, kind, json.loads(json.dumps(dict(reach.job)))).decision
    assert isinstance(explained, Allow)
    assert explained.environment == NAMES[kind]


def test_environments_of_one_issuer_meet_and_of_two_do_not() -> None:
    twice = OKTA.replace('"batch"', '"second"').replace('when.scp = "etl.run"', 'when.scp = "etl.read"')
    found = refusals(HEAD + OKTA + twice + LAKE.replace('"production"', '"batch"'))
    assert len(found) == 1
    assert "cid = '0oa2hl2inow5Uqc6c357', scp = 'etl.read, etl.run', sub = '0oa2hl2inow5Uqc6c357'" in found[0]
    apart = twice.replace("when.scp", 'unless.scp = "etl.run"\nwhen.scp')
    assert refusals(HEAD + OKTA + apart + LAKE.replace('"production"', '"batch"')) == []
    one, other = (e for e in policy(MIXED).environments if e.issuer in ("okta", "github"))
    assert find_job([one, other]) is None


def test_a_sub_that_is_not_the_client_is_nobodys() -> None:
    text = HEAD + OKTA + LAKE.replace('"production"', '"batch"')
    assert find_job(policy(text).environments) is not None
    loaded = policy(text.replace('when.sub = "0oa2hl2inow5Uqc6c357"', 'when.sub = "other"'))
    assert find_job(loaded.environments) is None
    assert any("no job can ever be in environment 'batch'" in str(problem) for problem in warnings(loaded))
    assert warnings(policy(text)) == ()


@pytest.mark.parametrize(
    ("asked", "environment"),
    [
        ("claim.ref_protected=false", "cluster"),  # absent counts
        ("claim.ref_protected=false,environment=production", None),
        ("claim.ref_type=tag,environment=production", None),
        ("claim.ref_type=tag,environment=gitlab-production", None),
        ("claim.event_name=pull_request,environment=production", None),
        ("claim.event_name=pull_request", "agents"),  # an issuer that nothing is known of may have such a claim
        ("claim.event_name=release,environment=production", "production"),
        ("claim.scp=admin", "batch"),
        ("claim./kubernetes.io/namespace=other,environment=cluster", None),
        ("claim./kubernetes.io/namespace=etl,environment=cluster", "cluster"),
        ("claim./kubernetes.io/pod/name=x", "cluster"),
        ("claim.groups=x", "agents"),
        ("claim.organization_slug=other", None),
    ],
)
def test_questions_to_a_mixed_policy(asked: str, environment: str | None) -> None:
    loaded = policy(MIXED)
    witness = violation(loaded, ask(loaded, asked))
    assert (witness and witness.environment.name) == environment


def test_one_name_that_is_a_list_here_and_a_text_there_is_asked_of_both() -> None:
    """`groups_direct` is GitLab's list; an issuer of the profile `generic` may have a text of that name."""
    generic = GENERIC + 'when.groups_direct = "acme"\n'
    for text in (HEAD + PRODUCTION + generic, HEAD + generic + PRODUCTION):
        loaded = policy(text + LAKE)
        witness = violation(loaded, ask(loaded, "environment=agents,claim.groups_direct=acme"))
        assert witness is not None
        assert witness.job["groups_direct"] == "acme"
        listed = violation(loaded, ask(loaded, "environment=production,claim.groups_direct=acme"))
        assert listed is not None
        assert listed.job["groups_direct"] == ("acme",)
        asked = ask(loaded, "environment=agents,claim.ref_protected=true")
        assert violation(loaded, asked) is None  # a text is never true
        assert violation(loaded, ask(loaded, "environment=production,claim.ref_protected=true")) is not None


def test_a_guard_of_any_issuer_of_the_policy_may_stand_unused() -> None:
    guard = '[guards.services]\nwhen.scp = "etl.run"\nwhen.cid = "x"\n'
    assert refusals(MIXED + guard) == []
    found = refusals(HEAD + guard + PRODUCTION + LAKE)
    assert [problem.partition(";")[0] for problem in found] == [
        "policy.toml:3: when.scp: gitlab tokens have no such claim",
        "policy.toml:4: when.cid: gitlab tokens have no such claim",
    ]


@pytest.mark.parametrize(
    ("kind", "narrow"), [("github", "when.ref_protected = true\n"), ("okta", 'when.scp = "etl.run"\n'),
                         ("kubernetes", 'when."/kubernetes.io/namespace" = "etl"\n'), ("generic", 'when.groups = "etl-prod"\n')],
)  # fmt: skip
def test_what_a_change_gives_is_proved_for_every_kind(kind: str, narrow: str) -> None:
    assert narrow in MIXED
    at = MIXED.index(OWN[kind])
    wider = MIXED[:at] + MIXED[at:].replace(narrow, "", 1)
    difference = compare(policy(MIXED), policy(wider))
    assert {one.environment.name for one in difference.gained} == {NAMES[kind]}
    assert difference.lost == ()
    assert compare(policy(MIXED), policy(MIXED)).gained == ()
    assert not compare(policy(wider), policy(MIXED)).widens


def test_a_person_is_better_named_by_an_id() -> None:
    for text, instead in (
        (GITHUB + 'when.actor = "octocat"\n', "actor_id"),
        (PRODUCTION + 'when.user_login = "jo"\n', "user_id"),
    ):
        said = [str(problem) for problem in warnings(policy(HEAD + text + LAKE))]
        assert [one for one in said if one.endswith(f"use {instead}")], said


# --- renderings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PROFILES)
def test_session_names_start_as_roles_admit_them(kind: str) -> None:
    job = identity() if kind == "gitlab" else workload(kind)
    assert role_session_name(job, "s" * 26).startswith(SESSIONS[kind])
    assert sum(SESSIONS[kind].startswith(start) for start in SESSIONS.values()) == 1


@pytest.mark.parametrize("kind", OWN)
def test_roles_of_every_kind_are_proved_to_be_what_the_policy_says(kind: str) -> None:
    loaded = policy(_alone(kind))
    writes = vault(loaded, VAULT).writes
    exports = {path.rsplit("/", 1)[1]: dict(body) for path, body in writes.items() if "auth/jwt/role/" in path}
    role = exports[f"etl-{NAMES[kind]}"]
    stable = workload(kind).stable_id
    subject = f"environment:{NAMES[kind]}:grant:warehouse:issuer:{kind}:project:{stable}"
    assert role["bound_claims"] == {"sub": [subject]} | ({"ref_protected": ["true"]} if kind == "github" else {})
    assert check_vault(loaded, VAULT, exports) == []
    (account,) = aws(loaded, AWS)
    trusts: dict[str, Any] = {made.name: made.trust for made in (*account.roles, account.revoke) if made}
    condition = trusts[f"etl-{NAMES[kind]}"]["Statement"][0]["Condition"]
    assert condition["StringLike"]["sts:RoleSessionName"] == f"{SESSIONS[kind]}*"
    assert condition["StringEquals"]["aws:RequestTag/ref_protected"] == ["true" if kind == "github" else "false"]
    assert check_aws(loaded, AWS, trusts) == []
    gitlabs = json.loads(json.dumps(trusts).replace(f'"{SESSIONS[kind]}*"', '"gl-*"'))
    assert [(one.role, one.kind) for one in check_aws(loaded, AWS, gitlabs)] == [(f"etl-{NAMES[kind]}", "narrower")]


def test_roles_of_a_mixed_policy_are_proved_to_be_what_it_says() -> None:
    loaded = policy(MIXED)
    exports = {path.rsplit("/", 1)[1]: dict(body) for path, body in vault(loaded, VAULT).writes.items() if "jwt/role/" in path}
    assert check_vault(loaded, VAULT, exports) == []
    (account,) = aws(loaded, AWS)
    assert check_aws(loaded, AWS, {made.name: made.trust for made in (*account.roles, account.revoke) if made}) == []


def test_one_role_for_two_kinds_admits_both_kinds_of_session_names() -> None:
    text = HEAD + OKTA + KUBERNETES + LAKE.replace('["production"]', '["batch", "cluster"]')
    loaded = policy(text.replace("-{environment}", ""))
    (account,) = aws(loaded, AWS)
    condition = account.roles[0].trust["Statement"][0]["Condition"]
    assert condition["StringLike"]["sts:RoleSessionName"] == ["k8s-*", "ok-*"]
    with pytest.raises(Misconfigured) as one:  # protected refs alone, and no refs at all
        aws(policy((HEAD + GITHUB + OKTA + LAKE.replace('"]', '", "batch"]')).replace("-{environment}", "")), AWS)
    assert "give them roles of their own" in one.value.public


@pytest.mark.parametrize(
    ("kind", "bound", "kinds"),
    [
        ("okta", {"ref_protected": "true"}, ["narrower"]),
        ("okta", {"ref_protected": "false"}, []),
        ("okta", {"ref_path": "refs/heads/main"}, ["narrower"]),
        ("okta", {"ref_path": "", "pipeline_id": ""}, []),
        ("okta", {"job_id": "1"}, ["narrower"]),
        ("kubernetes", {"project_id": "other"}, ["narrower"]),
        ("kubernetes", {"stable_id": ACCOUNT_UID}, []),
        ("github", {"ref_protected": "true", "ref_path": "refs/heads/main"}, []),
        ("github", {"ref_protected": "true", "pipeline_id": "1"}, ["narrower"]),
        ("github", {}, ["wider"]),
        ("github", {"ref_protected": "false"}, ["wider", "narrower"]),
        ("generic", {"issuer_name": "gitlab"}, ["narrower"]),
    ],
)
def test_a_deployed_role_is_compared_with_the_claims_of_that_kind(kind: str, bound: dict[str, str], kinds: list[str]) -> None:
    loaded = policy(_alone(kind))
    name = f"etl-{NAMES[kind]}"
    exports = {path.rsplit("/", 1)[1]: dict(body) for path, body in vault(loaded, VAULT).writes.items() if "jwt/role/" in path}
    exports[name]["bound_claims"] = {"sub": exports[name]["bound_claims"]["sub"], **bound}
    assert [one.kind for one in check_vault(loaded, VAULT, exports)] == kinds


@pytest.mark.parametrize(
    ("sub", "role", "what"),
    [
        ("repo:acme/etl", "etl", "does not fit into the broker's assertion"),
        ("acme/etl", "etl-{project_id}", "does not fit into a role or path"),
    ],
)
def test_an_id_that_no_assertion_or_role_can_carry_is_not_rendered(sub: str, role: str, what: str) -> None:
    text = _alone("generic").replace("pipeline/0183a2e1/main", sub).replace("etl-{environment}", role)
    with pytest.raises(Misconfigured) as one:
        vault(policy(text), VAULT)
    assert what in one.value.public
    vault(policy(text.replace(sub, "acme-etl")), VAULT)


# --- explain ---------------------------------------------------------------------------------------------------------------


def _explain(tmp_path: Path, kind: str, *words: str) -> Result:
    file = tmp_path / "policy.toml"
    file.write_text(MIXED)
    return CliRunner().invoke(cli, ["policy", "explain", "--policy", str(file), "--issuer", kind, *words])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("github", ("--project", "74", "--ref", "refs/heads/main", "--protected", "--source", "push")),
        ("okta", ("--project", "0oa2hl2inow5Uqc6c357", "--claim", "sub=0oa2hl2inow5Uqc6c357", "--claim", "scp=etl.read,etl.run")),
        ("kubernetes", ("--project", ACCOUNT_UID, "--claim", "/kubernetes.io/namespace=etl")),
        (
            "generic",
            (
                "--project",
                "pipeline/0183a2e1/main",
                "--claim",
                "organization_slug=acme",
                "--claim",
                "groups=etl-prod",
                "--claim",
                "/agent/tags/queue=deploy",
            ),
        ),
    ],
)
def test_a_job_of_any_kind_can_be_described_by_options(tmp_path: Path, kind: str, words: tuple[str, ...]) -> None:
    result = _explain(tmp_path, kind, *words)
    assert f"ALLOW environment {NAMES[kind]}: lake, warehouse" in result.stdout, result.output
    assert "DENY no_environment" in _explain(tmp_path, kind, "--project", "other", *words[2:]).stdout


@pytest.mark.parametrize("option", [("--ref", "refs/heads/main"), ("--protected",), ("--source", "push"), ("--environment", "x")])
def test_an_option_that_says_nothing_of_that_kind_is_refused(tmp_path: Path, option: tuple[str, ...]) -> None:
    result = _explain(tmp_path, "okta", *option)
    assert result.exit_code == 65
    assert f"{option[0]}: okta tokens have no such claim" in result.stderr


def test_a_ref_of_a_pull_request_is_a_whole_one_for_github_alone(tmp_path: Path) -> None:
    words = ("--project", "74", "--ref", "refs/pull/7/merge")
    assert "ref is 'refs/pull/7/merge'" in _explain(tmp_path, "github", *words).stdout
    assert "is no whole ref" in _explain(tmp_path, "gitlab", *words).stderr


def test_a_persons_sub_is_left_out_as_the_broker_does(tmp_path: Path) -> None:
    words = ("--project", "0oa2hl2inow5Uqc6c357", "--claim", "sub=jo@acme.com", "--claim", "scp=etl.run")
    result = _explain(tmp_path, "okta", *words)
    assert "DENY" in result.stdout
    assert "sub is not cid: the broker leaves it out" in result.stderr


def test_a_token_is_no_place_to_spell_pointers(tmp_path: Path) -> None:
    """A member that is called like a pointer is not what the pointer leads to; in a file of claims it is our spelling."""
    from tests.fakes.workloads import inside as kubernetes
    from tests.fakes.workloads import workload_token

    token = workload_token("kubernetes", **{"kubernetes.io": kubernetes(namespace="other"), "/kubernetes.io/namespace": "etl"})
    (tmp_path / "token").write_text(token)
    assert "DENY" in _explain(tmp_path, "kubernetes", str(tmp_path / "token")).stdout
    (tmp_path / "token").write_text(workload_token("kubernetes"))
    assert "ALLOW environment cluster" in _explain(tmp_path, "kubernetes", str(tmp_path / "token")).stdout


def test_what_the_profile_leaves_out_of_a_token_is_no_remark(tmp_path: Path) -> None:
    """Of an issuer that nothing is known of, a number is no claim, and no reason to refuse the token either."""
    result = _explain(tmp_path, "generic", str(_file(tmp_path, {"sub": "x", "build_number": 7})))
    assert "build_number" not in result.stderr
    known = _explain(tmp_path, "generic", str(_file(tmp_path, {"sub": "x", "azp": 7})))
    assert "azp is not text: a token with it is refused" in known.stderr


def _file(tmp_path: Path, claims: dict[str, Any]) -> Path:
    file = tmp_path / "claims.json"
    file.write_text(json.dumps(claims))
    return file


def test_cases_of_every_kind() -> None:
    loaded = policy(MIXED)
    cases = parse_cases(
        f"""
[[case]]
name = "the cluster"
claims = {{ issuer = "kubernetes", "/kubernetes.io/serviceaccount/uid" = "{ACCOUNT_UID}", "/kubernetes.io/namespace" = "etl" }}
expect = {{ environment = "cluster", grants = ["lake", "warehouse"] }}

[[case]]
name = "a single group is a list of one"
claims = {{ issuer = "generic", sub = "pipeline/0183a2e1/main", organization_slug = "acme", groups = "etl-prod" }}
expect = {{ deny = "no_environment", missing = ["/agent/tags/queue"] }}
""",
        "x.cases.toml",
        loaded,
    )
    assert [outcome.differences for outcome in run(loaded, cases).outcomes] == [(), ()]
