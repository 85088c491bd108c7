"""What STS would refuse, or would take and misread, is stopped before the call; and its neighbour within the limit is not."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Code, Misconfigured, Refused
from broker.policy.model import AwsTarget
from broker.upstream import Order
from broker.upstreams.aws_limits import check_assertion, check_job, check_target, session_seconds, session_tags
from tests.strategies import identity

ROLE = "arn:aws:iam::111122223333:role/etl-production"
POLICY = '{"Version":"2012-10-17","Statement":[]}'
TARGET = AwsTarget(
    role_arn=ROLE, session_policy=None, policy_arns=(), external_id=None, region=None, ttl=timedelta(hours=1), upstream=None
)
OWN = "arn:aws:iam::111122223333:policy/"


@pytest.mark.parametrize(
    ("wanted", "ttl", "seconds"),
    [
        (timedelta(hours=5), timedelta(hours=1), 3600),
        (timedelta(minutes=20), timedelta(hours=1), 1200),
        (timedelta(minutes=1), timedelta(hours=1), 900),
        (timedelta(0), timedelta(hours=1), 900),
        (timedelta(hours=1), timedelta(seconds=30), 900),
        (timedelta(hours=24), timedelta(hours=24), 43200),
        (timedelta(seconds=1000.9), timedelta(hours=1), 1000),
    ],
)
def test_the_duration_is_what_is_wanted_within_what_sts_gives(wanted: timedelta, ttl: timedelta, seconds: int) -> None:
    """DESIGN 3.7: max(900, min(ttl, rest of the session)), and never more than twelve hours."""
    assert session_seconds(wanted, ttl) == seconds


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"role_arn": "etl"}, "role_arn"),
        ({"role_arn": ROLE + "\n"}, "role_arn"),
        ({"role_arn": ROLE.replace("111122223333", "11112222333")}, "role_arn"),
        ({"role_arn": ROLE.replace("role/", "user/")}, "role_arn"),
        ({"role_arn": ROLE + "*"}, "role_arn"),
        ({"ttl": timedelta(hours=12, seconds=1)}, "12 hours"),
        ({"external_id": "x"}, "external_id"),
        ({"external_id": "x" * 1225}, "external_id"),
        ({"external_id": "a b"}, "external_id"),
        ({"policy_arns": (OWN + "p",) * 11}, "10"),
        ({"policy_arns": ("arn:aws:iam::111122223333:role/p",)}, "not the ARN of a managed policy"),
        ({"policy_arns": ("arn:aws:iam::999999999999:policy/p",)}, "another account"),
        ({"session_policy": "{"}, "not JSON"),
        ({"session_policy": "[" * 2000}, "not JSON"),
        ({"session_policy": "[]"}, "no Statement"),
        ({"session_policy": '{"Version":"2012-10-17"}'}, "no Statement"),
        ({"session_policy": POLICY.replace("[]", '["Ā"]')}, "character"),
        ({"session_policy": ""}, "character"),
        ({"session_policy": POLICY + " " * (2049 - len(POLICY))}, "2049 characters"),
        ({"session_policy": POLICY + " " * (2040 - len(POLICY)), "policy_arns": (OWN + "p",)}, "together have"),
    ],
)
def test_what_an_operator_wrote_wrong_is_a_misconfiguration(changes: dict[str, Any], detail: str) -> None:
    """The caller learns only that it is the operators' matter; the log's detail names the setting."""
    with pytest.raises(Misconfigured) as caught:
        check_target(replace(TARGET, **changes), "eu-central-1")
    assert caught.value.code is Code.UPSTREAM_CONFIG
    assert detail in caught.value.detail
    assert detail not in caught.value.public


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"role_arn": "arn:aws-us-gov:iam::111122223333:role/ci/data/etl_1+=,.@-x"},
        {"ttl": timedelta(hours=12)},
        {"external_id": "ab"},
        {"external_id": "x" * 1224},
        {"policy_arns": tuple(f"{OWN}p{n}" for n in range(10))},
        {"policy_arns": ("arn:aws:iam::aws:policy/ReadOnlyAccess",)},
        {"session_policy": POLICY + " " * (2048 - len(POLICY))},
        {"session_policy": POLICY.replace("[]", '["ÿ\\t"]')},
    ],
)
def test_what_is_within_the_limits_passes(changes: dict[str, Any]) -> None:
    """The twins of the above."""
    check_target(replace(TARGET, **changes), "ap-southeast-4")


@pytest.mark.parametrize("region", ["", "eu", "eu-central", "eu-central-1.evil.example/", "EU-CENTRAL-1", "eu-central-1\n"])
def test_a_region_is_not_a_way_to_another_host(region: str) -> None:
    """It becomes part of the endpoint's name."""
    with pytest.raises(Misconfigured) as caught:
        check_target(TARGET, region)
    assert "region" in caught.value.detail


@pytest.mark.parametrize("region", ["eu-central-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1"])
def test_regions_of_all_partitions_pass(region: str) -> None:
    check_target(TARGET, region)


@pytest.mark.parametrize(
    ("name", "source", "tags", "words"),
    [
        ("a", "gl-1-2", {}, "RoleSessionName"),
        ("n" * 65, "gl-1-2", {}, "RoleSessionName"),
        ("gl 1", "gl-1-2", {}, "RoleSessionName"),
        ("gl-\u0661-2", "gl-1-2", {}, "RoleSessionName"),
        ("gl-1-2-x", "s" * 65, {}, "SourceIdentity"),
        ("gl-1-2-x", "gl:1", {}, "SourceIdentity"),
        ("gl-1-2-x", "gl-1-2", {"job_id": "1#2"}, "job_id"),
        ("gl-1-2-x", "gl-1-2", {"job_id": "1*"}, "job_id"),
        ("gl-1-2-x", "gl-1-2", {"job_id": "1\n"}, "job_id"),
        ("gl-1-2-x", "gl-1-2", {"job_id": "1" * 257}, "job_id"),
    ],
)
def test_ids_of_a_job_that_do_not_fit_are_refused(name: str, source: str, tags: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        check_job(name, source, tags)
    assert caught.value.code is Code.TEMPLATE_VALUE


@pytest.mark.parametrize(
    ("name", "source", "tags"),
    [
        ("ab", "ab", {}),
        ("n" * 64, "s" * 64, {"job_id": "1" * 256, "empty": ""}),
        ("gl-1-2+=,.@-_", "gl-1-2", {"ref": "a b/c:d=e+f-g@h_i.Ü"}),
    ],
)
def test_ids_of_a_job_that_fit_pass(name: str, source: str, tags: dict[str, str]) -> None:
    check_job(name, source, tags)


@given(st.text(min_size=1))
def test_no_value_is_ever_changed_to_fit(value: str) -> None:
    """A tag is sent as it is or not at all: `a#b` and `a_b` must not become one."""
    tags = {"job_id": value}
    try:
        check_job("gl-1-2-x", "gl-1-2", tags)
    except Refused:
        return
    assert tags == {"job_id": value}
    assert not set(value) & set("*?${}\"'#\n\r\t")


def test_an_assertion_that_sts_would_not_take_is_not_sent() -> None:
    check_assertion("t" * 20_000)
    with pytest.raises(Misconfigured) as caught:
        check_assertion("t" * 20_001)
    assert "20001 characters" in caught.value.detail


def test_the_six_tags_are_those_of_the_design() -> None:
    """DESIGN 3.2; trust policies name them."""
    order = Order(
        correlation_id="c",
        session_id="s",
        identity=identity(),
        environment="production",
        grant="lake",
        target=TARGET,
        ttl=timedelta(hours=1),
        login=None,
    )
    assert session_tags(order) == {
        "environment": "production",
        "grant": "lake",
        "project_id": "4711",
        "pipeline_id": "574",
        "job_id": "302",
        "ref_protected": "true",
    }
    loose = replace(order, identity=identity(claims={"ref_protected": False}))
    assert session_tags(loose)["ref_protected"] == "false"
