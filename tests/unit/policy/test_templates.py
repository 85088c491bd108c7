"""Grants with a job's values in them: what fits goes in unchanged, what does not is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Code, Refused
from broker.policy.language import PolicyInvalid, parse
from broker.policy.model import Grant
from broker.policy.target import AwsTarget, Rds, VaultTarget
from broker.policy.templates import REGION, fill
from tests.unit.policy.build import HEAD, PRODUCTION, job


def _grant(lines: str, template: str = "") -> Grant:
    text = f'{HEAD}{PRODUCTION}\n[[grant]]\nname = "lake"\nenvironments = ["production"]\n{lines}\n'
    return parse(text, "policy.toml", lambda _: template).grants[0]


def _aws(lines: str = "", template: str = "") -> Grant:
    return _grant('[grant.aws]\nrole_arn = "arn:aws:iam::111122223333:role/etl-{environment}"\n' + lines, template)


def _vault(path: str, role: str = "etl-{environment}") -> Grant:
    return _grant(f'[grant.vault]\nrole = "{role}"\npath = "{path}"\nengine = "kv2"\n')


def _refused(code: Code, words: str, grant: Grant, subpath: str = "", **claims: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        fill(grant, "production", job(**claims), subpath)
    assert caught.value.code is code


def test_an_aws_grant_is_filled_with_the_jobs_own_values() -> None:
    grant = _aws(
        'external_id = "gl-{project_id}-{job_id}"\nregion = "eu-central-1"\nsession_policy = "p.json"\n'
        'policy_arns = ["arn:aws:iam::111122223333:policy/etl-{environment}"]\n',
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Sid": "é", "Condition": {"Bool": {"a:b": true}},\n'
        ' "Resource": ["arn:aws:s3:::lake/{environment}/{project_id}/${aws:PrincipalTag/x}/${*}*"]}]}',
    )
    target = fill(grant, "production", job(), "")
    assert isinstance(target, AwsTarget)
    assert target.role_arn == "arn:aws:iam::111122223333:role/etl-production"
    assert target.external_id == "gl-4711-302"
    assert target.policy_arns == ("arn:aws:iam::111122223333:policy/etl-production",)
    assert target.session_policy is not None
    assert "\n" not in target.session_policy
    assert target.session_policy.isascii()
    statement = json.loads(target.session_policy)["Statement"][0]
    assert statement["Resource"] == ["arn:aws:s3:::lake/production/4711/${aws:PrincipalTag/x}/${*}*"]
    assert statement["Sid"] == "é"
    assert statement["Condition"] == {"Bool": {"a:b": True}}


def test_a_vault_grant_is_filled_with_the_jobs_own_values() -> None:
    target = fill(_vault("secret/{project_id}/{environment}/x-{job_id}"), "production", job(), "")
    assert target == VaultTarget(role="etl-production", path="secret/4711/production/x-302", engine="kv2", upstream=None)


@pytest.mark.parametrize(
    "value", ["*", "a*", "?", "$x", "{x}", 'a"b', "a'b", "a/b", "..", ".", "a.", "", "a b", "ü", "a\n", "a%2e", "\\"]
)
@pytest.mark.parametrize("claim", ["project_id", "job_id"])
def test_a_value_that_could_mean_more_than_itself_is_refused_in_every_target(claim: str, value: str) -> None:
    """Refused where the template uses it. Where it does not, the job's id is no part of anything: other kinds of issuer have ids
    with slashes in them.
    """
    for grant in (
        _aws(f'external_id = "x-{{{claim}}}"'),
        _vault(f"secret/{{{claim}}}"),
        _vault("secret/x", role=f"etl-{{{claim}}}"),
        _aws('session_policy = "p.json"', f'{{"Statement": ["{{{claim}}}"]}}'),
    ):
        fill(grant, "production", job(**{claim: "a-1_b.c"}), "")
        _refused(Code.TEMPLATE_VALUE, f"^{claim} is ", grant, **{claim: value})
    for grant in (_aws(), _vault("secret/x")):
        assert fill(grant, "production", job(**{claim: value}), "") == fill(grant, "production", job(), "")


def test_a_value_that_makes_a_target_too_long_is_refused() -> None:
    """And the sentence for the job says nothing of the policy; the detail for our log does."""
    grant = _grant('[grant.aws]\nrole_arn = "arn:aws:iam::111122223333:role/etl-{project_id}"')
    fill(grant, "production", job(project_id="1" * 60), "")
    with pytest.raises(Refused) as caught:
        fill(grant, "production", job(project_id="1" * 61), "")
    assert caught.value.code is Code.TEMPLATE_VALUE
    assert "111122223333" not in caught.value.public
    assert "is not the ARN of a role" in caught.value.detail


def test_what_sts_takes_at_most_is_taken_and_no_more() -> None:
    """ARNs in every partition, a role's path, the longest external id; each with its refused neighbour."""
    account = "arn:aws:iam::111122223333:"

    def takes(role: str, **more: object) -> bool:
        lines = [f"{name} = {json.dumps(value)}" for name, value in more.items()]
        try:
            _grant("[grant.aws]\n" + "\n".join([f'role_arn = "{role}"', *lines]))
        except PolicyInvalid:
            return False
        return True

    for role in ("arn:aws-us-gov:iam::111122223333:role/ci/data/etl_1+=,.@-x", account + "role/" + "p/" * 249 + "n" * 14):
        assert takes(role)
    for role in (account + "role/" + "p/" * 249 + "n" * 15, account + "user/etl", account + "role/etl*", account + "role//etl"):
        assert not takes(role)
    etl = account + "role/etl"
    assert takes(etl, external_id="x" * 1224)
    assert not takes(etl, external_id="x" * 1225)
    assert takes(etl, policy_arns=[f"{account}policy/p{n}" for n in range(9)] + ["arn:aws:iam::aws:policy/ReadOnlyAccess"])
    assert takes(etl, policy_arns=[account + "policy/" + "p/" * 249 + "n" * 14])
    assert not takes(etl, policy_arns=[account + "policy/" + "p/" * 249 + "n" * 15])


@pytest.mark.parametrize("region", ["eu-central-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1", "ap-southeast-4"])
def test_regions_of_all_partitions_are_regions(region: str) -> None:
    assert REGION.fullmatch(region)


@pytest.mark.parametrize("region", ["", "eu", "eu-central", "eu-central-1.evil.example/", "EU-CENTRAL-1", "eu-central-1\n"])
def test_a_region_is_not_a_way_to_another_host(region: str) -> None:
    """It becomes part of the endpoint's name."""
    assert not REGION.fullmatch(region)


def test_a_session_policy_that_becomes_too_long_is_refused() -> None:
    text = json.dumps({"Statement": ["x" * 2000 + "{project_id}"]}, separators=(",", ":"))
    room = 2048 - len(text) + len("{project_id}")
    grant = _aws('session_policy = "p.json"', text)
    target = fill(grant, "production", job(project_id="1" * room), "")
    assert isinstance(target, AwsTarget)
    assert len(target.session_policy or "") == 2048
    _refused(Code.TEMPLATE_VALUE, "cannot be filled", grant, project_id="1" * (room + 1))


@pytest.mark.parametrize("subpath", ["a", "reports", "a.b", "..a", "a-b_c@d+e=f:g,h~i"])
def test_one_star_admits_one_segment(subpath: str) -> None:
    target = fill(_vault("secret/app/*"), "production", job(), subpath)
    assert isinstance(target, VaultTarget)
    assert target.path == f"secret/app/{subpath}"


def test_one_star_admits_no_more_and_no_less() -> None:
    grant = _vault("secret/app/*")
    _refused(Code.SUBPATH_DENIED, "admits one segment", grant, "a/b")
    _refused(Code.SUBPATH_DENIED, "is a folder; name what is wanted", grant, "")


def test_two_stars_admit_any_depth_but_nothing() -> None:
    grant = _vault("secret/{environment}/**")
    target = fill(grant, "production", job(), "a/b/c")
    assert isinstance(target, VaultTarget)
    assert target.path == "secret/production/a/b/c"
    _refused(Code.SUBPATH_DENIED, "is a folder", grant, "")


@pytest.mark.parametrize(
    "lines", ['[grant.vault]\nrole = "etl"\npath = "secret/x"', '[grant.aws]\nrole_arn = "arn:aws:iam::111122223333:role/x"']
)
def test_a_grant_without_a_wildcard_admits_no_subpath(lines: str) -> None:
    grant = _grant(lines)
    fill(grant, "production", job(), "")
    _refused(Code.SUBPATH_DENIED, "is one credential and has nothing after its name", grant, "a")


@pytest.mark.parametrize(
    "subpath",
    ["..", ".", "a/..", "../a", "a/../b", "a//b", "/a", "a/", "/", "%2e%2e", "a%2fb", "a\0", "a\n", "a\x7f", "a b", "a\\b", "a*",
     "*", "ü", "a?b", "a#b", "．．", "...", "a" * 513],
)  # fmt: skip
def test_a_subpath_that_is_not_plain_is_refused(subpath: str) -> None:
    for path in ("secret/app/**", "secret/app/*", "secret/app"):
        grant = _vault(path)
        _refused(Code.PATH_INVALID, "is not plain", grant, subpath)


@given(st.text(max_size=30) | st.text("./%2ea*", max_size=12))
def test_no_subpath_leaves_its_folder(subpath: str) -> None:
    """Whatever is asked for: a path below the grant's, in one spelling, or a refusal."""
    try:
        target = fill(_vault("secret/app/**"), "production", job(), subpath)
    except Refused as refusal:
        assert refusal.code in (Code.PATH_INVALID, Code.SUBPATH_DENIED)  # noqa: PT017  either outcome is right
        return
    assert isinstance(target, VaultTarget)
    segments = target.path.split("/")
    assert segments[:2] == ["secret", "app"]
    assert len(segments) > 2
    assert all(segment.strip(".") and segment.isascii() and segment.isprintable() for segment in segments)


@given(st.text(max_size=10) | st.text('ab"{}$*?\\,:', max_size=10))
def test_no_value_changes_the_shape_of_a_session_policy(value: str) -> None:
    """A value stays within the text that it stands in, or is refused."""
    grant = _aws('session_policy = "p.json"', '{"Statement": [{"Resource": "lake/{project_id}/*"}]}')
    try:
        target = fill(grant, "production", job(project_id=value), "")
    except Refused:
        return
    assert isinstance(target, AwsTarget)
    assert json.loads(target.session_policy or "") == {"Statement": [{"Resource": f"lake/{value}/*"}]}


def test_the_user_of_a_database_is_filled_and_nothing_else_of_it() -> None:
    host = "db.example.eu-central-1.rds.amazonaws.com"
    grant = _aws(f'rds = {{ host = "{host}", port = 6000, user = "etl_{{environment}}_{{project_id}}" }}')
    target = fill(grant, "production", job(), "")
    assert isinstance(target, AwsTarget)
    assert target.rds == Rds(host=host, port=6000, user="etl_production_4711")
    _refused(Code.TEMPLATE_VALUE, "cannot be filled", grant, project_id="1" * 60)
    _refused(Code.TEMPLATE_VALUE, "project_id is '4711/x'", grant, project_id="4711/x")
