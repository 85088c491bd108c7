"""What a policy costs: a decision at 10, 1 000 and 10 000 rules, and the load of 10 000. `make bench` prints one line each.

Goals (issue 5): a decision that allows at most 3 µs, at most twice that with 10 000 rules; a load of 10 000 rules at most 2 s.
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from broker.identity.claims import ClaimSet, JobIdentity
from broker.policy.decide import decide
from broker.policy.language import parse
from broker.policy.model import Allow, Deny, Policy

_RULE = """
[[environment]]
name = "production-{n}"
when.issuer = "gitlab"
when.project_id = ["{project}"]
when.ref_path = "refs/heads/main"
when.ref_protected = true
when.environment = "production"
when.pipeline_source = ["push", "schedule", "web"]

[[environment]]
name = "review-{n}"
when.issuer = "gitlab"
when.project_id = ["{project}"]
when.ref_path = "refs/heads/feature/**"
when.pipeline_source = ["push", "web"]
unless.environment = "production"
"""
_GRANT = """
[[grant]]
name = "lake"
environments = [{environments}]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{{environment}}"
"""


def text_of(rules: int) -> str:
    """A policy of that many environments, two for a project."""
    projects = range(rules // 2)
    environments = ", ".join(f'"production-{n}", "review-{n}"' for n in projects)
    return (
        "version = 1\n"
        + "".join(_RULE.format(n=n, project=4000 + n) for n in projects)
        + _GRANT.format(environments=environments)
    )


def job(project: int, **claims: str | bool | int) -> JobIdentity:
    """A push to protected main of that project, with as many claims as GitLab sends."""
    values: dict[str, str | bool | int] = {
        "project_id": str(project), "project_path": "acme/data", "namespace_id": "72", "namespace_path": "acme",
        "job_project_id": str(project), "job_project_path": "acme/data", "job_namespace_id": "72", "job_namespace_path": "acme",
        "project_visibility": "private", "user_id": "1", "user_access_level": "maintainer", "pipeline_id": "574",
        "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
        "ref_protected": True, "environment": "production", "environment_protected": True, "deployment_tier": "production",
        "environment_action": "access", "runner_id": 1, "runner_environment": "self-hosted", "sha": "0" * 40,
        "ci_config_ref_uri": "gitlab.example.com/acme/data//.gitlab-ci.yml@refs/heads/main", "ci_config_sha": "0" * 40,
    }  # fmt: skip
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return JobIdentity(
        issuer_name="gitlab", profile="gitlab", issuer="https://gitlab.example.com", stable_id=str(project), jti="j", kid="k",
        issued_at=at, expires_at=at, project_id=str(project), project_path="acme/data", job_id="302", pipeline_id="574",
        ref_path="refs/heads/main", ref_protected=True, user_id="1", claims=ClaimSet(values | claims),
    )  # fmt: skip


def microseconds(work: Callable[[], object], *, rounds: int = 100, calls: int = 300) -> float:
    """Of one call: the fastest of several rounds, which is what the code costs and not what the machine was doing."""
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, time.perf_counter() - begun)
    return best / calls * 1e6


def decisions(policy: Policy, rules: int) -> dict[str, float]:
    """Microseconds of an allow and of a denial, for a project in the middle of that policy."""
    project = 4000 + rules // 4
    allowed, denied = job(project), job(project, ref_protected=False)
    assert isinstance(decide(policy, allowed, ("lake",)), Allow)
    assert isinstance(decide(policy, denied, ("lake",)), Deny)
    return {
        "allow": microseconds(lambda: decide(policy, allowed, ("lake",))),
        "deny": microseconds(lambda: decide(policy, denied, ("lake",)), calls=100),
    }


def main() -> None:
    for rules in (10, 1_000, 10_000):
        text = text_of(rules)
        begun = time.process_time()  # the processor's, not the wall's: a load is long enough for others to get in between
        policy = parse(text, "policy.toml", lambda _: "")
        loaded = time.process_time() - begun
        found = decisions(policy, rules)
        sys.stdout.write(
            f"{rules:>6} rules: load {loaded:7.3f} s, allow {found['allow']:6.2f} us, deny {found['deny']:6.2f} us\n"
        )


if __name__ == "__main__":
    main()
