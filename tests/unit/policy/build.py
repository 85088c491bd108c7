"""Policies and jobs for tests, written as short as they can be."""

from typing import Any

from broker.identity.claims import JobIdentity
from broker.policy.language import PolicyInvalid, parse
from broker.policy.model import Policy
from broker.toml_source import Problem, SourceInvalid
from tests.strategies import identity

LAKE = """
[[grant]]
name = "lake"
environments = ["production"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"
"""

PRODUCTION = """
[[environment]]
name = "production"
when.issuer = "gitlab"
when.project_id = "4711"
when.ref_path = "refs/heads/main"
when.ref_protected = true
"""

HEAD = "version = 1\n"

WHOLE = """version = 1
project_id = ["4711"]

[[environment]]
name = "production"
when.issuer = "gitlab"
when.ref_path = "refs/heads/main"
when.ref_protected = true
when.environment = "production"
when.pipeline_source = ["push", "schedule", "web"]
max_session = "12h"

[[environment]]
name = "review"
when.issuer = "gitlab"
when.ref_path = "refs/heads/**"
when.pipeline_source = ["push", "web"]
unless.ref_path = "refs/heads/main"

[[grant]]
name = "lake"
environments = ["production", "review"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"
session_policy = "lake.json"
ttl = "1h"

[[grant]]
name = "warehouse"
environments = ["production"]
max_ttl = "1h"
rate = "30/m"
[grant.vault]
role = "etl-{environment}"
path = "database/creds/etl-{environment}"
"""

GOOD_OF_EVERY_KEY = """version = 1
project_id = ["4711"]
[guards.own]
when.ref_type = "branch"
unless.job_source = "x"
[[environment]]
name = "production"
max_session = "90s"
max_exchanges = 3
use = ["own"]
hints = "full"
allow_forks = true
[environment.when]
issuer = "gitlab"
namespace_id = ["7", "8"]
project_path = "acme/**"
runner_id = [1, 2]
environment_protected = false
pipeline_source = "merge_request_event"
[environment.unless]
groups_direct = "interns"
[[grant]]
name = "a"
environments = ["production"]
strict_expiry = true
shared = true
max_ttl = "1h"
rate = "30/m"
[grant.aws]
session_policy = "lake.json"
role_arn = "arn:aws-us-gov:iam::111122223333:role/path/etl"
policy_arns = ["arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::111122223333:policy/etl-{environment}"]
external_id = "x-{project_id}"
region = "eu-central-1"
ttl = "15m"
upstream = "aws-two"
[[grant]]
name = "b"
environments = ["production"]
[grant.vault]
role = "etl"
path = "secret/apps/{project_id}/**"
engine = "kv2"
upstream = "vault-two"
[[grant]]
name = "c"
environments = ["production"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl"
rds = { host = "db.example.eu-central-1.rds.amazonaws.com", port = 5433, user = "etl_{environment}" }
[[invariant]]
name = "no tag"
never.environment = "production"
never.grant = ["a", "b"]
never.claim.ref_type = "tag"
"""

LAKE_JSON = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject",'
    ' "Resource": "arn:aws:s3:::lake/{environment}/*"}]}'
)


def templates(name: str) -> str:
    if name != "lake.json":
        raise SourceInvalid([Problem(name, 1, "the file cannot be read (No such file or directory)")])
    return LAKE_JSON


def policy(text: str) -> Policy:
    return parse(text, "policy.toml", templates)


def refusals(text: str, **options: Any) -> list[str]:
    """Every problem of a policy, as its owner reads them; none when it is taken."""
    try:
        parse(text, "policy.toml", templates, **options)
    except PolicyInvalid as invalid:
        return [str(problem) for problem in invalid.problems]
    return []


def job(**claims: Any) -> JobIdentity:
    """A push to protected main of project 4711; `None` takes a claim away."""
    issuer_name = claims.pop("issuer_name", "gitlab")
    gone = [name for name, value in claims.items() if value is None]
    return identity(issuer_name=issuer_name, claims=claims, without=gone)
