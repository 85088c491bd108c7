"""Every documented error of STS becomes one of ours, and an answer that is not for this job is never used."""

from datetime import UTC, timedelta, timezone
from typing import Any

import botocore.exceptions as raised
import pytest
from botocore.parsers import ResponseParserError

from broker.errors import Broken, BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.upstreams.aws_answers import Asked, from_library, from_wire, read_answer
from tests.strategies import NOON, moment

ROLE = "arn:aws:iam::111122223333:role/ci/etl-production"
SUBJECT = "environment:production:grant:lake:issuer:gitlab:project:4711"
ASKED = Asked(
    role_arn=ROLE,
    session_name="gl-4711-302-abcdefgh",
    source_identity="gl-4711-302",
    seconds=3600,
    subject=SUBJECT,
    audience="sts.amazonaws.com",
    issuer="https://broker.example.com",
)
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"


def an_answer(**changes: Any) -> dict[str, Any]:
    """As botocore gives what AWS sends; the Provider in the spelling that AWS really uses."""
    whole: dict[str, Any] = {
        "Credentials": {
            "AccessKeyId": "ASIAIOSFODNN7EXAMPLE",
            "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG",
            "SessionToken": "IQoJb3JpZ2luX2VjEXAMPLE",
            "Expiration": NOON + timedelta(hours=1),
        },
        "SubjectFromWebIdentityToken": SUBJECT,
        "Audience": "sts.amazonaws.com",
        "Provider": "arn:aws:iam::111122223333:oidc-provider/broker.example.com",
        "SourceIdentity": "gl-4711-302",
        "AssumedRoleUser": {
            "AssumedRoleId": "AROA3XFRBF535PLBIFPI4:gl-4711-302-abcdefgh",
            "Arn": "arn:aws:sts::111122223333:assumed-role/etl-production/gl-4711-302-abcdefgh",
        },
        "ResponseMetadata": {"RequestId": "9fddf440-80b6-11ec-a8a3-0242ac120002", "HTTPStatusCode": 200},
    }
    for place, value in changes.items():
        part, _, name = place.partition("__")
        if name:
            whole[part][name] = value
        elif value is None:
            del whole[part]
        else:
            whole[part] = value
    return whole


def test_an_answer_for_this_job_is_read_whole() -> None:
    """The twin of every refusal below."""
    answer = read_answer(an_answer(), ASKED, moment())
    assert answer.access_key_id == "ASIAIOSFODNN7EXAMPLE"
    assert answer.secret_access_key.reveal() == "wJalrXUtnFEMI/K7MDENG"
    assert answer.session_token.reveal() == "IQoJb3JpZ2luX2VjEXAMPLE"
    assert answer.account_id == "111122223333"
    assert answer.expires_at == NOON + timedelta(hours=1)
    assert answer.request_id == "9fddf440-80b6-11ec-a8a3-0242ac120002"
    assert "wJalr" not in repr(answer)
    assert "IQoJ" not in repr(answer)


@pytest.mark.parametrize(
    "changes",
    [
        {"Provider": "https://broker.example.com"},
        {"Provider": "broker.example.com"},
        {"SourceIdentity": None},
        {"Credentials__Expiration": (NOON + timedelta(hours=1)).replace(tzinfo=None)},
        {"Credentials__Expiration": (NOON + timedelta(hours=1)).astimezone(timezone(timedelta(hours=5)))},
        {"Credentials__Expiration": NOON + timedelta(hours=1, seconds=59)},
        {"Credentials__Expiration": NOON + timedelta(seconds=1)},
    ],
)
def test_answers_in_every_known_spelling_are_read(changes: dict[str, Any]) -> None:
    """The issuer as AWS's model and as its service name it; a clock within a minute of ours."""
    answer = read_answer(an_answer(**changes), ASKED, moment())
    assert answer.expires_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"SubjectFromWebIdentityToken": SUBJECT.replace("4711", "4712")}, "SubjectFromWebIdentityToken"),
        ({"SubjectFromWebIdentityToken": None}, "SubjectFromWebIdentityToken"),
        ({"Audience": "other"}, "Audience"),
        ({"Provider": "https://gitlab.example.com"}, "Provider"),
        ({"Provider": "arn:aws:iam::999999999999:oidc-provider/broker.example.com"}, "Provider"),
        ({"SourceIdentity": "gl-4711-303"}, "SourceIdentity"),
        (
            {"AssumedRoleUser__Arn": "arn:aws:sts::111122223333:assumed-role/etl-production/gl-4711-303-abcdefgh"},
            "AssumedRoleUser",
        ),
        ({"AssumedRoleUser__Arn": "arn:aws:sts::111122223333:assumed-role/admin/gl-4711-302-abcdefgh"}, "AssumedRoleUser"),
        (
            {"AssumedRoleUser__Arn": "arn:aws:sts::999999999999:assumed-role/etl-production/gl-4711-302-abcdefgh"},
            "AssumedRoleUser",
        ),
        ({"AssumedRoleUser": None}, "AssumedRoleUser"),
    ],
)
def test_an_answer_for_somebody_else_is_thrown_away(changes: dict[str, Any], field: str) -> None:
    """A confused or false STS: nothing of it is used, and an operator has to look."""
    with pytest.raises(Misconfigured, match="somebody else") as caught:
        read_answer(an_answer(**changes), ASKED, moment())
    assert caught.value.code is Code.UPSTREAM_CONFIG
    assert field in caught.value.detail


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"Credentials__Expiration": NOON}, "has expired"),
        ({"Credentials__Expiration": NOON - timedelta(days=1)}, "has expired"),
        ({"Credentials__Expiration": NOON + timedelta(hours=1, seconds=61)}, "outlives"),
        ({"Credentials__Expiration": "2026-11-23"}, "whole credential"),
        ({"Credentials__SecretAccessKey": ""}, "whole credential"),
        ({"Credentials__SessionToken": None}, "whole credential"),
        ({"Credentials__AccessKeyId": "short"}, "whole credential"),
        ({"Credentials": None}, "whole credential"),
    ],
)
def test_a_credential_that_is_empty_or_over_is_never_handed_on(changes: dict[str, Any], detail: str) -> None:
    with pytest.raises(Unavailable, match="no usable credential") as caught:
        read_answer(an_answer(**changes), ASKED, moment())
    assert detail in caught.value.detail


def test_an_assume_role_answer_has_no_subject_to_compare() -> None:
    plain = Asked(role_arn=ROLE, session_name=ASKED.session_name, source_identity=ASKED.source_identity, seconds=3600)
    answer = an_answer(SubjectFromWebIdentityToken=None, Audience=None, Provider=None)
    assert read_answer(answer, plain, moment()).account_id == "111122223333"


# --- errors ---------------------------------------------------------------------------------------------------------

REFUSALS = ["AccessDenied", "InvalidIdentityToken", "ExpiredTokenException", "ExpiredToken", "IDPRejectedClaim"]
OUTAGES = [
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "IDPCommunicationError",
    "InternalFailure",
    "ServiceUnavailable",
]
MISFITS = [
    "MalformedPolicyDocument",
    "PackedPolicyTooLarge",
    "RegionDisabledException",
    "ValidationError",
    "InvalidParameterValue",
    "SomethingNew",
]


def wire(code: str, status: int = 400, message: str = "", *, own_keys: bool = False) -> BrokerError:
    return from_wire(code, status, message, "rid-1", role_arn=ROLE, own_keys=own_keys)


@pytest.mark.parametrize("code", REFUSALS)
def test_a_denial_of_sts_is_a_refusal(code: str) -> None:
    """Final: nothing retries it and what was held is dropped."""
    error = wire(code, 403)
    assert isinstance(error, Refused)
    assert error.code is Code.UPSTREAM_DENIED
    assert error.detail.startswith(f"STS answered 403 {code} for {ROLE}, request rid-1")


@pytest.mark.parametrize("code", OUTAGES)
def test_a_throttle_or_fault_of_sts_is_an_outage_whatever_its_status(code: str) -> None:
    """Throttling comes as 400. What is valid goes on being served."""
    error = wire(code)
    assert isinstance(error, Unavailable)
    assert error.code is Code.UPSTREAM_UNAVAILABLE


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_status_without_a_known_code_is_an_outage(status: int) -> None:
    assert isinstance(wire("", status), Unavailable)


@pytest.mark.parametrize("code", MISFITS)
def test_what_an_operator_has_to_change_is_a_misconfiguration(code: str) -> None:
    error = wire(code, 403 if code == "RegionDisabledException" else 400)
    assert isinstance(error, Misconfigured)
    assert error.code is Code.UPSTREAM_CONFIG


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "SignatureDoesNotMatch", "MissingAuthenticationToken"])
def test_keys_of_the_broker_that_aws_does_not_take_are_the_operators_matter(code: str) -> None:
    assert isinstance(wire(code, 403, own_keys=True), Misconfigured)


def test_an_expired_token_is_the_brokers_own_where_the_broker_signs() -> None:
    """With `assume-role` the only token in the request is the broker's; a job is not to blame for it."""
    assert isinstance(wire("ExpiredToken", 403, own_keys=True), Misconfigured)
    assert isinstance(wire("ExpiredTokenException", 400), Refused)


@pytest.mark.parametrize(
    ("code", "message", "kept"),
    [
        ("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity", True),
        ("InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider", True),
        ("InvalidIdentityToken", f"bad token {TOKEN}", False),
        ("AccessDenied", "two\nlines", False),
        ("ValidationError", f"Value '{TOKEN}' at 'webIdentityToken' failed to satisfy constraint", False),
        ("ValidationError", "Value 'secret-policy' at 'policy'", False),
    ],
)
def test_what_sts_says_is_kept_for_our_log_only_where_it_repeats_nothing(code: str, message: str, *, kept: bool) -> None:
    """STS repeats parameters in validation errors, the token among them. The caller is never told any of it."""
    error = wire(code, 400, message)
    assert (message in error.detail) is kept
    assert TOKEN not in error.detail
    assert message not in error.public


def test_a_code_or_id_from_the_wire_cannot_break_a_line_of_the_log() -> None:
    error = from_wire("A\nB" * 90, 400, "", "r\x1b[0m", role_arn=ROLE, own_keys=False)
    assert error.detail.isprintable()


def client_error(code: str, status: int) -> raised.ClientError:
    head = {"HTTPStatusCode": status, "RequestId": "rid-1"}
    return raised.ClientError({"Error": {"Code": code, "Message": TOKEN}, "ResponseMetadata": head}, "AssumeRole")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error("AccessDenied", 403), Refused),
        (client_error("Throttling", 400), Unavailable),
        (raised.EndpointConnectionError(endpoint_url="https://x"), Unavailable),
        (raised.ConnectTimeoutError(endpoint_url="https://x"), Unavailable),
        (raised.ReadTimeoutError(endpoint_url="https://x"), Unavailable),
        (raised.ConnectionClosedError(endpoint_url="https://x"), Unavailable),
        (raised.ProxyConnectionError(proxy_url="http://p"), Unavailable),
        (raised.SSLError(endpoint_url="https://x", error="EOF occurred"), Unavailable),
        (raised.SSLError(endpoint_url="https://x", error="[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), Misconfigured),
        (raised.CredentialRetrievalError(provider="iam-role", error_msg="timeout"), Unavailable),
        (ResponseParserError("<html>"), Unavailable),
        (raised.NoCredentialsError(), Misconfigured),
        (raised.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), Misconfigured),
        (raised.ProfileNotFound(profile="ghost"), Misconfigured),
        (raised.InvalidRegionError(region_name="no host"), Misconfigured),
        (KeyError("a bug"), Broken),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_everything_that_botocore_raises_has_a_place(error: Exception, kind: type[BrokerError]) -> None:
    """And none of its text comes along: it can carry the request."""
    ours = from_library(error, role_arn=ROLE, own_keys=True)
    assert type(ours) is kind
    assert TOKEN not in ours.detail + ours.public
