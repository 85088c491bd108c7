"""The strict STS, asked by a plain boto3 and by bare HTTP: it refuses what AWS refuses, in AWS's words, and gives to its twin."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
import urllib3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, ReadTimeoutError
from botocore.parsers import ResponseParserError
from cryptography.hazmat.primitives.asymmetric import ec

from broker.demo.iam import Caller, Role
from broker.demo.sts import Fault, StrictSts
from tests.fakes.aws import (
    ACCOUNT,
    AUDIENCE,
    BROKER,
    REGION,
    SUBJECT,
    TAGS,
    Issuer,
    MadeUp,
    an_account,
    federated_trust,
    signed_trust,
)

ROLE = f"arn:aws:iam::{ACCOUNT}:role/etl-production"
SIGNED_ROLE = f"arn:aws:iam::{ACCOUNT}:role/signed-production"
NAME = "gl-4711-987654321-abcdefgh"
POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}]}'
TAG_LIST = [{"Key": key, "Value": value} for key, value in TAGS.items()]
SESSION = boto3.Session()  # making one costs more than a test
WEB = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15"
TAGS_CLAIM = "https://aws.amazon.com/tags"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


@pytest.fixture
def mint() -> MadeUp:
    return MadeUp()


@pytest.fixture
def sts(issuer: Issuer, mint: MadeUp) -> Iterator[StrictSts]:
    account = an_account(
        issuer.url,
        Role(name="etl-production", trust=federated_trust(issuer.url, "production")),
        Role(name="signed-production", trust=signed_trust("production"), max_seconds=43200),
    )
    with StrictSts(account, mint, region=REGION) as sts:
        yield sts


def a_client(sts: StrictSts, *, attempts: int = 1, region: str = REGION, **keys: Any) -> Any:
    how: dict[str, Any] = {} if keys else {"signature_version": UNSIGNED}
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts}, read_timeout=1, connect_timeout=1, proxies={}, **how
    )
    return SESSION.client("sts", region_name=region, endpoint_url=sts.url, config=config, **keys)


@pytest.fixture
def anyone(sts: StrictSts) -> Iterator[Any]:
    client = a_client(sts)
    yield client
    client.close()


@pytest.fixture
def broker(sts: StrictSts) -> Iterator[Any]:
    client = a_client(sts, aws_access_key_id=BROKER.access_key_id, aws_secret_access_key=BROKER.secret_access_key)
    yield client
    client.close()


def by_web(client: Any, token: str, **changed: Any) -> dict[str, Any]:
    request = {"RoleArn": ROLE, "RoleSessionName": NAME, "WebIdentityToken": token, "DurationSeconds": 900} | changed
    return dict(client.assume_role_with_web_identity(**request))


def by_key(client: Any, **changed: Any) -> dict[str, Any]:
    request = {
        "RoleArn": SIGNED_ROLE,
        "RoleSessionName": NAME,
        "DurationSeconds": 900,
        "Tags": TAG_LIST,
        "TransitiveTagKeys": list(TAGS),
        "SourceIdentity": "gl-4711-987654321",
    } | changed
    return dict(client.assume_role(**{name: value for name, value in request.items() if value is not None}))


def refused(call: Callable[[], Any]) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call()
    error = caught.value.response
    return error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"], error["Error"]["Message"]


# --- web identity: what is given ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kid", ["ec", "rsa"])
def test_a_token_that_the_trust_policy_admits_gets_a_session(anyone: Any, issuer: Issuer, mint: MadeUp, kid: str) -> None:
    """The twin of every refusal below: ES256 and RS256, with the documented answer."""
    answer = by_web(anyone, issuer.token(kid=kid), Policy=POLICY)

    assert answer["SubjectFromWebIdentityToken"] == SUBJECT
    assert answer["Audience"] == AUDIENCE
    assert answer["Provider"] == f"arn:aws:iam::{ACCOUNT}:oidc-provider/{issuer.url.removeprefix('http://')}"
    assert answer["SourceIdentity"] == "gl-4711-987654321"
    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/etl-production/{NAME}"
    assert answer["ResponseMetadata"]["RequestId"]
    (order,) = mint.orders
    assert order.tags == TAGS
    assert order.transitive == tuple(TAGS)
    assert (order.seconds, order.policy, order.source_identity) == (900, POLICY, "gl-4711-987654321")


def test_keys_that_were_added_later_are_found(anyone: Any, issuer: Issuer) -> None:
    """A rotation of the provider's keys is followed: an unknown kid is looked up again."""
    by_web(anyone, issuer.token())
    issuer.add_key("next", ec.generate_private_key(ec.SECP256R1()))
    assert by_web(anyone, issuer.token(kid="next"))["Credentials"]["AccessKeyId"]


# --- web identity: what is wrong with the token ---------------------------------------------------------------------

OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ({"key": OTHER_KEY}, "InvalidIdentityToken", "signature"),
        ({"kid": "unknown", "key": OTHER_KEY}, "InvalidIdentityToken", "kid"),
        ({"algorithm": "HS256", "key": "k" * 32}, "InvalidIdentityToken", "algorithm"),
        ({"algorithm": "none", "key": ""}, "InvalidIdentityToken", "algorithm"),
        ({"iss": "https://elsewhere.example"}, "InvalidIdentityToken", "No OpenIDConnect provider"),
        ({"aud": "https://other.example"}, "InvalidIdentityToken", "audience"),
        ({"aud": [AUDIENCE, "other"]}, "InvalidIdentityToken", "audience"),
        ({"exp": -1, "iat": -61}, "ExpiredTokenException", "expired"),
        ({"nbf": 600}, "InvalidIdentityToken", "not valid yet"),
        ({"iat": 600}, "InvalidIdentityToken", "not valid yet"),
        ({"exp": 60.5}, "InvalidIdentityToken", "exp is not an integer"),
        ({"drop": ("exp",)}, "InvalidIdentityToken", "missing"),
        ({"drop": ("sub",)}, "InvalidIdentityToken", "missing"),
        ({"sub": "s" * 256}, "InvalidIdentityToken", "255"),
        ({TAGS_CLAIM: {"principal_tags": {"environment": "production"}}}, "InvalidIdentityToken", "list of one text"),
        ({TAGS_CLAIM: {"principal_tags": {"environment": ["a", "b"]}}}, "InvalidIdentityToken", "list of one text"),
        ({TAGS_CLAIM: {"principal": {}}}, "InvalidIdentityToken", "shape"),
        ({TAGS_CLAIM: ["environment"]}, "InvalidIdentityToken", "shape"),
        ({TAGS_CLAIM: {"principal_tags": []}}, "InvalidIdentityToken", "shape"),
        ({TAGS_CLAIM: {"principal_tags": {}, "transitive_tag_keys": [1]}}, "InvalidIdentityToken", "transitive"),
        ({TAGS_CLAIM: {"principal_tags": {"a": ["#"]}}}, "ValidationError", "value of tag"),
        ({TAGS_CLAIM: {"principal_tags": {"a": ["x" * 257]}}}, "ValidationError", "value of tag"),
        ({TAGS_CLAIM: {"principal_tags": {"aws:a": ["x"]}}}, "ValidationError", "tag key"),
        ({TAGS_CLAIM: {"principal_tags": {"k" * 129: ["x"]}}}, "ValidationError", "tag key"),
        ({TAGS_CLAIM: {"principal_tags": {"a": ["x"], "A": ["x"]}}}, "InvalidParameterValue", "Duplicate"),
        ({TAGS_CLAIM: {"principal_tags": {"a": ["x"]}, "transitive_tag_keys": ["b"]}}, "InvalidParameterValue", "transitive"),
        ({TAGS_CLAIM: {"principal_tags": {f"k{n}": ["x"] for n in range(51)}}}, "ValidationError", "50"),
        ({"https://aws.amazon.com/source_identity": "a b"}, "ValidationError", "sourceIdentity"),
        ({"https://aws.amazon.com/source_identity": 7}, "InvalidIdentityToken", "source identity"),
    ],
    ids=lambda value: re.sub(r"[^a-z0-9:]+", "-", str(value).lower())[:40] if "key" not in value else "key",
)
def test_a_token_that_is_not_right_is_refused(
    anyone: Any, issuer: Issuer, mint: MadeUp, how: dict[str, Any], code: str, words: str
) -> None:
    """Forged, foreign, expired, early, half: 400 with the code and the reason, and nothing minted."""
    # Times are written as seconds from now.
    moved = {name: value + int(time.time()) for name, value in how.items() if name in ("exp", "nbf", "iat")}
    got, status, message = refused(lambda: by_web(anyone, issuer.token(**(how | moved))))
    assert (got, status) == (code, 400)
    assert words.lower() in message.lower()
    assert not mint.orders


def test_a_payload_that_was_changed_after_signing_is_refused(anyone: Any, issuer: Issuer) -> None:
    """The signature of one token does not carry the claims of another."""
    good, other = issuer.token(), issuer.token(sub=SUBJECT.replace("production", "review"))
    head, _, tail = good.split(".")
    assert refused(lambda: by_web(anyone, ".".join((head, other.split(".")[1], tail))))[0] == "InvalidIdentityToken"


@pytest.mark.parametrize("token", ["junk", "a.b.c", "e30.e30."])
def test_what_is_no_token_is_refused(anyone: Any, token: str) -> None:
    code, status, message = refused(lambda: by_web(anyone, token))
    assert (code, status) == ("InvalidIdentityToken", 400)
    assert "not a valid JWT" in message or "provider" in message


def test_a_provider_whose_keys_cannot_be_fetched_is_refused_and_heals(anyone: Any, issuer: Issuer) -> None:
    """As AWS does when the JWKS is not public: InvalidIdentityToken, not an outage."""
    issuer.broken = True
    try:
        code, _, message = refused(lambda: by_web(anyone, issuer.token()))
    finally:
        issuer.broken = False
    assert code == "InvalidIdentityToken"
    assert "Couldn't retrieve verification key" in message
    assert by_web(anyone, issuer.token())


def test_keys_of_another_issuers_document_are_not_used(anyone: Any, issuer: Issuer) -> None:
    issuer.published_issuer = "https://elsewhere.example"
    try:
        code, _, message = refused(lambda: by_web(anyone, issuer.token()))
    finally:
        issuer.published_issuer = issuer.url
    assert (code, "verification key" in message) == ("InvalidIdentityToken", True)


# --- web identity: what the trust policy does not admit -------------------------------------------------------------


def _tags(**changed: str | None) -> dict[str, Any]:
    kept = {key: value for key, value in (TAGS | changed).items() if value is not None}
    return {TAGS_CLAIM: {"principal_tags": {key: [value] for key, value in kept.items()}, "transitive_tag_keys": list(kept)}}


@pytest.mark.parametrize(
    ("how", "action"),
    [
        ({"sub": SUBJECT.replace("production", "review")}, "AssumeRoleWithWebIdentity"),
        ({"sub": SUBJECT.replace("4711", "47110")}, "AssumeRoleWithWebIdentity"),
        (_tags(environment="review"), "AssumeRoleWithWebIdentity"),
        (_tags(ref_protected="false"), "AssumeRoleWithWebIdentity"),
        (_tags(ref_protected=None), "AssumeRoleWithWebIdentity"),
        (_tags(more="x"), "AssumeRoleWithWebIdentity"),
        ({"drop": (TAGS_CLAIM,)}, "AssumeRoleWithWebIdentity"),
    ],
    ids=["another environment", "another project", "wrong tag", "wrong protection", "missing tag", "unlisted tag", "no tags"],
)
def test_a_token_that_the_trust_policy_does_not_fit_is_denied(
    anyone: Any, issuer: Issuer, how: dict[str, Any], action: str
) -> None:
    """Well signed, and still not for this role. The twin is the first test of this file."""
    code, status, message = refused(lambda: by_web(anyone, issuer.token(**how)))
    assert (code, status, message) == ("AccessDenied", 403, f"Not authorized to perform: sts:{action}")


def test_a_session_name_that_the_trust_policy_does_not_fit_is_denied(anyone: Any, issuer: Issuer) -> None:
    assert refused(lambda: by_web(anyone, issuer.token(), RoleSessionName="somebody"))[:2] == ("AccessDenied", 403)


def test_a_role_that_does_not_exist_is_answered_like_one_that_does_not_trust(anyone: Any, issuer: Issuer) -> None:
    missing = refused(lambda: by_web(anyone, issuer.token(), RoleArn=ROLE + "x"))
    assert missing == refused(lambda: by_web(anyone, issuer.token(), RoleSessionName="somebody"))


@pytest.mark.parametrize("missing", ["sts:TagSession", "sts:SetSourceIdentity"])
def test_tags_and_source_identity_each_need_their_action(sts: StrictSts, anyone: Any, issuer: Issuer, missing: str) -> None:
    """A trust policy without the action denies a token with the claim, and admits one without."""
    trust = federated_trust(issuer.url, "production")
    statement = trust["Statement"][0]
    statement["Action"].remove(missing)
    statement["Condition"] = {"StringEquals": {f"{issuer.url.removeprefix('http://')}:aud": AUDIENCE}}
    sts.account.put_role(Role(name="half", trust=trust))
    half = {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/half"}

    code, _, message = refused(lambda: by_web(anyone, issuer.token(), **half))
    assert (code, message) == ("AccessDenied", f"Not authorized to perform: {missing}")
    claim = TAGS_CLAIM if missing == "sts:TagSession" else "https://aws.amazon.com/source_identity"
    assert by_web(anyone, issuer.token(drop=(claim,)), **half)


# --- parameters, of both actions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"RoleSessionName": "a b"}, "ValidationError", "roleSessionName"),
        ({"RoleSessionName": "n" * 65}, "ValidationError", "roleSessionName"),
        ({"RoleSessionName": "gl-é"}, "ValidationError", "roleSessionName"),
        ({"RoleArn": "arn:aws:iam::11112222333:role/etl"}, "ValidationError", "is invalid"),
        ({"RoleArn": f"arn:aws:iam::{ACCOUNT}:user/etl"}, "ValidationError", "is invalid"),
        ({"DurationSeconds": 43201}, "ValidationError", "durationSeconds"),
        ({"DurationSeconds": 3601}, "ValidationError", "MaxSessionDuration"),
        ({"Policy": "x" * 2049}, "ValidationError", "2048"),
        ({"Policy": '{"a":"Ā"}'}, "ValidationError", "policy"),
        ({"Policy": "{not json"}, "MalformedPolicyDocument", "Json"),
        ({"Policy": "[]"}, "MalformedPolicyDocument", "Syntax"),
        ({"Policy": '{"Statement":[{"Effect":"Allow"}]}'}, "MalformedPolicyDocument", "Syntax"),
        ({"PolicyArns": [{"arn": f"arn:aws:iam::{ACCOUNT}:policy/p{n}"} for n in range(11)]}, "ValidationError", "10"),
        ({"PolicyArns": [{"arn": "arn:aws:iam::999999999999:policy/p"}]}, "ValidationError", "PolicyArns"),
        ({"Policy": POLICY + " " * 1900, "PolicyArns": [{"arn": f"arn:aws:iam::{ACCOUNT}:policy/{'p' * 60}"}]},
         "PackedPolicyTooLarge", "2048"),
    ],
)  # fmt: skip
def test_a_parameter_out_of_bounds_is_refused(
    anyone: Any, issuer: Issuer, mint: MadeUp, changed: dict[str, Any], code: str, words: str
) -> None:
    """Lengths, characters and documents that botocore lets pass."""
    got, status, message = refused(lambda: by_web(anyone, issuer.token(), **changed))
    assert (got, status) == (code, 400)
    assert words in message
    assert not mint.orders


@pytest.mark.parametrize(
    "changed",
    [
        {"RoleSessionName": "gl-" + "n" * 61},
        {"DurationSeconds": 3600},
        {"Policy": POLICY + " " * (2048 - len(POLICY))},
        {"PolicyArns": [{"arn": f"arn:aws:iam::{ACCOUNT}:policy/p{n}"} for n in range(10)]},
        {"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}]},
    ],
)
def test_a_parameter_at_its_bound_is_taken(anyone: Any, issuer: Issuer, changed: dict[str, Any]) -> None:
    """The twins of the above."""
    assert by_web(anyone, issuer.token(), **changed)["Credentials"]["SessionToken"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("Version=2011-06-15", 400, "MissingAction"),
        ("Action=GetFederationToken&Version=2011-06-15", 400, "InvalidAction"),
        ("Action=AssumeRole&Version=2010-01-01", 400, "InvalidAction"),
        ("Action=AssumeRole&Action=AssumeRole&Version=2011-06-15", 404, "MalformedQueryString"),
        ("&&&", 404, "MalformedQueryString"),
        ("Action=AssumeRole&Version=2011-06-15&RoleArn=x", 403, "MissingAuthenticationToken"),
        (WEB + "&RoleArn=x", 400, "ValidationError"),
        (WEB + "&Surprise=x", 400, "ValidationError"),
        (WEB + "&SourceIdentity=gl-1", 400, "ValidationError"),
        (WEB + "&Tags.member.1.Key=a&Tags.member.1.Value=b", 400, "ValidationError"),
        (WEB + "&PolicyArns.member.2.arn=a", 400, "ValidationError"),
        (f"{WEB}&RoleArn={ROLE}&RoleSessionName=ab&DurationSeconds=899&WebIdentityToken=tokn", 400, "ValidationError"),
        (f"{WEB}&RoleArn={ROLE}&RoleSessionName=ab&WebIdentityToken={'t' * 20001}", 400, "ValidationError"),
    ],
)
def test_what_botocore_would_never_send_is_refused_too(sts: StrictSts, body: str, status: int, code: str) -> None:
    """Bare HTTP. No answer repeats a token."""
    with urllib3.PoolManager(retries=False) as http:
        answer = http.request("POST", sts.url, body=body.encode(), headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status, f"<Code>{code}</Code>" in answer.data.decode()) == (status, True)
    assert b"ttttt" not in answer.data


def test_a_body_without_end_is_not_read(sts: StrictSts) -> None:
    with urllib3.PoolManager(retries=False) as http:
        assert http.request("POST", sts.url, body=b"", headers={"Content-Length": "999999999"}).status == 413


# --- AssumeRole, signed ---------------------------------------------------------------------------------------------


def test_the_broker_that_signs_gets_a_session(broker: Any, mint: MadeUp) -> None:
    """The twin of every refusal below, at the role's longest."""
    answer = by_key(broker, DurationSeconds=43200, Policy=POLICY)
    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/signed-production/{NAME}"
    assert answer["SourceIdentity"] == "gl-4711-987654321"
    (order,) = mint.orders
    assert (order.tags, order.transitive, order.policy, order.seconds) == (TAGS, tuple(TAGS), POLICY, 43200)


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"aws_access_key_id": "AKIANOBODYNOBODYNOBO", "aws_secret_access_key": "x"}, "InvalidClientTokenId"),
        ({"aws_access_key_id": BROKER.access_key_id, "aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": BROKER.access_key_id, "aws_secret_access_key": BROKER.secret_access_key,
          "aws_session_token": "none-was-given"}, "InvalidClientTokenId"),
        ({"aws_access_key_id": BROKER.access_key_id, "aws_secret_access_key": BROKER.secret_access_key,
          "region": "us-east-1"}, "SignatureDoesNotMatch"),
    ],
    ids=["unknown key", "wrong secret", "a token that was never given", "signed for another region"],
)  # fmt: skip
def test_a_signature_that_is_not_the_brokers_is_refused(sts: StrictSts, mint: MadeUp, keys: dict[str, str], code: str) -> None:
    client = a_client(sts, **keys)  # type: ignore[arg-type]  # strings for strings
    assert refused(lambda: by_key(client))[:2] == (code, 403)
    assert not mint.orders
    client.close()


def test_an_unsigned_request_is_refused(anyone: Any) -> None:
    assert refused(lambda: by_key(anyone))[:2] == ("MissingAuthenticationToken", 403)


def test_a_body_that_was_changed_after_signing_is_refused(sts: StrictSts, broker: Any) -> None:
    """The signature covers the body: an environment cannot be swapped in flight."""

    def swap(request: Any, **_: Any) -> None:
        request.body = request.body.replace("production", "reviewings")

    broker.meta.events.register_last("before-send.sts", swap)
    assert refused(lambda: by_key(broker))[:2] == ("SignatureDoesNotMatch", 403)


def test_an_old_signature_is_refused(broker: Any) -> None:
    """Recorded and sent again a quarter of an hour later."""

    def backdate(request: Any, **_: Any) -> None:
        request.headers["X-Amz-Date"] = "20200101T000000Z"

    broker.meta.events.register_last("before-send.sts", backdate)
    assert refused(lambda: by_key(broker))[0] == "IncompleteSignature"


@pytest.mark.parametrize(
    "changed",
    [
        {"Tags": [t | ({"Value": "review"} if t["Key"] == "environment" else {}) for t in TAG_LIST]},
        {"Tags": None, "TransitiveTagKeys": None},
        {"Tags": [*TAG_LIST, {"Key": "more", "Value": "x"}]},
        {"SourceIdentity": "somebody"},
        {"SourceIdentity": None},
        {"RoleSessionName": "somebody"},
        {"RoleArn": ROLE},
    ],
    ids=["wrong tag", "no tags", "unlisted tag", "foreign source", "no source", "foreign name", "a role that trusts another way"],
)
def test_what_the_trust_policy_does_not_admit_is_denied(broker: Any, changed: dict[str, Any]) -> None:
    code, status, message = refused(lambda: by_key(broker, **changed))
    assert (code, status) == ("AccessDenied", 403)
    assert message == f"User: {BROKER.arn} is not authorized to perform: sts:AssumeRole"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"Tags": [*TAG_LIST, {"Key": "Environment", "Value": "x"}]}, "InvalidParameterValue"),
        ({"TransitiveTagKeys": ["other"]}, "InvalidParameterValue"),
        ({"SourceIdentity": "a b"}, "ValidationError"),
        ({"ExternalId": "a b"}, "ValidationError"),
    ],
)
def test_parameters_of_assume_role_out_of_bounds_are_refused(broker: Any, changed: dict[str, Any], code: str) -> None:
    assert refused(lambda: by_key(broker, **changed))[:2] == (code, 400)


def test_an_external_id_is_required_where_the_trust_policy_says_so(sts: StrictSts, broker: Any) -> None:
    trust = signed_trust("production")
    trust["Statement"][0]["Condition"]["StringEquals"]["sts:ExternalId"] = "agreed"
    sts.account.put_role(Role(name="outside", trust=trust))
    outside = {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/outside"}
    assert refused(lambda: by_key(broker, **outside))[0] == "AccessDenied"
    assert refused(lambda: by_key(broker, ExternalId="guessed", **outside))[0] == "AccessDenied"
    assert by_key(broker, ExternalId="agreed", **outside)


def test_a_session_that_assumes_a_role_gets_an_hour_at_most(sts: StrictSts) -> None:
    """Role chaining, with the session token as part of the signature."""
    caller = Caller(
        arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/credbroker/i-1",
        access_key_id="ASIABROKERBROKERBROK",
        secret_access_key="of-the-session",
        session_token="token-of-the-session",
    )
    sts.account.put_caller(caller)
    trust = signed_trust("production")
    trust["Statement"][0]["Principal"] = {"AWS": f"arn:aws:iam::{ACCOUNT}:role/credbroker"}
    sts.account.put_role(Role(name="chained", trust=trust, max_seconds=43200))
    client = a_client(
        sts,
        aws_access_key_id=caller.access_key_id,
        aws_secret_access_key=caller.secret_access_key,
        aws_session_token=caller.session_token,
    )
    arn = f"arn:aws:iam::{ACCOUNT}:role/chained"
    code, _, message = refused(lambda: by_key(client, RoleArn=arn, DurationSeconds=3601))
    assert (code, "chaining" in message) == ("ValidationError", True)
    assert by_key(client, RoleArn=arn, DurationSeconds=3600)
    client.close()


# --- faults ---------------------------------------------------------------------------------------------------------


def test_injected_faults_come_once_each_and_in_order(sts: StrictSts, anyone: Any, issuer: Issuer) -> None:
    sts.fail(Fault(code="Throttling"), Fault(code="IDPCommunicationError"), Fault(code="InternalFailure", status=500))
    got = [refused(lambda: by_web(anyone, issuer.token()))[:2] for _ in range(3)]
    assert got == [("Throttling", 400), ("IDPCommunicationError", 400), ("InternalFailure", 500)]
    assert by_web(anyone, issuer.token())


def test_a_client_that_retries_gets_through_two_throttlings(sts: StrictSts, issuer: Issuer) -> None:
    sts.fail(Fault(code="Throttling"), Fault(code="Throttling"))
    client = a_client(sts, attempts=3)
    assert by_web(client, issuer.token())
    assert sts.requests == 3
    client.close()


def test_it_can_be_empty_handed_slow_and_down(sts: StrictSts, anyone: Any, issuer: Issuer) -> None:
    sts.fail(Fault(status=429), Fault(status=200, delay=1.3))
    with pytest.raises(ResponseParserError):
        by_web(anyone, issuer.token())
    with pytest.raises(ReadTimeoutError):
        by_web(anyone, issuer.token())
    sts.stop()
    with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
        by_web(a_client(sts), issuer.token())
