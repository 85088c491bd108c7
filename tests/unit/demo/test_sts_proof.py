"""Signature Version 4 as the strict STS checks it, on requests that botocore signed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from broker.demo.iam import Account, Caller
from broker.demo.sts_proof import prove_caller
from broker.demo.sts_request import StsError

CALLER = Caller(
    arn="arn:aws:iam::111122223333:user/credbroker", access_key_id="AKIABROKERBROKERBROK", secret_access_key="of-the-broker"
)
BODY = b"Action=AssumeRole&Version=2011-06-15"
REGION = "eu-central-1"


def signed(*, region: str = REGION, service: str = "sts") -> dict[str, str]:
    request = AWSRequest("POST", "http://127.0.0.1:1/", data=BODY, headers={"Host": "127.0.0.1:1", "Content-Type": "a  b "})
    SigV4Auth(Credentials(CALLER.access_key_id, CALLER.secret_access_key), service, region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def prove(headers: dict[str, str], *, body: bytes = BODY, path: str = "/", after: timedelta = timedelta(0)) -> Caller:
    account = Account("111122223333")
    account.put_caller(CALLER)
    return prove_caller(account, REGION, path, headers, body, datetime.now(UTC) + after)


@pytest.mark.parametrize("after", [timedelta(0), timedelta(minutes=14), timedelta(minutes=-14)])
def test_what_was_signed_within_a_quarter_of_an_hour_is_the_callers(after: timedelta) -> None:
    assert prove(signed(), after=after) is CALLER


@pytest.mark.parametrize("after", [timedelta(minutes=16), timedelta(minutes=-16), timedelta(days=365)])
def test_what_was_signed_at_another_time_is_refused(after: timedelta) -> None:
    """A recorded request is worth nothing later."""
    with pytest.raises(StsError, match="expired") as caught:
        prove(signed(), after=after)
    assert (caught.value.code, caught.value.status) == ("SignatureDoesNotMatch", 403)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"body": BODY + b"&x=y"}, "SignatureDoesNotMatch"),
        ({"path": "/?Action=Other"}, "SignatureDoesNotMatch"),
        ({"path": "/other"}, "SignatureDoesNotMatch"),
    ],
)
def test_what_was_changed_after_signing_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(StsError) as caught:
        prove(signed(), **changes)
    assert caught.value.code == code


def test_a_signed_header_that_was_changed_is_refused() -> None:
    with pytest.raises(StsError, match="does not match"):
        prove(signed() | {"host": "elsewhere.example"})


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (dict, "MissingAuthenticationToken"),
        (lambda: {"authorization": "Bearer x"}, "IncompleteSignature"),
        (lambda: signed(region="us-east-1"), "SignatureDoesNotMatch"),
        (lambda: signed(service="s3"), "SignatureDoesNotMatch"),
        (lambda: signed() | {"x-amz-date": "yesterday"}, "IncompleteSignature"),
        (lambda: signed() | {"x-amz-date": "20200101T000000Z"}, "IncompleteSignature"),
        (lambda: signed() | {"x-amz-security-token": "guessed"}, "InvalidClientTokenId"),
        (lambda: _renamed("host;", ""), "IncompleteSignature"),
        (lambda: _renamed(CALLER.access_key_id, "AKIANOBODYNOBODYNOBO"), "InvalidClientTokenId"),
    ],
    ids=["none", "another scheme", "region", "service", "no date", "other date", "token", "host unsigned", "unknown key"],
)
def test_a_signature_that_is_not_whole_is_refused(headers: Any, code: str) -> None:
    with pytest.raises(StsError) as caught:
        prove(headers())
    assert (caught.value.code, caught.value.status) == (code, 403)


def _renamed(old: str, new: str) -> dict[str, str]:
    headers = signed()
    return headers | {"authorization": headers["authorization"].replace(old, new)}
