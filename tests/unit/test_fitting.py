"""What broker.toml and policy say together."""

from datetime import timedelta

import pytest

from broker.config import AwsConfig, VaultConfig
from broker.fitting import region_of
from broker.policy.target import AwsGrant

VAULT = VaultConfig(
    name="vault",
    url="https://v.example",
    mount="jwt",
    via="issuer",
    namespace=None,
    ca_file=None,
    audience="a",
    maintenance_role=None,
)


def aws(name: str, region: str) -> AwsConfig:
    return AwsConfig(name=name, region=region, via="issuer", sts_url=None, audience="sts.amazonaws.com")


@pytest.mark.parametrize(
    ("own", "upstream", "region"),
    [
        ("eu-west-3", "north", "eu-west-3"),
        (None, "north", "eu-north-1"),
        (None, "south", "eu-south-1"),
        (None, None, "eu-north-1"),
    ],
)
def test_a_grant_is_used_in_its_own_region_or_its_upstreams(own: str | None, upstream: str | None, region: str) -> None:
    grant = AwsGrant(
        role_arn="arn:aws:iam::111122223333:role/etl",
        session_policy=None,
        policy_arns=(),
        external_id=None,
        region=own,
        ttl=timedelta(hours=1),
        upstream=upstream,
    )
    assert region_of([VAULT, aws("north", "eu-north-1"), aws("south", "eu-south-1")], grant) == region
