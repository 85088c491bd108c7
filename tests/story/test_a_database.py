"""A job's token for a database of RDS, through a real broker and the strict STS."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

import pytest

from broker.demo.files import ACCOUNT, PROJECT
from broker.demo.iam import OidcProvider, Role
from broker.demo.world import World
from tests.fakes.aws import needs_ministack

HOST = "db.example.eu-central-1.rds.amazonaws.com"
POLICY = f"""
[[grant]]
name = "warehouse-rds"
environments = ["production"]
[grant.aws]
role_arn = "arn:aws:iam::{ACCOUNT}:role/warehouse"
rds = {{ host = "{HOST}", user = "etl_{{environment}}" }}
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with needs_ministack(), World(policy=POLICY) as world:
        provider = OidcProvider(url=world.url, client_ids=("sts.amazonaws.com",))
        admission: dict[str, Any] = {
            "Effect": "Allow",
            "Principal": {"Federated": world.account.provider_arn(provider)},
            "Action": ["sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:SetSourceIdentity"],
            "Condition": {
                "StringEquals": {
                    f"{provider.host}:aud": "sts.amazonaws.com",
                    f"{provider.host}:sub": f"environment:production:grant:warehouse-rds:issuer:gitlab:project:{PROJECT}",
                }
            },
        }
        resource = f"arn:aws:rds-db:eu-central-1:{ACCOUNT}:dbuser:*/etl_production"
        connect = {"Effect": "Allow", "Action": "rds-db:connect", "Resource": resource}
        version = {"Version": "2012-10-17"}
        role = Role(name="warehouse", trust=version | {"Statement": [admission]}, permissions=version | {"Statement": [connect]})
        world.account.put_role(role)
        world.cloud.put_role(role)
        yield world


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_a_job_reads_a_token_and_the_log_knows_whose_it_is(world: World) -> None:
    environment = world.job_environment(world.token(), "8001")
    done = world.run(["get", "warehouse-rds", "--format", "json"], environment)
    assert done.returncode == 0, done.stderr
    credential = json.loads(done.stdout)
    token = credential["data"].pop("password")
    assert credential["kind"] == "rds"
    assert credential["data"] == {"username": "etl_production", "host": HOST, "port": "5432"}
    signed = parse_qs(token.partition("?")[2])
    assert token.startswith(f"{HOST}:5432/?Action=connect&DBUser=etl_production&")
    life = moment(credential["expires_at"]) - moment(credential["issued_at"])
    assert 14 * 60 < life.total_seconds() <= 15 * 60

    queried = world.run(["audit", "query", str(world.database), "--json"], environment)
    entries = [json.loads(line)["entry"]["unmapped"] for line in queried.stdout.splitlines()]
    (issued,) = [entry for entry in entries if entry["kind"] == "issued"]
    ids = issued["upstream_ids"]
    assert signed["X-Amz-Credential"][0].split("/")[0] == ids["access_key_id"]
    assert ids["session_name"].startswith("gl-")
    assert issued["revocable"] == "none"
    kept = b"".join(path.read_bytes() for path in world.folder.glob("broker.*"))
    assert signed["X-Amz-Signature"][0].encode() not in kept
    assert ids["access_key_id"].encode() in kept

    (file,) = (world.folder / "job-8001").rglob("8001.json")
    handle = json.loads(file.read_text())["handle"]
    status, body = world.ask("/v1/session", handle)
    assert status == 200
    assert {"grant": "warehouse-rds", "kind": "rds", "subpath": False} in body["offers"]
    status, body = world.ask("/v1/aws/warehouse-rds", handle)
    assert (status, body["code"]) == (404, "grant_unknown")
    assert "is not an AWS grant; read it at /v1/credentials/warehouse-rds" in body["error_description"]
    assert world.ask("/v1/aws/lake", handle)[0] == 200


def test_a_command_with_only_a_database_has_no_aws_and_its_output_no_token(world: World) -> None:
    show = "import os; print(os.environ['PGPASSWORD']); print(*[n for n in os.environ if n.startswith('AWS_CON')], 'none')"
    options = ["--grant", "warehouse-rds", "--env", "PGPASSWORD=secret://warehouse-rds#password"]
    done = world.run(["exec", *options, "--", sys.executable, "-c", show], world.job_environment(world.token(), "8002"))
    assert done.returncode == 0, done.stderr
    masked, names = done.stdout.splitlines()
    assert names == "none"
    assert "X-Amz" not in masked
    assert "AWS credentials that the command had lapse by" in done.stderr
