"""The demo's IAM: a trust policy admits exactly what it says, and one that could only be half obeyed is refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from broker.demo.iam import Account, Caller, OidcProvider, PolicyRefused, Principal, Role, admits, check_trust, tag_context

HOST = "broker.example.com"
PROVIDER = Principal(kind="Federated", arn=f"arn:aws:iam::111122223333:oidc-provider/{HOST}")
USER = Principal(kind="AWS", arn="arn:aws:iam::111122223333:user/credbroker")
WEB = "sts:AssumeRoleWithWebIdentity"
CONTEXT: Mapping[str, str | Sequence[str]] = {
    f"{HOST}:sub": "environment:production:grant:lake",
    f"{HOST}:aud": "sts.amazonaws.com",
    "sts:rolesessionname": "gl-4711-302",
} | tag_context({"environment": "production", "job_id": "302"}, ("environment",))


def trust(condition: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Principal": {"Federated": PROVIDER.arn}, "Action": WEB} | changes
    if condition is not None:
        statement["Condition"] = condition
    return {"Version": "2012-10-17", "Statement": [{name: value for name, value in statement.items() if value is not None}]}


def says(document: dict[str, Any], *, action: str = WEB, principal: Principal = PROVIDER) -> bool:
    check_trust(document)
    return admits(document, action, principal, CONTEXT)


@pytest.mark.parametrize(
    ("condition", "admitted"),
    [
        (None, True),
        ({"StringEquals": {f"{HOST}:aud": "sts.amazonaws.com"}}, True),
        ({"StringEquals": {f"{HOST}:aud": "STS.amazonaws.com"}}, False),
        ({"StringEquals": {f"{HOST}:aud": ["other", "sts.amazonaws.com"]}}, True),
        ({"StringEquals": {f"{HOST}:aud": "sts.*"}}, False),
        ({"StringEquals": {"AWS:requestTag/Environment": "production"}}, True),
        ({"StringEquals": {"aws:RequestTag/absent": "x"}}, False),
        ({"StringEqualsIfExists": {"aws:RequestTag/absent": "x"}}, True),
        ({"StringEqualsIfExists": {"aws:RequestTag/environment": "x"}}, False),
        ({"StringNotEquals": {"aws:RequestTag/absent": "x"}}, True),
        ({"StringNotEquals": {"aws:RequestTag/environment": ["x", "production"]}}, False),
        ({"StringNotEquals": {"aws:RequestTag/environment": ["x", "y"]}}, True),
        ({"StringLike": {f"{HOST}:sub": "environment:production:*"}}, True),
        ({"StringLike": {f"{HOST}:sub": "environment:productio?:*"}}, True),
        ({"StringLike": {f"{HOST}:sub": "environment:prod:*"}}, False),
        ({"StringLike": {f"{HOST}:sub": "production"}}, False),
        ({"StringLike": {f"{HOST}:sub": "*.lake"}}, False),
        ({"StringNotLike": {"sts:RoleSessionName": "gl-*"}}, False),
        ({"Null": {"aws:RequestTag/absent": "true"}}, True),
        ({"Null": {"aws:RequestTag/environment": "true"}}, False),
        ({"Null": {"aws:RequestTag/environment": "false"}}, True),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["environment", "job_id"]}}, True),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["environment"]}}, False),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["environment"]}}, True),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["other"]}}, False),
        ({"ForAllValues:StringLike": {"sts:TransitiveTagKeys": ["env*"]}}, True),
        ({"StringEquals": {f"{HOST}:aud": "sts.amazonaws.com", "sts:RoleSessionName": "other"}}, False),
        ({"StringEquals": {f"{HOST}:aud": "sts.amazonaws.com"}, "StringLike": {"sts:RoleSessionName": "x*"}}, False),
    ],
)
def test_a_condition_holds_as_iam_says(condition: dict[str, Any] | None, *, admitted: bool) -> None:
    """Keys without case, values with it; several values are any of them, several keys and operators all of them."""
    assert says(trust(condition)) is admitted


def test_for_all_values_is_true_of_no_tags_at_all() -> None:
    """As in IAM, which is why it stands only next to a key that is required."""
    document = trust({"ForAllValues:StringEquals": {"aws:TagKeys": ["environment"]}})
    assert admits(document, WEB, PROVIDER, {})
    assert tag_context({}, ()) == {}


def test_a_deny_that_matches_wins_wherever_it_stands() -> None:
    document = trust()
    deny = trust({"StringEquals": {"aws:RequestTag/job_id": "302"}}, Effect="Deny")["Statement"]
    for order in ([*document["Statement"], *deny], [*deny, *document["Statement"]]):
        assert not says({"Version": "2012-10-17", "Statement": order})
    other = trust({"StringEquals": {"aws:RequestTag/job_id": "303"}}, Effect="Deny")["Statement"]
    assert says({"Version": "2012-10-17", "Statement": [*document["Statement"], *other]})


@pytest.mark.parametrize(
    ("named", "arn", "admitted"),
    [
        ({"AWS": USER.arn}, USER.arn, True),
        ({"AWS": ["x", USER.arn]}, USER.arn, True),
        ({"AWS": "arn:aws:iam::111122223333:root"}, USER.arn, True),
        ({"AWS": "111122223333"}, USER.arn, True),
        ({"AWS": "999999999999"}, USER.arn, False),
        ({"AWS": USER.arn + "2"}, USER.arn, False),
        ({"Federated": PROVIDER.arn}, USER.arn, False),
        ({"AWS": "arn:aws:iam::111122223333:role/broker"}, "arn:aws:sts::111122223333:assumed-role/broker/i-1", True),
        ({"AWS": "arn:aws:iam::111122223333:role/broker"}, "arn:aws:sts::111122223333:assumed-role/other/i-1", False),
        ({"AWS": "arn:aws:iam::111122223333:role/broker"}, "arn:aws:sts::999999999999:assumed-role/broker/i-1", False),
    ],
)
def test_a_principal_is_named_or_it_is_not(named: dict[str, Any], arn: str, *, admitted: bool) -> None:
    document = trust(Principal=named, Action="sts:AssumeRole")
    assert says(document, action="sts:AssumeRole", principal=Principal(kind="AWS", arn=arn)) is admitted


def test_another_provider_and_another_action_are_not_admitted() -> None:
    assert not says(trust(), principal=Principal(kind="Federated", arn=PROVIDER.arn + ".evil"))
    assert not says(trust(), action="sts:TagSession")
    assert says(trust(Action=[WEB, "sts:TagSession"]), action="sts:TagSession")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "Version"),
        ({"Version": "2008-10-17", "Statement": []}, "Version"),
        ({"Version": "2012-10-17", "Statement": []}, "Statement"),
        (trust(NotAction="sts:AssumeRole"), "NotAction"),
        (trust(Effect="Permit"), "no Effect"),
        (trust(Action="sts:*"), "action"),
        (trust(Action=None), "action"),
        (trust(Action=[]), "action"),
        (trust(Principal="*"), "Principal"),
        (trust(Principal={"AWS": "*"}), "wildcard"),
        (trust(Principal={"AWS": ["arn:aws:iam::111122223333:user/*"]}), "wildcard"),
        (trust(Principal={"Service": "ec2.amazonaws.com"}), "Principal"),
        (trust(Principal={"AWS": USER.arn, "Federated": PROVIDER.arn}), "Principal"),
        (trust({"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}), "operator"),
        (trust({"NullIfExists": {"aws:TagKeys": "true"}}), "operator"),
        (trust({"ForSome:StringEquals": {"aws:TagKeys": "x"}}), "operator"),
        (trust({"StringEquals": {"aws:SourceIp": "10.0.0.1"}}), "not known"),
        (trust({"StringEquals": {f"{HOST}:environment": "production"}}), "not known"),
        (trust({"StringEquals": {"aws:TagKeys": "x"}}), "set operator"),
        (trust({"ForAllValues:StringEquals": {"aws:RequestTag/a": "x"}}), "set operator"),
        (trust({"StringEquals": {"aws:RequestTag/a": 7}}), "strings"),
    ],
)
def test_a_trust_policy_that_would_be_half_obeyed_is_refused(document: dict[str, Any], words: str) -> None:
    """A condition that nobody evaluates would look like protection. AWS has no `environment` key for such a provider either."""
    with pytest.raises(PolicyRefused, match=words):
        check_trust(document)


def test_an_account_knows_what_was_put_into_it() -> None:
    account = Account("111122223333")
    provider = OidcProvider(url="https://broker.example.com/", client_ids=("sts.amazonaws.com",))
    caller = Caller(arn=USER.arn, access_key_id="AKIA", secret_access_key="value", session_token="token")
    assert account.put_provider(provider) == PROVIDER.arn
    account.put_caller(caller)
    arn = account.put_role(Role(name="etl", trust=trust()))
    assert arn == "arn:aws:iam::111122223333:role/etl"
    assert account.role(arn) is not None
    assert account.role(arn + "x") is None
    assert account.provider("https://broker.example.com/") is provider
    assert account.provider("https://broker.example.com") is None
    assert account.caller("AKIA") is caller
    assert "value" not in repr(caller)
    assert "token'" not in repr(caller)


@pytest.mark.parametrize("role", [Role(name="a/b", trust=trust()), Role(name="etl", trust=trust(), max_seconds=900)])
def test_a_role_that_iam_would_not_make_is_refused(role: Role) -> None:
    """The shortest MaxSessionDuration is an hour."""
    with pytest.raises(PolicyRefused, match="no such name or MaxSessionDuration"):
        Account("111122223333").put_role(role)
