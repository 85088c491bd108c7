"""The AWS upstream against the strict STS with MiniStack behind it, both ways in: what a job gets and reaches, and what not."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer

from broker.assertions import AssertionIssuer
from broker.demo.iam import Role
from broker.demo.ministack import Keys, MiniStack
from broker.demo.sts import Fault, StrictSts
from broker.errors import Broken, BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.lease import UpstreamIds
from broker.moment import Moment
from broker.policy.target import AwsTarget, Rds, VaultTarget
from broker.signing import FileSigner, Keyring, TimedSigner
from broker.upstream import Held, Minted, Order
from broker.upstreams import aws
from broker.upstreams.aws import AwsSettings, AwsUpstream
from broker.upstreams.pool import UpstreamPool
from tests.fakes.aws import (
    ACCOUNT,
    AUDIENCE,
    BROKER,
    REGION,
    TAGS,
    MadeUp,
    Publication,
    an_account,
    federated_trust,
    lake_permissions,
    running_ministack,
    signed_trust,
)
from tests.strategies import identity

BUCKET = "acme-data"
VIA = ["issuer", "assume-role"]
SESSION = "abcdefghijklmnopqrstuvwxyz"
ENVIRONMENTS = ("production", "review")


def clock() -> Moment:
    return Moment(datetime.now(UTC), time.monotonic())


def a_keyring() -> Keyring:
    return Keyring([TimedSigner(FileSigner(ec.generate_private_key(ec.SECP256R1())), datetime(2026, 1, 1, tzinfo=UTC))])


@dataclass
class World:
    """A broker's issuer published, an account with roles for both ways in, S3 behind it."""

    url: str
    issuer: AssertionIssuer
    keyring: Keyring
    sts: StrictSts
    stack: MiniStack


def put_role(sts: StrictSts, stack: MiniStack, role: Role) -> str:
    stack.put_role(role)
    return sts.account.put_role(role)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Publication() as published, running_ministack() as stack:
        keyring = a_keyring()
        issuer = AssertionIssuer(published.url, keyring, clock)
        published.serve(lambda path: {"/jwks": issuer.jwks, "/.well-known/openid-configuration": issuer.discovery}[path]())
        with StrictSts(an_account(published.url), stack.mint, region=REGION) as sts:
            stack.create_bucket(BUCKET)
            stack.create_bucket(BUCKET + "-other")
            stack.put_object(BUCKET + "-other", "production/in/a", b"other")
            for environment in ENVIRONMENTS:
                protected = "true" if environment == "production" else "false"
                stack.put_object(BUCKET, f"{environment}/in/a", environment.encode())
                may = lake_permissions(environment, BUCKET)
                trust = federated_trust(published.url, environment, protected=protected)
                put_role(sts, stack, Role(name=f"issuer-{environment}", trust=trust, permissions=may))
                put_role(sts, stack, Role(name=f"assume-role-{environment}", trust=signed_trust(environment), permissions=may))
            yield World(published.url, issuer, keyring, sts, stack)


@pytest.fixture(autouse=True)
def own_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What boto3's default chain finds in the broker's process: with `issuer` it has to be of no account."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", BROKER.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", BROKER.secret_access_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)


@pytest.fixture(scope="module")
def pool() -> Iterator[UpstreamPool]:
    pool = UpstreamPool(8)
    yield pool
    pool.close()


def settings(via: str, url: str, **changes: Any) -> AwsSettings:
    return replace(AwsSettings(name="aws", region=REGION, sts_url=url, via=via, audience=AUDIENCE), **changes)  # type: ignore[arg-type]  # one of VIA


@pytest.fixture(params=VIA)
def via(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream(world: World, via: str, pool: UpstreamPool) -> AwsUpstream:
    return AwsUpstream(settings(via, world.sts.url), world.issuer, pool, clock)


def an_order(via: str, environment: str = "production", **changes: Any) -> Order:
    """What issuing asks for a job of that environment; `target__…` changes the target alone."""
    target = AwsTarget(
        role_arn=f"arn:aws:iam::{ACCOUNT}:role/{via}-{environment}",
        session_policy=None,
        policy_arns=(),
        external_id=None,
        region=None,
        ttl=timedelta(hours=1),
        upstream=None,
    )
    inner = {name.removeprefix("target__"): changes.pop(name) for name in list(changes) if name.startswith("target__")}
    order = Order(
        correlation_id="c-1",
        session_id=SESSION,
        identity=identity() if environment == "production" else identity(claims={"ref_protected": False}),
        environment=environment,
        grant="lake",
        target=replace(target, **inner),
        ttl=timedelta(hours=1),
        login=None,
    )
    return replace(order, **changes)


async def noted(ids: UpstreamIds) -> None:
    raise AssertionError(f"STS has nothing to note in the middle: {ids}")


async def issued(upstream: AwsUpstream, order: Order) -> str:
    """The access key id of what came."""
    return (await upstream.issue(order, noted)).held.ids.access_key_id


def plain(minted: Minted) -> dict[str, str]:
    return {name: value.reveal() for name, value in minted.fields.items()}


def s3(world: World, minted: Minted) -> Any:
    fields = plain(minted)
    return world.stack.client(
        "s3",
        Keys(
            access_key_id=fields["access_key_id"],
            secret_access_key=fields["secret_access_key"],
            session_token=fields["session_token"],
        ),
    )


def reach(world: World, minted: Minted, key: str, *, bucket: str = BUCKET, write: bool = False) -> str:
    """ "ok", or the code with which S3 refuses."""
    client = s3(world, minted)
    try:
        if write:
            client.put_object(Bucket=bucket, Key=key, Body=b"x")
        else:
            client.get_object(Bucket=bucket, Key=key)["Body"].close()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    else:
        return "ok"
    finally:
        client.close()


# --- what a job gets ------------------------------------------------------------------------------------------------


async def test_a_job_gets_a_session_that_says_whose_it_is(upstream: AwsUpstream, via: str) -> None:
    """All five fields of the wire, the ids that CloudTrail will show, an hour's life, and the honest word about revocation."""
    before = datetime.now(UTC)
    minted = await upstream.issue(an_order(via), noted)

    fields = plain(minted)
    assert set(fields) == {"access_key_id", "secret_access_key", "session_token", "account_id", "region"}
    assert all(fields.values())
    assert (fields["account_id"], fields["region"]) == (ACCOUNT, REGION)
    ids = minted.held.ids
    assert ids.access_key_id == fields["access_key_id"]
    assert ids.role == f"arn:aws:iam::{ACCOUNT}:role/{via}-production"
    assert ids.session_name == "gl-4711-302-abcdefgh"
    assert ids.source_identity == "gl-4711-302"
    assert ids.upstream == "aws"
    assert ids.request_id
    assert minted.expires_at is not None
    assert timedelta(minutes=59) < minted.expires_at - before < timedelta(minutes=61)
    assert (minted.renewable, minted.revocable, minted.held.token) == (False, "none", None)
    assert fields["secret_access_key"] not in repr(minted)
    assert fields["session_token"] not in repr(minted)


DATABASE = Rds(host="db.example.eu-west-1.rds.amazonaws.com", port=5432, user="etl_production")


async def test_a_grant_of_a_database_gives_a_token_and_not_the_keys(upstream: AwsUpstream, via: str) -> None:
    """Whose it is CloudTrail knows by the same ids; it lives fifteen minutes, signed for the region of the database."""
    before = datetime.now(UTC)
    minted = await upstream.issue(an_order(via, target__rds=DATABASE, target__ttl=timedelta(minutes=15)), noted)

    fields = plain(minted)
    token = fields.pop("password")
    assert fields == {"username": "etl_production", "host": DATABASE.host, "port": "5432"}
    ids = minted.held.ids
    credential = f"X-Amz-Credential={ids.access_key_id}%2F{before:%Y%m%d}%2Feu-west-1%2Frds-db%2Faws4_request"
    assert token.startswith(f"{DATABASE.host}:5432/?Action=connect&DBUser=etl_production&")
    assert credential in token
    assert (ids.session_name, ids.source_identity) == ("gl-4711-302-abcdefgh", "gl-4711-302")
    assert ids.request_id
    assert minted.expires_at is not None
    assert timedelta(minutes=14) < minted.expires_at - before <= timedelta(minutes=15, seconds=2)
    assert (minted.renewable, minted.revocable, minted.held.token) == (False, "none", None)
    assert token not in repr(minted)


async def test_a_token_is_for_the_region_of_the_grant_then_of_the_database_then_of_the_upstream(
    upstream: AwsUpstream, via: str
) -> None:
    for region, host, signed in (
        (REGION, DATABASE.host, REGION),
        (None, DATABASE.host, "eu-west-1"),
        (None, "db.example.com", REGION),
    ):
        order = an_order(via, target__rds=replace(DATABASE, host=host), target__region=region)
        token = plain(await upstream.issue(order, noted))["password"]
        assert f"%2F{signed}%2Frds-db%2F" in token


async def test_the_plan_names_what_the_session_will_be_called(upstream: AwsUpstream, via: str) -> None:
    """It goes into the intent before anything is asked, so that a session nobody saw can be found."""
    planned = upstream.plan(an_order(via))
    minted = await upstream.issue(an_order(via), noted)
    assert replace(minted.held.ids, access_key_id="", request_id="") == planned
    assert (upstream.name, upstream.kind) == ("aws", "aws")


async def test_every_issue_is_a_session_of_its_own(upstream: AwsUpstream, via: str) -> None:
    """Many at once over one client, and nobody gets somebody else's."""
    orders = [an_order(via, session_id=f"{n:08d}rest") for n in range(24)]
    minted = await asyncio.gather(*(upstream.issue(order, noted) for order in orders))
    assert len({m.held.ids.access_key_id for m in minted}) == len(orders)
    assert [m.held.ids.session_name for m in minted] == [f"gl-4711-302-{n:08d}" for n in range(24)]
    assert len(upstream._clients) == 1


async def test_a_session_is_neither_renewed_nor_revoked(upstream: AwsUpstream, via: str) -> None:
    """It lapses. A renewal is refused, so that a new one is issued; a revocation has nothing to do."""
    held = Held(ids=UpstreamIds(access_key_id="ASIAIOSFODNN7EXAMPLE"), token=None)
    with pytest.raises(Refused, match="cannot be prolonged"):
        await upstream.renew(an_order(via), held)
    await upstream.revoke([held])


# --- what it can reach ----------------------------------------------------------------------------------------------


async def test_production_reads_and_writes_its_own_prefix_and_no_other(world: World, upstream: AwsUpstream, via: str) -> None:
    minted = await upstream.issue(an_order(via), noted)
    assert reach(world, minted, "production/in/a") == "ok"
    assert reach(world, minted, "production/out/b", write=True) == "ok"
    assert reach(world, minted, "review/in/a") == "AccessDenied"
    assert reach(world, minted, "production/in/a", bucket=BUCKET + "-other") == "AccessDenied"


async def test_review_cannot_read_production(world: World, upstream: AwsUpstream, via: str) -> None:
    """Not with its own credential at S3; what it is for, it can."""
    minted = await upstream.issue(an_order(via, "review"), noted)
    assert reach(world, minted, "review/in/a") == "ok"
    assert reach(world, minted, "production/in/a") == "AccessDenied"
    assert reach(world, minted, "production/out/c", write=True) == "AccessDenied"


async def test_a_session_policy_narrows_the_role(world: World, upstream: AwsUpstream, via: str) -> None:
    """Its twin without one, two tests above, may write."""
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject",'
        f'"Resource":"arn:aws:s3:::{BUCKET}/production/in/*"}}]}}'
    )
    minted = await upstream.issue(an_order(via, target__session_policy=policy), noted)
    assert reach(world, minted, "production/in/a") == "ok"
    assert reach(world, minted, "production/out/b", write=True) == "AccessDenied"


async def test_managed_policies_narrow_the_role_too(world: World, upstream: AwsUpstream, via: str) -> None:
    document = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:PutObject",'
        f'"Resource":"arn:aws:s3:::{BUCKET}/production/out/*"}}]}}'
    )
    made = world.stack.client("iam").create_policy(PolicyName=f"write-{via}", PolicyDocument=document)
    minted = await upstream.issue(an_order(via, target__policy_arns=(made["Policy"]["Arn"],)), noted)
    assert reach(world, minted, "production/out/b", write=True) == "ok"
    assert reach(world, minted, "production/in/a") == "AccessDenied"


async def test_permissions_can_hang_on_the_jobs_tags(world: World, upstream: AwsUpstream, via: str) -> None:
    """The tags arrive at the session: what is allowed to one project is not allowed to another through the same role."""
    host = world.url.removeprefix("http://")
    trust = federated_trust(world.url, "production") if via == "issuer" else signed_trust("production")
    if via == "issuer":
        trust["Statement"][0]["Condition"]["StringLike"][f"{host}:sub"] = "environment:production:*"
    permissions = lake_permissions("production", BUCKET)
    permissions["Statement"][0]["Condition"] = {"StringEquals": {"aws:PrincipalTag/project_id": "4711"}}
    arn = put_role(world.sts, world.stack, Role(name=f"{via}-tagged", trust=trust, permissions=permissions))

    own = await upstream.issue(an_order(via, target__role_arn=arn), noted)
    foreign = await upstream.issue(an_order(via, target__role_arn=arn, identity=identity(claims={"project_id": "9"})), noted)
    assert reach(world, own, "production/in/a") == "ok"
    assert reach(world, foreign, "production/in/a") == "AccessDenied"


# --- what STS refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("environment", "role"), [("review", "production"), ("production", "review"), ("production", "nobody")])
async def test_a_role_that_does_not_trust_this_job_is_a_refusal(
    upstream: AwsUpstream, via: str, environment: str, role: str
) -> None:
    """Another environment's role, or none at all. Nothing of the library's error comes along."""
    order = an_order(via, environment, target__role_arn=f"arn:aws:iam::{ACCOUNT}:role/{via}-{role}")
    with pytest.raises(Refused, match="AWS refused this job the role of the grant") as caught:
        await upstream.issue(order, noted)
    assert caught.value.code is Code.UPSTREAM_DENIED
    assert "403 AccessDenied" in caught.value.detail
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "claims",
    [{"ref_protected": False}, {"project_id": "47110"}],
    ids=["an unprotected ref", "another project"],
)
async def test_what_the_assertion_says_decides(world: World, pool: UpstreamPool, claims: dict[str, Any]) -> None:
    """Wrong tag, wrong sub: the trust policy of the production role sees them. The first test of this file is the twin."""
    upstream = AwsUpstream(settings("issuer", world.sts.url), world.issuer, pool, clock)
    with pytest.raises(Refused) as caught:
        await upstream.issue(an_order("issuer", identity=identity(claims=claims)), noted)
    assert "AccessDenied" in caught.value.detail


def yesterday() -> Moment:
    return Moment(datetime.now(UTC) - timedelta(days=1), time.monotonic())


def tomorrow() -> Moment:
    return Moment(datetime.now(UTC) + timedelta(hours=1), time.monotonic())


@pytest.mark.parametrize(
    ("forge", "wire_code"),
    [
        (lambda w: (AssertionIssuer(w.url, a_keyring(), clock), AUDIENCE), "InvalidIdentityToken"),
        (lambda w: (AssertionIssuer("https://elsewhere.example", w.keyring, clock), AUDIENCE), "InvalidIdentityToken"),
        (lambda w: (w.issuer, "vault.example.com"), "InvalidIdentityToken"),
        (lambda w: (AssertionIssuer(w.url, w.keyring, yesterday), AUDIENCE), "ExpiredTokenException"),
        (lambda w: (AssertionIssuer(w.url, w.keyring, tomorrow), AUDIENCE), "InvalidIdentityToken"),
        (lambda w: (w.issuer, AUDIENCE), ""),
    ],
    ids=["a key that is not published", "another issuer", "wrong audience", "expired", "from the future", "the real one"],
)
async def test_an_assertion_that_is_not_the_brokers_is_refused(
    world: World, pool: UpstreamPool, forge: Callable[[World], tuple[AssertionIssuer, str]], wire_code: str
) -> None:
    """And the real one, through the same code, is not."""
    issuer, audience = forge(world)
    upstream = AwsUpstream(settings("issuer", world.sts.url, audience=audience), issuer, pool, clock)
    if not wire_code:
        assert (await upstream.issue(an_order("issuer"), noted)).fields
        return
    with pytest.raises(Refused) as caught:
        await upstream.issue(an_order("issuer"), noted)
    assert caught.value.code is Code.UPSTREAM_DENIED
    assert f"400 {wire_code}" in caught.value.detail
    assert "eyJ" not in caught.value.detail


async def test_an_external_id_reaches_a_role_that_wants_one(world: World, pool: UpstreamPool) -> None:
    trust = signed_trust("production")
    trust["Statement"][0]["Condition"]["StringEquals"]["sts:ExternalId"] = "agreed"
    arn = put_role(world.sts, world.stack, Role(name="outside", trust=trust))
    upstream = AwsUpstream(settings("assume-role", world.sts.url), world.issuer, pool, clock)
    assert await issued(upstream, an_order("assume-role", target__role_arn=arn, target__external_id="agreed"))
    with pytest.raises(Refused):
        await upstream.issue(an_order("assume-role", target__role_arn=arn), noted)


# --- what an operator has to change ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "detail"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODYNOBODYNOBO"}, "InvalidClientTokenId"),
        ({"AWS_SESSION_TOKEN": "stale"}, "InvalidClientTokenId"),
        ({"AWS_PROFILE": "ghost"}, "ProfileNotFound"),
    ],
)
async def test_keys_of_its_own_that_do_not_work_are_a_misconfiguration(
    world: World, pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], detail: str
) -> None:
    """With assume-role; the issuer's way has none, and the same surroundings do not touch it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    signed = AwsUpstream(settings("assume-role", world.sts.url), world.issuer, pool, clock)
    with pytest.raises(Misconfigured) as caught:
        await signed.issue(an_order("assume-role"), noted)
    assert caught.value.code is Code.UPSTREAM_CONFIG
    assert detail in caught.value.detail
    unsigned = AwsUpstream(settings("issuer", world.sts.url), world.issuer, pool, clock)
    assert await issued(unsigned, an_order("issuer"))


async def test_no_keys_at_all_are_a_misconfiguration(world: World, pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    upstream = AwsUpstream(settings("assume-role", world.sts.url), world.issuer, pool, clock)
    with pytest.raises(Misconfigured, match="no AWS credentials of its own"):
        await upstream.issue(an_order("assume-role"), noted)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS", "HTTP_PROXY", "ALL_PROXY"])
async def test_the_environment_cannot_send_the_broker_elsewhere(
    upstream: AwsUpstream, via: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Where STS is, the configuration says alone; a loopback STS is asked without a proxy."""
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert await issued(upstream, an_order(via))


def test_without_a_url_the_regional_endpoint_is_asked(world: World, pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the surroundings prefer; one client for each region."""
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    upstream = AwsUpstream(settings("issuer", "", sts_url=None), world.issuer, pool, clock)
    frankfurt, virginia = upstream._client("eu-central-1"), upstream._client("us-east-1")
    assert frankfurt.meta.endpoint_url == "https://sts.eu-central-1.amazonaws.com"
    assert virginia.meta.endpoint_url == "https://sts.us-east-1.amazonaws.com"
    assert upstream._client("eu-central-1") is frankfurt
    pinned = frankfurt.meta.config
    assert pinned.retries == {"mode": "standard", "total_max_attempts": 3}
    assert (pinned.connect_timeout, pinned.read_timeout, pinned.max_pool_connections) == (3, 5, pool.size)


def test_a_forked_process_makes_a_client_of_its_own(world: World, pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inherited connection can carry another process's answer (`reference/aws.md`, fact 5)."""
    upstream = AwsUpstream(settings("issuer", world.sts.url), world.issuer, pool, clock)
    parents = upstream._client(REGION)
    monkeypatch.setattr(aws.os, "getpid", lambda: 1)  # type: ignore[attr-defined]  # the module under test reads it there
    assert upstream._client(REGION) is not parents


async def test_longer_than_the_role_allows_is_a_misconfiguration(upstream: AwsUpstream, via: str) -> None:
    """The roles here give an hour; the twin asks for that."""
    two = timedelta(hours=2)
    with pytest.raises(Misconfigured) as caught:
        await upstream.issue(an_order(via, ttl=two, target__ttl=two), noted)
    assert "400 ValidationError" in caught.value.detail
    assert await issued(upstream, an_order(via, ttl=two))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"identity": identity(claims={"job_id": "1/2"})}, Refused),
        ({"identity": identity(claims={"pipeline_id": "1#2"})}, Refused),
        ({"identity": identity(claims={"job_id": "1" * 60})}, Refused),
        ({"target": VaultTarget(role="r", path="p", engine="lease", upstream=None)}, Broken),
    ],
)
async def test_what_does_not_fit_is_stopped_before_sts_is_asked(
    world: World, upstream: AwsUpstream, via: str, changes: dict[str, Any], kind: type[BrokerError]
) -> None:
    """At the plan, so that there is no intent either; and at the issue, should somebody skip the plan."""
    order = an_order(via, **changes)
    before = world.sts.requests
    with pytest.raises(kind):
        upstream.plan(order)
    with pytest.raises(kind):
        await upstream.issue(order, noted)
    assert world.sts.requests == before


async def test_a_refusal_of_our_own_issuer_stays_what_it_is(world: World, pool: UpstreamPool) -> None:
    """The assertion is made in the thread; what its maker refuses is not taken for an error of the library."""
    upstream = AwsUpstream(settings("issuer", world.sts.url), world.issuer, pool, clock)
    with pytest.raises(Refused, match="cannot carry") as caught:
        await upstream.issue(an_order("issuer", identity=identity(issuer_name="git:lab")), noted)
    assert caught.value.code is Code.TEMPLATE_VALUE


def test_an_external_id_that_would_be_ignored_is_a_misconfiguration(world: World, pool: UpstreamPool) -> None:
    """AssumeRoleWithWebIdentity has none; silence would be taken for protection."""
    order = {via: an_order(via, target__external_id="agreed") for via in VIA}
    unsigned = AwsUpstream(settings("issuer", world.sts.url), world.issuer, pool, clock)
    with pytest.raises(Misconfigured) as caught:
        unsigned.plan(order["issuer"])
    assert "external_id" in caught.value.detail
    signed = AwsUpstream(settings("assume-role", world.sts.url), world.issuer, pool, clock)
    assert signed.plan(order["assume-role"]).role


# --- outages --------------------------------------------------------------------------------------------------------


async def test_two_throttlings_are_survived_and_a_third_is_an_outage(world: World, upstream: AwsUpstream, via: str) -> None:
    """The pinned three attempts, whatever the library's default is."""
    world.sts.fail(Fault(code="Throttling"), Fault(code="InternalFailure", status=500))
    before = world.sts.requests
    assert await issued(upstream, an_order(via))
    assert world.sts.requests == before + 3
    world.sts.fail(*(Fault(status=503) for _ in range(3)))
    with pytest.raises(Unavailable, match="cannot answer at the moment") as caught:
        await upstream.issue(an_order(via), noted)
    assert caught.value.code is Code.UPSTREAM_UNAVAILABLE
    assert world.sts.requests == before + 6


async def test_an_sts_that_cannot_reach_the_issuer_is_an_outage(world: World, pool: UpstreamPool) -> None:
    upstream = AwsUpstream(settings("issuer", world.sts.url), world.issuer, pool, clock)
    world.sts.fail(*(Fault(code="IDPCommunicationError") for _ in range(3)))
    with pytest.raises(Unavailable) as caught:
        await upstream.issue(an_order("issuer"), noted)
    assert "IDPCommunicationError" in caught.value.detail


async def test_an_empty_429_is_an_outage(world: World, upstream: AwsUpstream, via: str) -> None:
    """botocore cannot parse it and does not try again."""
    world.sts.fail(Fault(status=429))
    with pytest.raises(Unavailable, match="did not answer in its protocol"):
        await upstream.issue(an_order(via), noted)


async def test_an_sts_that_is_away_is_an_outage(world: World, via: str, pool: UpstreamPool) -> None:
    """Nobody listens there."""
    with StrictSts(world.sts.account, MadeUp()) as gone:
        url = gone.url
    upstream = AwsUpstream(settings(via, url), world.issuer, pool, clock)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await upstream.issue(an_order(via), noted)


async def test_an_sts_that_is_slow_is_an_outage_within_the_deadline(
    world: World, upstream: AwsUpstream, via: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "DEADLINE_SECONDS", 0.3)
    world.sts.fail(Fault(status=200, delay=1.0))
    began = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer in time"):
        await upstream.issue(an_order(via), noted)
    assert time.monotonic() - began < 0.9


@pytest.mark.parametrize("life", [timedelta(0), timedelta(hours=-1), timedelta(hours=2)])
async def test_a_credential_with_impossible_hours_is_never_handed_on(
    world: World, via: str, pool: UpstreamPool, life: timedelta
) -> None:
    """Expired already, or longer than was asked; its twin with an hour's life is."""
    mint = MadeUp()
    with StrictSts(world.sts.account, mint, region=REGION) as sts:
        upstream = AwsUpstream(settings(via, sts.url), world.issuer, pool, clock)
        assert await issued(upstream, an_order(via))
        mint.life = life
        with pytest.raises(Unavailable, match="no usable credential"):
            await upstream.issue(an_order(via), noted)


@pytest.mark.parametrize(
    ("wanted", "ttl", "seconds"),
    [(timedelta(seconds=5), timedelta(hours=1), 900), (timedelta(hours=9), timedelta(minutes=40), 2400)],
)
async def test_the_shortest_that_serves_is_asked_for(
    world: World, via: str, pool: UpstreamPool, wanted: timedelta, ttl: timedelta, seconds: int
) -> None:
    """DESIGN 3.7; and tags, names and policy go with it as they are."""
    mint = MadeUp()
    with StrictSts(world.sts.account, mint, region=REGION) as sts:
        upstream = AwsUpstream(settings(via, sts.url), world.issuer, pool, clock)
        await upstream.issue(an_order(via, ttl=wanted, target__ttl=ttl), noted)
    (asked,) = mint.orders
    assert asked.seconds == seconds
    assert dict(asked.tags) == TAGS | {"pipeline_id": "574", "job_id": "302"}
    assert set(asked.transitive) == set(TAGS)
    assert (asked.session_name, asked.source_identity) == ("gl-4711-302-abcdefgh", "gl-4711-302")


# --- another implementation -----------------------------------------------------------------------------------------


async def test_the_signed_request_is_one_that_moto_reads(world: World, pool: UpstreamPool) -> None:
    """Wire shape against code that is not ours. moto's web identities name no subject, so those answers are thrown away."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        signed = AwsUpstream(settings("assume-role", url), world.issuer, pool, clock)
        minted = await signed.issue(an_order("assume-role"), noted)
        keys = plain(minted)
        client = boto3.Session().client(
            "sts",
            region_name=REGION,
            endpoint_url=url,
            aws_access_key_id=keys["access_key_id"],
            aws_secret_access_key=keys["secret_access_key"],
            aws_session_token=keys["session_token"],
            config=Config(proxies={}),
        )
        assert client.get_caller_identity()["Arn"].endswith("/gl-4711-302-abcdefgh")
        client.close()
        unsigned = AwsUpstream(settings("issuer", url), world.issuer, pool, clock)
        with pytest.raises(Misconfigured, match="somebody else"):
            await unsigned.issue(an_order("issuer"), noted)
    finally:
        server.stop()
