"""What STS answered: an error as one of ours, a success cross-checked against what was asked.

Errors are told apart by their code on the wire, whose spelling is not regular (`ExpiredTokenException`, but
`InvalidIdentityToken`), and only then by status. Source: STS service model, `reference/aws.md` 1.3. A library's error is never
kept: its text can carry the request.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.errors import Broken, BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.moment import Moment
from broker.secret import Secret

SKEW = timedelta(seconds=60)  # what DESIGN 3.15 tolerates between our clock and an upstream's

_DENIED = frozenset({"AccessDenied", "InvalidIdentityToken", "ExpiredTokenException", "ExpiredToken", "IDPRejectedClaim"})
_AWAY = frozenset({
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "TooManyRequestsException", "RequestLimitExceeded", "SlowDown", "InternalFailure", "InternalError", "ServiceUnavailable",
    "IDPCommunicationError", "RequestTimeout", "RequestTimeoutException",
})  # fmt: skip
# The broker's own credentials, of `assume-role`: nobody's job is at fault.
_OWN_KEYS = frozenset({
    "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "IncompleteSignature",
    "MissingAuthenticationToken", "MissingAuthenticationTokenException", "RequestExpired", "OptInRequired", "AuthFailure",
})  # fmt: skip
# Whose message from AWS says something to an operator and repeats nothing of the request that is secret.
_TELLING = frozenset(
    {"AccessDenied", "InvalidIdentityToken", "IDPCommunicationError", "IDPRejectedClaim", "RegionDisabledException"}
)
_KEY_ID = re.compile(r"[A-Z0-9_]{16,128}")
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,300}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an answer has to agree with. `subject`, `audience` and `issuer` are those of the assertion; None for AssumeRole."""

    role_arn: str
    session_name: str
    source_identity: str
    seconds: int
    subject: str | None = None
    audience: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    access_key_id: str
    secret_access_key: Secret
    session_token: Secret
    account_id: str
    expires_at: datetime
    request_id: str


def read_answer(answer: Mapping[str, Any], asked: Asked, now: Moment) -> Answer:
    """The credential in an answer that is for this job and alive.

    Raises Misconfigured when STS answered for somebody else (the endpoint is then not to be trusted), and Unavailable for a
    credential that is empty, already expired, or longer than was asked: never is such a one handed on.
    """
    request_id = _text(answer, "ResponseMetadata", "RequestId")
    credentials = answer.get("Credentials") or {}
    key_id, secret, token = (str(credentials.get(name) or "") for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
    expires_at = credentials.get("Expiration")
    if not _KEY_ID.fullmatch(key_id) or not secret or not token or not isinstance(expires_at, datetime):
        raise _useless("STS answered without a whole credential", request_id)

    account = _check_role(_text(answer, "AssumedRoleUser", "Arn"), asked, request_id)
    if asked.subject is not None:
        _check_web_identity(answer, asked, account, request_id)
    if answer.get("SourceIdentity") not in (None, asked.source_identity):
        raise _somebody_else("SourceIdentity", request_id)

    expires_at = expires_at.astimezone(UTC) if expires_at.tzinfo else expires_at.replace(tzinfo=UTC)
    left = now.until(expires_at)
    if left <= timedelta(0):
        raise _useless("STS answered with a credential that has expired by our clock", request_id)
    if left > timedelta(seconds=asked.seconds) + SKEW:
        raise _useless("STS answered with a credential that outlives what was asked by our clock", request_id)
    return Answer(
        access_key_id=key_id,
        secret_access_key=Secret(secret),
        session_token=Secret(token),
        account_id=account,
        expires_at=expires_at,
        request_id=request_id,
    )


def _check_role(assumed: str, asked: Asked, request_id: str) -> str:
    """The account. Paths of roles are not repeated in the ARN of a session, so only the role's last segment is compared."""
    _, partition, _, _, account, _ = asked.role_arn.split(":")
    name = asked.role_arn.rsplit("/", 1)[-1]
    if assumed != f"arn:{partition}:sts::{account}:assumed-role/{name}/{asked.session_name}":
        raise _somebody_else("AssumedRoleUser", request_id)
    return account


def _check_web_identity(answer: Mapping[str, Any], asked: Asked, account: str, request_id: str) -> None:
    if answer.get("SubjectFromWebIdentityToken") != asked.subject:
        raise _somebody_else("SubjectFromWebIdentityToken", request_id)
    if answer.get("Audience") != asked.audience:
        raise _somebody_else("Audience", request_id)
    # AWS's model says that Provider is the `iss`; the answers that people publish show the ARN of the account's provider.
    issuer = asked.issuer or ""
    host = issuer.removeprefix("https://").removeprefix("http://").rstrip("/")
    partition = asked.role_arn.split(":")[1]
    if answer.get("Provider") not in (issuer, host, f"arn:{partition}:iam::{account}:oidc-provider/{host}"):
        raise _somebody_else("Provider", request_id)


def from_wire(code: str, status: int, message: str, request_id: str, *, role_arn: str, own_keys: bool) -> BrokerError:
    """Our error for an error that STS answered. `own_keys`: the request was signed with the broker's own credentials."""
    detail = f"STS answered {status} {_safe(code)} for {role_arn}" + (f", request {_safe(request_id)}" if request_id else "")
    if code in _TELLING and "eyJ" not in message and _PRINTABLE.fullmatch(message[:300]):
        detail += f": {message[:300]}"
    if code in _OWN_KEYS or (own_keys and code in ("ExpiredToken", "ExpiredTokenException", "InvalidToken")):
        return Misconfigured(
            Code.UPSTREAM_CONFIG,
            "AWS does not take the broker's own credentials; its operators have to renew them",
            detail=detail,
        )
    if code in _DENIED:
        return Refused(
            Code.UPSTREAM_DENIED,
            "AWS refused this job the role of the grant; its trust policy or the registered identity provider does not admit "
            "the broker's word for this job, which the broker's operators can look up by the correlation id",
            detail=detail,
        )
    if code in _AWAY or status == 429 or status >= 500:  # noqa: PLR2004 - HTTP's own numbers
        return Unavailable(Code.UPSTREAM_UNAVAILABLE, "AWS STS cannot answer at the moment; try again", detail=detail)
    # MalformedPolicyDocument, PackedPolicyTooLarge, RegionDisabledException, ValidationError, and whatever AWS adds.
    return Misconfigured(
        Code.UPSTREAM_CONFIG,
        "AWS does not take the request as the broker's operators configured it; tell them the correlation id",
        detail=detail,
    )


def from_library(error: Exception, *, role_arn: str, own_keys: bool) -> BrokerError:
    """Our error for whatever botocore raised. Of its text only the class name is kept."""
    from botocore import exceptions as raised
    from botocore.parsers import ResponseParserError

    what = f"{type(error).__name__} at STS for {role_arn}"
    misfit: str | None = None
    outage = ""
    match error:
        case raised.ClientError():
            body, head = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
            return from_wire(
                str(body.get("Code", "")),
                int(head.get("HTTPStatusCode", 0)),
                str(body.get("Message", "")),
                str(head.get("RequestId", "")),
                role_arn=role_arn,
                own_keys=own_keys,
            )
        case raised.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            misfit = "the certificate of AWS STS does not verify; tell the broker's operators"
        case raised.HTTPClientError() | raised.ConnectionError():
            outage = "AWS STS cannot be reached at the moment; try again"
        case raised.CredentialRetrievalError() | raised.MetadataRetrievalError():  # our own, of `assume-role`
            outage = "the broker cannot fetch its own AWS credentials at the moment; try again"
        case ResponseParserError():  # an empty 429, a proxy's page: no answer of STS
            outage = "AWS STS did not answer in its protocol; try again"
        case raised.NoCredentialsError() | raised.PartialCredentialsError() | raised.ProfileNotFound():
            misfit = "the broker has no AWS credentials of its own; its operators have to give it some"
        case raised.BotoCoreError():
            misfit = "the broker's AWS upstream is not usable as configured; tell its operators"
        case _:
            return Broken(what)
    if misfit is not None:
        return Misconfigured(Code.UPSTREAM_CONFIG, misfit, detail=what)
    return Unavailable(Code.UPSTREAM_UNAVAILABLE, outage, detail=what)


def _text(answer: Mapping[str, Any], part: str, name: str) -> str:
    return str((answer.get(part) or {}).get(name) or "")


def _safe(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "?", word[:80])


def _somebody_else(field: str, request_id: str) -> Misconfigured:
    return Misconfigured(
        Code.UPSTREAM_CONFIG,
        "AWS STS answered for somebody else than asked, so its credential was thrown away; tell the broker's operators",
        detail=f"{field} of the answer is not what was asked, request {_safe(request_id)}",
    )


def _useless(what: str, request_id: str) -> Unavailable:
    return Unavailable(
        Code.UPSTREAM_UNAVAILABLE, "AWS STS gave no usable credential; try again", detail=f"{what}, request {_safe(request_id)}"
    )
