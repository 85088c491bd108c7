"""Renderings as text, and deployed roles against the policy: wider or narrower, with a witness; or proved to be what it says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from broker.cli import cli
from broker.errors import Misconfigured
from broker.policy.model import Policy
from broker.policy.render_aws import AwsSide, aws
from broker.policy.render_exports import check_aws, check_vault
from broker.policy.render_gitlab import gitlab
from broker.policy.render_vault import VaultSide, files, vault
from tests.unit.policy.build import HEAD, PRODUCTION, WHOLE, policy

VAULT = VaultSide(issuer_url="https://broker.example.com", audience="https://vault.example.com")
AWS = AwsSide(issuer_url="https://broker.example.com")
SUBJECT = "environment:production:grant:warehouse:issuer:gitlab:project:4711"
ROLE = "auth/jwt/role/etl-production"


def _vault_exports(loaded: Policy, **changes: Any) -> dict[str, Any]:
    """The rendered roles as `vault read -format=json` gives them back, one of them changed."""
    writes = vault(loaded, VAULT).writes
    exports = {path.rsplit("/", 1)[1]: {"data": dict(body)} for path, body in writes.items() if "/role/" in path}
    exports["etl-production"]["data"] |= changes
    return exports


def _found(**changes: Any) -> list[tuple[str, str]]:
    loaded = policy(WHOLE)
    return [(one.kind, one.what) for one in check_vault(loaded, VAULT, _vault_exports(loaded, **changes))]


def test_rendered_roles_are_proved_to_be_what_the_policy_says() -> None:
    assert _found() == []
    trusts = {
        role.name: {"Role": {"AssumeRolePolicyDocument": role.trust}}
        for account in aws(policy(WHOLE), AWS)
        for role in account.roles
    }
    assert check_aws(policy(WHOLE), AWS, trusts) == []


@pytest.mark.parametrize(
    ("bound", "witness"),
    [
        ({"environment": "production"}, {"sub": "environment:production:grant:0:issuer:0:project:0"}),
        ({"sub": [SUBJECT]}, {"sub": SUBJECT, "ref_protected": "false"}),
        (
            {
                "environment": "production",
                "grant": ["warehouse", "lake"],
                "issuer_name": "gitlab",
                "project_id": "4711",
                "ref_protected": "true",
            },
            {"sub": SUBJECT.replace("warehouse", "lake"), "ref_protected": "true"},
        ),
    ],
)
def test_a_role_that_admits_more_is_shown_with_an_assertion(bound: dict[str, Any], witness: dict[str, str]) -> None:
    loaded = policy(WHOLE)
    found = check_vault(loaded, VAULT, _vault_exports(loaded, bound_claims=bound))
    assert [(one.role, one.kind) for one in found] == [("etl-production", "wider")]
    assert found[0].witness is not None
    shown = dict(found[0].witness)
    assert shown.items() >= witness.items() if "ref_protected" in witness else shown["sub"] == witness["sub"]


def test_the_same_said_in_single_claims_is_proved_to_be_the_same() -> None:
    bound = {
        "environment": "production",
        "grant": "warehouse",
        "issuer_name": "gitlab",
        "stable_id": "4711",
        "ref_protected": "true",
    }
    assert _found(bound_claims=bound) == []


def test_a_glob_over_the_subject_is_followed_through_its_parts() -> None:
    """`*` crosses `:`: a pattern that looks as if it named an environment and a project lets other grants and issuers in."""
    bound = {"sub": ["environment:production:*:project:4711"], "ref_protected": ["true"]}
    loaded = policy(WHOLE)
    found = check_vault(loaded, VAULT, _vault_exports(loaded, bound_claims=bound, bound_claims_type="glob"))
    assert [(one.kind) for one in found] == ["wider"]
    assert found[0].witness is not None
    assert found[0].witness["sub"] == "environment:production:grant:0:issuer:0:project:4711"
    exact = {**bound, "sub": ["environment:production:grant:warehouse:issuer:gitlab:project:4711*"]}
    longer = check_vault(loaded, VAULT, _vault_exports(loaded, bound_claims=exact, bound_claims_type="glob"))
    assert longer[0].witness is not None
    assert longer[0].witness["sub"].startswith(SUBJECT)


@pytest.mark.parametrize(
    ("bound", "claim", "value"),
    [
        ({"sub": [SUBJECT], "ref_protected": "true", "ref_path": "refs/heads/other"}, "ref_path", "refs/heads/main"),
        ({"sub": [SUBJECT.replace("4711", "4712")], "ref_protected": "true"}, "project_id", "4711"),
        ({"sub": [SUBJECT], "ref_protected": True}, "ref_protected", True),
        ({"sub": [SUBJECT], "ref_protected": "true", "namespace_id": "72"}, "project_id", "4711"),
    ],
)
def test_a_role_that_refuses_a_job_of_the_policy_is_shown_with_the_job(bound: dict[str, Any], claim: str, value: object) -> None:
    """A boolean in Vault never equals the text that an assertion has."""
    loaded = policy(WHOLE)
    found = check_vault(loaded, VAULT, _vault_exports(loaded, bound_claims=bound))
    narrower = [one for one in found if one.kind == "narrower"]
    assert [one.what for one in narrower] == ["it refuses a job of production that the policy gives warehouse"]
    assert narrower[0].witness is not None
    assert narrower[0].witness[claim] == value


def test_a_role_that_binds_a_ref_that_the_policy_pins_too_is_not_narrower() -> None:
    assert _found(bound_claims={"sub": [SUBJECT], "ref_protected": "true", "ref_path": "refs/heads/main"}) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"token_explicit_max_ttl": 90000}, "its tokens may live for 90000 s"),
        ({"token_explicit_max_ttl": 0}, "its tokens may live for no end"),
        ({"token_ttl": 3600}, "its tokens live more than 1800 s without the broker"),
        ({"token_period": 60}, "its tokens live more than 1800 s without the broker"),
        (
            {"token_policies": ["credbroker-etl-production", "root-ish"]},
            "its tokens have policies that are not rendered: root-ish",
        ),
    ],
)
def test_tokens_that_are_more_than_the_rendered_ones_are_wider(changes: dict[str, Any], what: str) -> None:
    found = _found(**changes)
    assert [kind for kind, _ in found] == ["wider"]
    assert found[0][1].startswith(what)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"role_type": "oidc"}, "cannot be compared: role_type is 'oidc'"),
        ({"bound_audiences": ["https://vault.example.com", "x"]}, "cannot be compared: it takes several audiences"),
        ({"bound_claims": {"/environment": "production"}}, "cannot be compared: bound_claims has the JSON pointer"),
        ({"bound_claims": {"sub": "a[b*"}, "bound_claims_type": "glob"}, "cannot be compared: the pattern 'a[b*'"),
    ],
)
def test_what_is_not_understood_is_said_and_not_passed_over(changes: dict[str, Any], what: str) -> None:
    found = _found(**changes)
    assert found[0][0] == "unknown"
    assert found[0][1].startswith(what)


def test_a_role_for_another_audience_refuses_everybody() -> None:
    assert [kind for kind, _ in _found(bound_audiences=["https://elsewhere.example.com"])] == ["narrower"]


def test_missing_and_additional_roles_are_told() -> None:
    loaded = policy(WHOLE)
    exports = _vault_exports(loaded)
    exports["etl-old"] = exports.pop("etl-production")
    found = check_vault(loaded, VAULT, exports)
    assert [(one.role, one.kind) for one in found] == [("etl-old", "wider"), ("etl-production", "missing")]


def test_the_upkeep_role_is_for_the_broker_alone() -> None:
    loaded = policy(WHOLE)
    exports = _vault_exports(loaded)
    exports["credbroker-maintenance"]["data"]["bound_subject"] = ""
    assert [one.what for one in check_vault(loaded, VAULT, exports)] == ["it admits jobs, and is for the broker's upkeep alone"]
    exports["credbroker-maintenance"]["data"]["bound_subject"] = SUBJECT
    found = check_vault(loaded, VAULT, exports)
    assert [one.kind for one in found] == ["wider", "narrower"]
    exports = _vault_exports(loaded, bound_claims={}, bound_subject="broker:maintenance")
    assert "it admits the broker's own upkeep assertion" in [one.what for one in check_vault(loaded, VAULT, exports)]


# --- AWS ------------------------------------------------------------------------------------------------------------------


def _trust(**changes: Any) -> dict[str, Any]:
    """The rendered trust policies, with the condition operators of production replaced."""
    (account,) = aws(policy(WHOLE), AWS)
    exports = {role.name: json.loads(json.dumps(role.trust)) for role in account.roles}
    statement = exports["etl-production"]["Statement"][0]
    for operator, keys in changes.items():
        statement["Condition"][operator] = keys
    return exports


HOST = "broker.example.com"
EQUALS = {f"{HOST}:aud": "sts.amazonaws.com", f"{HOST}:sub": SUBJECT.replace("warehouse", "lake")}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"StringEquals": {**EQUALS, "aws:RequestTag/ref_protected": "true"}}, []),
        ({"StringEquals": EQUALS}, ["wider"]),
        ({"StringEquals": {f"{HOST}:aud": "sts.amazonaws.com"}}, ["wider", "wider"]),  # the upkeep assertion too
        ({"StringEquals": {**EQUALS, "aws:RequestTag/ref_protected": "false"}}, ["wider", "narrower"]),
        ({"StringEquals": {**EQUALS, f"{HOST}:aud": "other"}}, ["narrower"]),
        ({"StringEquals": {**EQUALS, "aws:PrincipalOrgID": "o-1"}}, ["unknown"]),
        ({"StringLike": {f"{HOST}:sub": "environment:?:*"}}, ["unknown"]),
        ({"StringLike": {"sts:RoleSessionName": "x-*"}}, ["unknown"]),
        ({"Null": {"aws:RequestTag/environment": "false"}}, ["unknown"]),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["environment"]}}, ["unknown"]),
        (
            {
                "StringEquals": {f"{HOST}:aud": "sts.amazonaws.com", "aws:RequestTag/ref_protected": "true"},
                "StringLike": {f"{HOST}:sub": "environment:production:grant:lake:*"},
            },
            ["wider"],
        ),
    ],
)
def test_a_deployed_trust_policy_is_compared(changes: dict[str, Any], kinds: list[str]) -> None:
    assert [one.kind for one in check_aws(policy(WHOLE), AWS, _trust(**changes))] == kinds


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"Principal": {"AWS": "arn:aws:iam::111122223333:root"}}, "which is not the broker's provider alone"),
        ({"Action": "sts:*"}, "allows sts:*"),
        ({"Effect": "Deny"}, "is no plain Allow"),
        ({"NotAction": "s3:*"}, "is no plain Allow"),
    ],
)
def test_a_trust_policy_that_says_something_else_is_not_compared(changes: dict[str, Any], what: str) -> None:
    exports = _trust()
    exports["etl-production"]["Statement"][0] |= changes
    (found,) = check_aws(policy(WHOLE), AWS, exports)
    assert found.kind == "unknown"
    assert found.what.endswith(what)


def test_without_the_right_to_tag_nobody_gets_in() -> None:
    exports = _trust()
    exports["etl-production"]["Statement"][0]["Action"] = ["sts:AssumeRoleWithWebIdentity"]
    assert [one.kind for one in check_aws(policy(WHOLE), AWS, exports)] == ["narrower"]
    exports["etl-production"]["Statement"][0]["Action"] = ["sts:AssumeRole"]
    assert [one.kind for one in check_aws(policy(WHOLE), AWS, exports)] == ["narrower"]
    assert [one.kind for one in check_aws(policy(WHOLE), AWS, {**exports, "etl-production": {}})] == ["unknown"]


# --- text -----------------------------------------------------------------------------------------------------------------


def test_what_a_job_has_to_say_for_each_environment() -> None:
    import yaml

    text = gitlab(policy(WHOLE), "https://broker.example.com")
    jobs = yaml.safe_load(text)
    token = {"CREDBROKER_ID_TOKEN": {"aud": "https://broker.example.com"}}
    assert jobs == {
        ".credbroker-production": {"id_tokens": token, "environment": {"name": "production", "action": "access"}},
        ".credbroker-review": {"id_tokens": token},
    }
    assert '#   ref_path: not "refs/heads/main"' in text


def test_kv_paths_are_read_where_the_engine_has_them() -> None:
    for engine, path, wanted in (
        ("kv2", "kv/{environment}/{project_id}/**", "kv/data/production/4711/*"),
        ("kv2", "kv/{environment}/{job_id}/*", "kv/data/production/+/+"),
        ("kv1", "kv/{environment}/a", "kv/production/a"),
        ("lease", "database/creds/etl", "database/creds/etl"),
    ):
        grant = '[[grant]]\nname = "x"\nenvironments = ["production"]\n[grant.vault]\nrole = "r"\n'
        grant += f'path = "{path}"\nengine = "{engine}"\n'
        assert list(vault(policy(HEAD + PRODUCTION + grant), VAULT).policies["credbroker-r"]) == [wanted]


def test_the_files_of_vault_name_each_other() -> None:
    written = files(vault(policy(WHOLE), VAULT))
    for name in written:
        if name.endswith((".hcl", ".json")) and not (name.startswith("policy-") and name.endswith(".json")):
            assert name in written["apply.sh"], name
            assert name in written["credbroker.tf"], name
    assert written["owners.sql"].endswith('CREATE ROLE "etl-production" NOLOGIN;\n')
    config = json.loads(written["auth_jwt_config.json"])
    assert (config["bound_issuer"], config["oidc_discovery_url"]) == (VAULT.issuer_url, VAULT.issuer_url)


def test_grants_of_another_upstream_are_left_out() -> None:
    text = WHOLE.replace('role = "etl-{environment}"', 'role = "etl-{environment}"\nupstream = "vault-two"')
    assert ROLE in vault(policy(text), replace(VAULT, upstream="vault-two")).writes
    assert ROLE not in vault(policy(text), replace(VAULT, upstream="vault-one", maintenance_role=None)).writes


def test_a_role_that_cannot_be_listed_is_refused() -> None:
    with pytest.raises(Misconfigured) as one:
        vault(policy(WHOLE.replace('role = "etl-{environment}"', 'role = "etl-{job_id}"')), VAULT)
    assert "'etl-{job_id}' has {job_id}, so its roles cannot be listed" in one.value.public


# --- commands -------------------------------------------------------------------------------------------------------------


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["policy", "render", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(WHOLE)
    (tmp_path / "lake.json").write_text('{"Version": "2012-10-17", "Statement": []}'.replace("[]", '[{"Effect": "Allow"}]'))
    return path


def test_the_commands_write_files_or_print_them(file: Path, tmp_path: Path) -> None:
    common = ("--issuer-url", "https://broker.example.com/")
    ran = _run("vault", file, *common, "--audience", "https://v", "--out", tmp_path / "vault")
    assert ran.exit_code == 0, ran.output
    assert json.loads((tmp_path / "vault/auth_jwt_config.json").read_text())["bound_issuer"] == "https://broker.example.com"
    ran = _run("aws", file, *common, "--out", tmp_path / "aws")
    assert (tmp_path / "aws/111122223333/etl-review.trust.json").exists()
    assert "# --- 111122223333/provider.json" in _run("aws", file, *common).stdout
    assert _run("gitlab", file, "--audience", "https://broker.example.com").stdout.startswith("# Jobs that")
    assert "vault delete auth/jwt/role/etl-production" in _run("vault", file, *common, "--audience", "x", "--stop").stdout
    assert "delete-open-id-connect-provider" in _run("aws", file, *common, "--stop").stdout
    (tmp_path / "taken").write_text("")
    assert _run("aws", file, *common, "--out", tmp_path / "taken" / "x").exit_code == 78


def test_an_issuer_url_that_is_none_is_refused(file: Path) -> None:
    ran = _run("aws", file, "--issuer-url", "http://broker.example.com")
    assert ran.exit_code == 78
    assert "is no https URL" in ran.stderr


def test_the_check_of_exports_says_proved_or_fails(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    arguments = ("vault", file, "--issuer-url", VAULT.issuer_url, "--audience", VAULT.audience, "--check", folder)
    assert "has no ROLE.json in it" in _run(*arguments).stderr
    for name, body in _vault_exports(policy(WHOLE)).items():
        (folder / f"{name}.json").write_text(json.dumps(body))
    ran = _run(*arguments)
    assert (ran.exit_code, ran.stdout.startswith("proved: ")) == (0, True)
    (folder / "etl-production.json").write_text(json.dumps(_vault_exports(policy(WHOLE), bound_claims={})["etl-production"]))
    ran = _run(*arguments)
    assert ran.exit_code == 1
    assert 'wider: role etl-production: it admits what the policy gives to nobody\n  {"sub": "environment:' in ran.stdout
    (folder / "broken.json").write_text("[")
    assert _run(*arguments).exit_code == 78
    trusts = tmp_path / "trusts"
    trusts.mkdir()
    for name, body in _trust().items():
        (trusts / f"{name}.json").write_text(json.dumps(body))
    assert _run("aws", file, "--issuer-url", AWS.issuer_url, "--check", trusts).exit_code == 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vault", ("--issuer-url", "https://broker.example.com", "--audience", "https://vault.example.com:8200")),
        ("aws", ("--issuer-url", "https://broker.example.com")),
        ("gitlab", ("--audience", "https://broker.example.com")),
    ],
)
def test_the_examples_upstream_files_are_what_the_commands_write(kind: str, options: tuple[str, ...], tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[3] / "deploy/policy"
    assert _run(kind, example / "policy.toml", *options, "--out", tmp_path).exit_code == 0
    kept = {path.relative_to(example / kind): path.read_text() for path in (example / kind).rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == kept


_EXAMPLE = (Path(__file__).resolve().parents[3] / "deploy/policy/policy.toml").read_text()
_NAMESPACE = WHOLE.replace('project_id = ["4711"]', "").replace('"gitlab"', '"gitlab"\nwhen.namespace_id = "72"')
_BY_PROJECT = WHOLE.replace('role = "etl-{environment}"', 'role = "etl-{environment}-{project_id}"')
_SEVERAL = WHOLE.replace('["4711"]', '["4711", "4712"]')


@pytest.mark.parametrize("text", [_EXAMPLE, _NAMESPACE, _BY_PROJECT, _SEVERAL])
def test_whatever_is_rendered_is_proved_to_be_what_the_policy_says(text: str) -> None:
    loaded = policy(text)
    exports = {path.rsplit("/", 1)[1]: body for path, body in vault(loaded, VAULT).writes.items() if "auth/jwt/role/" in path}
    assert check_vault(loaded, VAULT, exports) == []
    trusts = {role.name: role.trust for account in aws(loaded, AWS) for role in (*account.roles, account.revoke) if role}
    assert check_aws(loaded, AWS, trusts) == []
