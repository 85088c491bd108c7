"""RDS tokens: checked by a SigV4 of the test's own, from AWS's description of presigned requests, and by botocore's generator."""

import hashlib
import hmac
import socket
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import boto3
import pytest
from botocore import auth

from broker.policy.target import Rds
from broker.secret import Secret
from broker.upstreams.aws_answers import Answer
from broker.upstreams.rds import auth_token

HOST = "db.example.eu-central-1.rds.amazonaws.com"
DATABASE = Rds(host=HOST, port=5432, user="etl_production")
KEY, SECRET, SESSION = "ASIAIOSFODNN7EXAMPLE", "wJalr/XUtnFEMI+K7MDENG=", "IQoJb3JpZ2lu/X2Vj+EXAMPLE=="
NOW = datetime(2026, 11, 23, 9, 30, 15, 700_000, tzinfo=UTC)


def keys(*, until: datetime = NOW + timedelta(hours=1)) -> Answer:
    return Answer(
        access_key_id=KEY,
        secret_access_key=Secret(SECRET),
        session_token=Secret(SESSION),
        account_id="111122223333",
        expires_at=until,
        request_id="r-1",
    )


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "get_current_datetime", lambda: NOW)


def refusal(token: str, secret: str, *, region: str, user: str, host: str = f"{HOST}:5432", now: datetime = NOW) -> str:
    """What a database says to a token for it: "" takes it."""
    parts = urlsplit("https://" + token)
    members = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
    said = dict(members)
    if len(said) != len(members) or parts.path != "/":
        return "form"
    if (said["Action"], said["DBUser"]) != ("connect", user):
        return "user"
    signed_at = datetime.strptime(said["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if said["X-Amz-Expires"] != "900" or not signed_at <= now < signed_at + timedelta(seconds=900):
        return "expired"
    scope = f"{signed_at:%Y%m%d}/{region}/rds-db/aws4_request"
    if said["X-Amz-Credential"] != f"{KEY}/{scope}":
        return "scope"
    session = (said["X-Amz-Algorithm"], said["X-Amz-SignedHeaders"], said["X-Amz-Security-Token"])
    if session != ("AWS4-HMAC-SHA256", "host", SESSION):
        return "session"
    query = "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in sorted(members) if n != "X-Amz-Signature")
    request = f"GET\n/\n{query}\nhost:{host}\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
    text = f"AWS4-HMAC-SHA256\n{said['X-Amz-Date']}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + secret.encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return "" if hmac.compare_digest(key.hex(), said["X-Amz-Signature"]) else "signature"


def token(database: Rds = DATABASE, region: str = "eu-central-1") -> str:
    return auth_token(database, region, keys())[0].reveal()


def test_a_database_takes_the_token_of_its_user_and_region_and_no_other() -> None:
    made = token()
    assert made.startswith(f"{HOST}:5432/?Action=connect&DBUser=etl_production&")
    assert refusal(made, SECRET, region="eu-central-1", user="etl_production") == ""
    assert refusal(made, SECRET, region="eu-west-1", user="etl_production") == "scope"
    assert refusal(made, SECRET, region="eu-central-1", user="admin") == "user"
    assert refusal(made, SECRET + "x", region="eu-central-1", user="etl_production") == "signature"
    assert refusal(made, SECRET, region="eu-central-1", user="etl_production", host="other:5432") == "signature"
    changed = made.replace("DBUser=etl_production", "DBUser=admin")
    assert refusal(changed, SECRET, region="eu-central-1", user="admin") == "signature"
    west = token(region="eu-west-1")
    assert refusal(west, SECRET, region="eu-west-1", user="etl_production") == ""


def test_a_token_is_good_for_a_quarter_of_an_hour_and_not_longer() -> None:
    made, ends_at = auth_token(DATABASE, "eu-central-1", keys())
    assert ends_at == NOW.replace(microsecond=0) + timedelta(minutes=15)
    for now, said in ((ends_at - timedelta(seconds=1), ""), (ends_at, "expired")):
        assert refusal(made.reveal(), SECRET, region="eu-central-1", user="etl_production", now=now) == said


def test_a_token_ends_with_the_keys_that_signed_it() -> None:
    until = NOW + timedelta(minutes=9)
    assert auth_token(DATABASE, "eu-central-1", keys(until=until))[1] == until


@pytest.mark.parametrize(("host", "port"), [(HOST, 5432), (HOST, 443), ("db.x.cn-north-1.rds.amazonaws.com.cn", 3306)])
def test_it_is_the_token_that_boto3_makes(host: str, port: int) -> None:
    client = boto3.Session(KEY, SECRET, SESSION).client("rds", region_name="eu-central-1")
    theirs = client.generate_db_auth_token(DBHostname=host, Port=port, DBUsername="etl.a-b")
    assert token(Rds(host=host, port=port, user="etl.a-b")) == theirs


def test_nothing_is_called_and_nothing_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a token is computed here")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    made, _ = auth_token(DATABASE, "eu-central-1", keys())
    assert made.reveal().rpartition("=")[2] not in repr(made) + str(made)
    assert SECRET not in made.reveal()
