"""What `policy render aws` writes, applied: trust by the strict STS, permissions by MiniStack's IAM.

Each environment gets what it should, and is refused what it should not.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from msgspec import structs

from broker.assertions import role_session_name, session_tags, source_identity
from broker.demo.iam import Account, OidcProvider, Role
from broker.demo.ministack import Keys, MiniStack
from broker.demo.sts import StrictSts
from broker.errors import Misconfigured
from broker.policy.language import parse
from broker.policy.model import Policy
from broker.policy.render_aws import AwsAccount, AwsSide, aws, files, stop
from tests.fakes.aws import ACCOUNT, REGION, TAGS, Issuer, running_ministack
from tests.fakes.workloads import workload

BUCKET = "acme-data"
POLICY = """
version = 1
project_id = ["4711"]

[[environment]]
name = "production"
when.issuer = "gitlab"
when.ref_path = "refs/heads/main"
when.ref_protected = true

[[environment]]
name = "review"
when.issuer = "gitlab"
when.ref_path = "refs/heads/**"
unless.ref_path = "refs/heads/main"

[[grant]]
name = "lake"
environments = ["production", "review"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"
session_policy = "lake.json"
ttl = "2h"
"""
LAKE = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/{{environment}}/*"},
        {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{BUCKET}/{{environment}}/out/{{project_id}}/*"},
    ],
}


def loaded(text: str = POLICY) -> Policy:
    return parse(text, "policy.toml", lambda _: json.dumps(LAKE))


@dataclass
class Site:
    issuer: Issuer
    sts: StrictSts
    stack: MiniStack
    rendered: AwsAccount

    def session(
        self, role: str, environment: str, *, grant: str = "lake", project: str = "4711", protected: str = "true"
    ) -> Keys:
        """A session for the broker's word for this. Raises ClientError."""
        tags = TAGS | {"environment": environment, "grant": grant, "project_id": project, "ref_protected": protected}
        claims: dict[str, Any] = {
            "https://aws.amazon.com/tags": {
                "principal_tags": {key: [value] for key, value in tags.items()},
                "transitive_tag_keys": list(tags),
            }
        }
        token = self.issuer.token(
            sub=f"environment:{environment}:grant:{grant}:issuer:gitlab:project:{project}",
            **claims,
        )
        return self.assumed(role, token, "gl-4711-987654321-abcdefgh")

    def assumed(self, role: str, token: str, name: str) -> Keys:
        config = Config(signature_version=UNSIGNED, proxies={}, retries={"total_max_attempts": 1})
        client = boto3.Session().client("sts", region_name=REGION, endpoint_url=self.sts.url, config=config)
        try:
            answer = client.assume_role_with_web_identity(
                RoleArn=f"arn:aws:iam::{ACCOUNT}:role/{role}", RoleSessionName=name, WebIdentityToken=token, DurationSeconds=900
            )["Credentials"]
        finally:
            client.close()
        return Keys(
            access_key_id=answer["AccessKeyId"],
            secret_access_key=answer["SecretAccessKey"],
            session_token=answer["SessionToken"],
        )

    @contextmanager
    def client(self, service: str, keys: Keys) -> Iterator[Any]:
        client = self.stack.client(service, keys)
        yield client
        client.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_ministack() as stack, Issuer() as issuer:
        (rendered,) = aws(loaded(), AwsSide(issuer_url=issuer.url))
        account = Account(ACCOUNT)
        account.put_provider(OidcProvider(url=rendered.provider["Url"], client_ids=tuple(rendered.provider["ClientIDList"])))
        assert rendered.revoke is not None
        for role in (*rendered.roles, rendered.revoke):
            # MiniStack knows tags in conditions and expands none (reference/aws.md 4): here this session's is written in.
            expanded = json.loads(json.dumps(role.permissions).replace("${aws:PrincipalTag/project_id}", "4711"))
            made = Role(name=role.name, trust=role.trust, permissions=expanded, max_seconds=role.max_seconds)
            assert account.put_role(made) == role.arn
            stack.put_role(made)
        stack.create_bucket(BUCKET)
        for environment in ("production", "review"):
            stack.put_object(BUCKET, f"{environment}/seed", b"seed")
        with StrictSts(account, stack.mint, region=REGION) as sts:
            yield Site(issuer, sts, stack, rendered)


def refused(call: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize(("environment", "other"), [("production", "review"), ("review", "production")])
def test_each_environment_reaches_its_own_prefix_and_no_other(site: Site, environment: str, other: str) -> None:
    keys = site.session(f"etl-{environment}", environment)
    with site.client("s3", keys) as s3:
        s3.get_object(Bucket=BUCKET, Key=f"{environment}/seed")["Body"].close()
        s3.put_object(Bucket=BUCKET, Key=f"{environment}/out/4711/x", Body=b"x")
        assert refused(lambda: s3.get_object(Bucket=BUCKET, Key=f"{other}/seed")) == "AccessDenied"
        assert refused(lambda: s3.put_object(Bucket=BUCKET, Key=f"{environment}/out/4712/x", Body=b"x")) == "AccessDenied"
        assert refused(lambda: s3.put_object(Bucket=BUCKET, Key=f"{environment}/seed", Body=b"x")) == "AccessDenied"


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("etl-production", {"environment": "review"}),
        ("etl-review", {"environment": "production"}),
        ("etl-production", {"environment": "production", "grant": "other"}),
        ("etl-production", {"environment": "production", "project": "4712"}),
        ("etl-production", {"environment": "production", "protected": "false"}),
        ("credbroker-revoke", {"environment": "production"}),
    ],
)
def test_an_assertion_for_something_else_is_refused(site: Site, role: str, said: dict[str, str]) -> None:
    assert refused(lambda: site.session(role, **said)) == "AccessDenied"


def test_a_ref_that_need_not_be_protected_need_not_be(site: Site) -> None:
    assert site.session("etl-review", "review", protected="false").access_key_id
    assert site.session("etl-review", "review", protected="true").access_key_id


def test_a_session_cannot_reach_for_more(site: Site) -> None:
    with site.client("iam", site.session("etl-production", "production")) as iam:
        refused(lambda: iam.create_user(UserName="more"))
    with pytest.raises(ClientError):
        site.stack.client("iam").get_user(UserName="more")


def test_the_revoke_role_writes_a_deny_on_the_listed_roles_and_does_nothing_else(site: Site) -> None:
    token = site.issuer.token(
        sub="broker:maintenance", drop=("https://aws.amazon.com/tags", "https://aws.amazon.com/source_identity")
    )
    keys = site.assumed("credbroker-revoke", token, "credbroker-revoke")
    assert refused(lambda: site.assumed("etl-production", token, "credbroker-revoke")) == "AccessDenied"
    statement = {
        "Effect": "Deny",
        "Action": "*",
        "Resource": "*",
        "Condition": {"StringLike": {"aws:userid": "*:gl-4711-987654321-abcdefgh"}},
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    victim = site.session("etl-review", "review")
    with site.client("iam", keys) as iam, site.client("s3", victim) as s3:
        s3.get_object(Bucket=BUCKET, Key="review/seed")["Body"].close()
        iam.put_role_policy(RoleName="etl-review", PolicyName="cut", PolicyDocument=document)
        assert refused(lambda: s3.get_object(Bucket=BUCKET, Key="review/seed")) == "AccessDenied"
        iam.delete_role_policy(RoleName="etl-review", PolicyName="cut")
        refused(lambda: iam.put_role_policy(RoleName="credbroker-revoke", PolicyName="cut", PolicyDocument=document))
        refused(lambda: iam.delete_role(RoleName="etl-review"))
    with site.client("s3", keys) as s3:
        assert refused(lambda: s3.get_object(Bucket=BUCKET, Key="review/seed")) == "AccessDenied"


def test_the_provider_and_trust_policies_are_what_iam_takes(site: Site) -> None:
    iam = site.stack.client("iam")
    made = iam.create_open_id_connect_provider(**site.rendered.provider)["OpenIDConnectProviderArn"]
    iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=made)
    for role in site.rendered.roles:
        iam.update_assume_role_policy(RoleName=role.name, PolicyDocument=json.dumps(role.trust))
        assert iam.get_role(RoleName=role.name)["Role"]["MaxSessionDuration"] == 7200
    # As it was: in here only the minter may assume a role.
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/strict-sts"},
        "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
    }
    for role in site.rendered.roles:
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        iam.update_assume_role_policy(RoleName=role.name, PolicyDocument=document)


def test_stop_takes_the_rights_of_sessions_that_there_are(site: Site) -> None:
    lines = stop(loaded(), AwsSide(issuer_url="https://broker.example.com"))
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/broker.example.com"
    assert lines[:2] == [
        f"aws iam delete-open-id-connect-provider --open-id-connect-provider-arn {provider}",
        'NOW="$(date -u +%Y-%m-%dT%H:%M:%SZ)"',
    ]
    assert len(lines) == 5
    keys = site.session("etl-review", "review")
    iam = site.stack.client("iam")
    line = next(line for line in lines if "--role-name etl-review " in line)
    document = line.split("--policy-document ")[1].strip('"').replace('\\"', '"').replace("$NOW", "2999-01-01T00:00:00Z")
    iam.put_role_policy(RoleName="etl-review", PolicyName="AWSRevokeOlderSessions", PolicyDocument=document)
    with site.client("s3", keys) as s3:
        assert refused(lambda: s3.get_object(Bucket=BUCKET, Key="review/seed")) == "AccessDenied"
    iam.delete_role_policy(RoleName="etl-review", PolicyName="AWSRevokeOlderSessions")


# --- what is written ------------------------------------------------------------------------------------------------------


def test_a_namespace_is_admitted_by_a_pattern_that_ends_in_the_project() -> None:
    text = POLICY.replace('project_id = ["4711"]', "").replace(
        'when.issuer = "gitlab"', 'when.issuer = "gitlab"\nwhen.namespace_id = "72"'
    )
    (account,) = aws(loaded(text), AwsSide(issuer_url="https://broker.example.com"))
    (statement,) = account.roles[0].trust["Statement"]
    assert statement["Condition"]["StringLike"]["broker.example.com:sub"] == [
        "environment:production:grant:lake:issuer:gitlab:project:*"
    ]
    assert "broker.example.com:sub" not in statement["Condition"]["StringEquals"]


def test_a_role_for_rules_that_differ_in_protection_is_refused() -> None:
    """It would admit an unprotected ref where the policy does not."""
    with pytest.raises(Misconfigured) as one:
        aws(loaded(POLICY.replace("etl-{environment}", "etl")), AwsSide(issuer_url="https://broker.example.com"))
    assert "lake@production, lake@review, of which some need a protected ref" in one.value.public


@pytest.mark.parametrize("name", ["etl-{job_id}", "etl-{project_id}"])
def test_a_role_that_cannot_be_listed_is_refused(name: str) -> None:
    text = POLICY.replace('project_id = ["4711"]', "").replace(
        'when.issuer = "gitlab"', 'when.issuer = "gitlab"\nwhen.namespace_id = "72"'
    )
    with pytest.raises(Misconfigured) as one:
        aws(loaded(text.replace("etl-{environment}", name)), AwsSide(issuer_url="https://broker.example.com"))
    assert "so its roles cannot be listed" in one.value.public
    if name == "etl-{project_id}":
        pinned = POLICY.replace("etl-{environment}", "{environment}-{project_id}")
        (account,) = aws(loaded(pinned), AwsSide(issuer_url="https://broker.example.com"))
        assert [role.name for role in account.roles] == ["production-4711", "review-4711"]


def test_a_trust_policy_that_iam_would_not_take_is_refused() -> None:
    many = json.dumps([str(n) for n in range(4000, 4080)])
    with pytest.raises(Misconfigured) as one:
        aws(loaded(POLICY.replace('["4711"]', many)), AwsSide(issuer_url="https://broker.example.com"))
    assert "80 subjects" in one.value.public


@pytest.mark.parametrize(
    ("region", "host", "there"),
    [
        ("", "db.example.eu-west-1.rds.amazonaws.com", "eu-west-1"),
        ('region = "eu-central-1"', "db.example.com", "eu-central-1"),
        ("", "db.example.com", "*"),
    ],
)
def test_a_token_s_role_may_connect_as_its_user_and_no_other(region: str, host: str, there: str) -> None:
    database = f'rds = {{ host = "{host}", user = "etl_{{environment}}_{{project_id}}" }}\n'
    text = POLICY.replace('session_policy = "lake.json"\nttl = "2h"\n', f"{region}\n{database}")
    (account,) = aws(loaded(text), AwsSide(issuer_url="https://broker.example.com"))
    role = next(role for role in account.roles if role.name == "etl-production")
    connect, escalation = role.permissions["Statement"]
    assert connect == {
        "Effect": "Allow",
        "Action": "rds-db:connect",
        "Resource": f"arn:aws:rds-db:{there}:111122223333:dbuser:*/etl_production_${{aws:PrincipalTag/project_id}}",
    }
    assert escalation["Effect"] == "Deny"
    narrowed = POLICY.replace('ttl = "2h"\n', database)
    (account,) = aws(loaded(narrowed), AwsSide(issuer_url="https://broker.example.com"))
    assert "rds-db" not in json.dumps([role.permissions for role in account.roles])


def test_the_files_are_json_and_terraform_for_each_account() -> None:
    written = files(aws(loaded(), AwsSide(issuer_url="https://broker.example.com")))
    assert sorted(written) == [
        "111122223333/credbroker-revoke.permissions.json",
        "111122223333/credbroker-revoke.trust.json",
        "111122223333/credbroker.tf",
        "111122223333/etl-production.permissions.json",
        "111122223333/etl-production.trust.json",
        "111122223333/etl-review.permissions.json",
        "111122223333/etl-review.trust.json",
        "111122223333/provider.json",
    ]
    terraform = written["111122223333/credbroker.tf"]
    for name, text in written.items():
        if name.endswith(".json"):
            json.loads(text)
            assert name == "111122223333/provider.json" or f'file("${{path.module}}/{name.split("/")[1]}")' in terraform


_OTHERS = """
version = 1

[[environment]]
name = "cluster"
when.issuer = "kubernetes"
when."/kubernetes.io/serviceaccount/uid" = "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"

[[grant]]
name = "lake"
environments = ["cluster"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"
session_policy = "lake.json"
"""


def test_a_role_for_service_accounts_takes_theirs_and_no_gitlab_jobs(site: Site) -> None:
    """The same STS, with a second policy's role: `k8s-` sessions of that account's subject, and nothing on a protected ref."""
    (rendered,) = aws(loaded(_OTHERS), AwsSide(issuer_url=site.issuer.url))
    (role,) = rendered.roles
    made = Role(name=role.name, trust=role.trust, permissions=role.permissions, max_seconds=role.max_seconds)
    site.sts.account.put_role(made)
    site.stack.put_role(made)
    who = workload("kubernetes")
    who = structs.replace(who, issuer_name="kubernetes")
    name = role_session_name(who, "abcdefghijklmnopqrstuvwxyz")
    tags = session_tags(who, "cluster", "lake")

    def taken(name: str = name, issuer: str = "kubernetes", **said: str) -> Keys:
        principal = {
            "principal_tags": {key: [value] for key, value in (tags | said).items()},
            "transitive_tag_keys": list(tags),
        }
        claims: dict[str, Any] = {
            "https://aws.amazon.com/tags": principal,
            "https://aws.amazon.com/source_identity": source_identity(who),
        }
        subject = f"environment:cluster:grant:lake:issuer:{issuer}:project:{who.stable_id}"
        return site.assumed("etl-cluster", site.issuer.token(sub=subject, **claims), name)

    assert taken().access_key_id
    assert refused(lambda: taken(name="gl-4711-987654321-abcdefgh")) == "AccessDenied"
    assert refused(lambda: taken(issuer="gitlab")) == "AccessDenied"
    assert refused(lambda: taken(ref_protected="true")) == "AccessDenied"
    assert refused(lambda: taken(environment="production")) == "AccessDenied"
