"""A first policy for a project, and its cases: text that a person goes on from. What it says is checked by parsing it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from broker.policy.model import Policy

ENVIRONMENT = "{environment}"
_ENVIRONMENTS = ("production", "review")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The answers. At least one of `aws_role` and `vault_path` is given."""

    project: str
    issuer: str
    branch: str
    aws_role: str | None
    vault_role: str | None
    vault_path: str | None
    vault_engine: str


def policy_text(draft: Draft) -> str:
    """The policy: production on the protected branch, review on every other; an invariant that keeps them apart."""
    return "\n".join([*_environments(draft), *_grants(draft), *_invariants()]) + "\n"


def cases_text(draft: Draft, policy: Policy, file: str) -> str:
    """Its cases, positive next to negative. `policy` is the one that `file` is part of: what others share is expected, too."""
    grants = {e.name: sorted(policy.granted(e)) for e in policy.environments if e.file == file}
    taken = {value for e in policy.environments for value in e.pinned_to}
    stranger = next(str(number) for number in range(int(draft.project) + 1, 2**63) if str(number) not in taken)
    branch = f"refs/heads/{draft.branch}"
    defaults = {
        "issuer": draft.issuer,
        "project_id": draft.project,
        "job_project_id": draft.project,
        "ref_path": branch,
        "ref_protected": True,
        "environment": "production",
        "pipeline_source": "push",
    }
    nowhere = {"deny": "no_environment"}
    elsewhere = {"ref_path": "refs/heads/some/branch", "ref_protected": False}
    review = {"environment": "review", "file": file, "grants": grants["review"]}
    merge = elsewhere | {"pipeline_source": "merge_request_event"}
    cases = [
        ("the protected branch is production", {}, {"environment": "production", "file": file, "grants": grants["production"]}),
        ("the branch without protection is nowhere", {"ref_protected": False}, nowhere | {"missing": ["ref_protected"]}),
        ("a tag of the branch's name is nowhere", {"ref_path": f"refs/tags/{draft.branch}"}, nowhere),
        ("another GitLab environment than production is nowhere", {"environment": "other"}, nowhere),
        ("a child pipeline is nowhere", {"pipeline_source": "parent_pipeline"}, nowhere),
        ("another project is nowhere", {"project_id": stranger, "job_project_id": stranger}, nowhere),
        ("another branch is review", elsewhere, review),
        ("a merge request of the project's own is review", merge, review),
        ("a merge request of a fork is nowhere", merge | {"job_project_id": stranger}, nowhere),
    ]
    lines = ["# What the policy is meant to say. `credbroker policy test` decides each case.", "[defaults]"]
    lines += [f"{name} = {_toml(value)}" for name, value in defaults.items()]
    for name, claims, expect in cases:
        lines += ["", "[[case]]", f"name = {_toml(name)}"]
        lines += [f"claims = {_toml(claims)}"] if claims else []
        lines.append(f"expect = {_toml(expect)}")
    return "\n".join(lines) + "\n"


def _environments(draft: Draft) -> Iterator[str]:
    branch = _toml(f"refs/heads/{draft.branch}")
    yield from (
        "#:schema policy.schema.json",
        "# Which jobs of this project are in which environment, and what they may have there.",
        "version = 1",
        f"project_id = [{_toml(draft.project)}]",
        "",
        "[[environment]]",
        'name = "production"',
        f"when.issuer = {_toml(draft.issuer)}",
        f"when.ref_path = {branch}",
        "when.ref_protected = true",
        'when.environment = "production"',
        'when.pipeline_source = ["push", "schedule", "web"]',
        'max_session = "12h"',
        "",
        "[[environment]]",
        'name = "review"',
        f"when.issuer = {_toml(draft.issuer)}",
        'when.ref_path = "refs/heads/**"',
        'when.pipeline_source = ["push", "web", "merge_request_event"]',
        f"unless.ref_path = {branch}",
        'max_session = "2h"',
    )


def _grants(draft: Draft) -> Iterator[str]:
    if draft.aws_role is not None:
        yield from _grant("lake", draft.aws_role)
        yield from ("[grant.aws]", f"role_arn = {_toml(draft.aws_role)}", 'ttl = "1h"')
    if draft.vault_role is not None and draft.vault_path is not None:
        yield from _grant("warehouse", draft.vault_role, draft.vault_path)
        yield from ("[grant.vault]", f"role = {_toml(draft.vault_role)}", f"path = {_toml(draft.vault_path)}")
        yield f"engine = {_toml(draft.vault_engine)}"


def _grant(name: str, *upstream: str) -> Iterator[str]:
    """In both environments only where each has something of its own upstream."""
    apart = all(ENVIRONMENT in text for text in upstream)
    environments = list(_ENVIRONMENTS if apart else _ENVIRONMENTS[:1])
    yield from ("", "[[grant]]", f"name = {_toml(name)}", f"environments = {_toml(environments)}")
    if not apart:
        word = "role" if len(upstream) == 1 else "role and path"
        yield f"# Not for review: its {word} would be production's without {ENVIRONMENT}."


def _invariants() -> Iterator[str]:
    yield from (
        "",
        "[[invariant]]",
        'name = "no unprotected ref reaches production"',
        'never.environment = "production"',
        "never.claim.ref_protected = false",
    )


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False)
