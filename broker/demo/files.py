"""What the demo's world writes: the broker's files, Luigi's, and a role for each environment."""

from broker.demo.iam import Role

ACCOUNT = "111122223333"
BUCKET = "acme-data"
PROJECT = "4711"
ORDERS = "region,amount,state\nnorth,10,paid\nsouth,7,cancelled\nnorth,5,paid\nsouth,4,paid\n"
ROTATE_EVERY = "4s"

DEMO_POLICY = """\
version = 1
project_id = ["{project}"]

[[environment]]
name = "production"
when.issuer = "gitlab"
when.ref_path = "refs/heads/main"
when.ref_protected = true
when.environment = "production"
when.pipeline_source = ["push", "schedule", "web"]

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
role_arn = "arn:aws:iam::{account}:role/etl-{{environment}}"
session_policy = "lake.json"
ttl = "15m"                                     # the SDK then asks for every request, and sees each rotation at once
"""

BROKER = """\
public_url = "{url}"
policy = "policy.toml"

[listen]
unix = "{socket}"
http = "127.0.0.1:{port}"

[store]
url = "sqlite:///broker.db"

[keys]
issuer = "keys/issuer"
log = "keys/log.pem"
store = "keys/store.key"

[log]
origin = "demo.example/log"

[[issuer]]
name = "gitlab"
profile = "gitlab"
issuer = "{issuer}"
audience = ["{url}"]

[[upstream]]
name = "aws"
kind = "aws"
region = "eu-central-1"
via = "issuer"
sts_url = "{sts}"

[limits]
rotate_every = "{rotate_every}"
"""

LUIGI = """\
[core]
no_configure_logging = true
; each world locks its own pipeline, not its neighbour's
lock_pid_dir = {folder}
[worker]
check_complete_on_run = true
[retcode]
already_running = 10
missing_data = 20
not_run = 25
task_failed = 30
scheduling_error = 35
unhandled_exception = 40
[Lake]
root = s3://{bucket}/production
project = {project}
"""

SESSION_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{BUCKET}/{{environment}}/*"},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{BUCKET}"},
    ],
}


def role(environment: str, provider_arn: str, host: str) -> Role:
    """A role per environment: who may assume it, and the prefix that it reaches."""
    return Role(
        name=f"etl-{environment}",
        trust={
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Federated": provider_arn},
                    "Action": ["sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:SetSourceIdentity"],
                    "Condition": {
                        "StringEquals": {f"{host}:aud": "sts.amazonaws.com", "aws:RequestTag/environment": environment},
                        "StringLike": {f"{host}:sub": f"environment:{environment}:grant:lake:issuer:gitlab:project:{PROJECT}"},
                    },
                }
            ],
        },
        permissions={
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["s3:GetObject", "s3:PutObject"],
                    "Resource": f"arn:aws:s3:::{BUCKET}/{environment}/*",
                },
                {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{BUCKET}"},
            ],
        },
    )
