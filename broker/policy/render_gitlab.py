"""What a job's `.gitlab-ci.yml` has to say to be in each environment: the ID token, `environment:`, and on which refs."""

import json
from collections.abc import Iterator

from broker.policy.model import Condition, Environment, Policy

_TOKEN = "CREDBROKER_ID_TOKEN"  # noqa: S105 - a variable's name


def gitlab(policy: Policy, audience: str) -> str:
    """One hidden job for each environment of a GitLab issuer, to be used with `extends:`. YAML."""
    rules = [rule for rule in policy.environments if rule.profile == "gitlab"]
    head = ["# Jobs that `extends:` one of these can be in that environment; what else it wants stands above it.", ""]
    return (
        "\n".join([*head, *(line for rule in rules for line in _job(rule, policy, audience, several=_twins(rules, rule)))]) + "\n"
    )


def _twins(rules: list[Environment], rule: Environment) -> bool:
    return sum(other.name == rule.name for other in rules) > 1


def _job(rule: Environment, policy: Policy, audience: str, *, several: bool) -> Iterator[str]:
    grants = ", ".join(policy.granted(rule)) or "none"
    yield f"# environment {rule.name}; grants: {grants}"
    for condition in rule.conditions:
        if condition.claim not in ("environment", "environment_action"):
            yield f"#   {condition.claim}: {condition.wanted}"
    suffix = f"-{'-'.join(sorted(rule.pinned_to))}" if several else ""
    yield f".credbroker-{rule.name}{suffix}:"
    yield "  id_tokens:"
    yield f"    {_TOKEN}:"
    yield f"      aud: {json.dumps(audience)}"
    named = _exact(rule, "environment")
    if named:
        # `access` asks for the environment's claims without making a deployment of it.
        actions = _exact(rule, "environment_action")
        yield "  environment:"
        yield f"    name: {json.dumps(named[0])}" + (f"   # or {', '.join(named[1:])}" if named[1:] else "")
        yield f"    action: {'access' if not actions or 'access' in actions else actions[0]}"
    yield ""


def _exact(rule: Environment, claim: str) -> list[str]:
    """The values that the rule names for this claim, and that its other conditions on it take."""
    conditions: list[Condition] = [c for c in rule.conditions if c.claim == claim]
    named = sorted({str(value) for c in conditions if not c.negated for value in c.exact})
    return [value for value in named if all(c.holds(value) for c in conditions)]
