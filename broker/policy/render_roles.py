"""Which upstream roles a policy asks for, and which of the broker's assertions each has to admit: where every rendering starts.

An assertion names environment, grant, issuer and project in `sub` (DESIGN 3.2), so a list of subjects admits exactly the pairs of
environment and grant that the policy has, where lists of single claims would admit their product.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from broker.errors import Code, Misconfigured
from broker.identity.profile import ClaimKind
from broker.identity.profiles import PROFILES
from broker.policy.model import Condition, Environment, Grant, Policy
from broker.policy.placeholders import filled
from broker.policy.satisfy import Solver, inside
from broker.policy.target import AwsGrant, VaultGrant

MAINTENANCE_SUBJECT = "broker:maintenance"
LONGEST_SESSION = timedelta(hours=24)  # of an environment that sets no max_session: what an issuer's tokens live at most
# How the session names of each kind of issuer start (`Profile.label`).
SESSIONS: Mapping[str, str] = {"gitlab": "gl-", "github": "gh-", "okta": "ok-", "kubernetes": "k8s-", "generic": "oidc-"}
_PROTECTED = "ref_protected"
_IN_SUBJECT = re.compile(r"[A-Za-z0-9_.@/+=-]+")  # what `assertions` lets into a subject
_IN_TEMPLATE = re.compile(r"[A-Za-z0-9_.-]+")  # what `templates` lets into a role or path


@dataclass(frozen=True, slots=True)
class Served:
    """One grant in one environment: whose assertions a role admits for it."""

    rule: Environment
    grant: Grant
    subjects: tuple[str, ...]  # exact; for a rule that pins a namespace one that ends in `*`
    protected: tuple[str, ...]  # what `ref_protected` can be: "true", "false"

    @property
    def open_ended(self) -> bool:
        return any(subject.endswith("*") for subject in self.subjects)


Roles = Mapping[str, tuple[Served, ...]]


def vault_roles(policy: Policy, upstream: str | None) -> Roles:
    """Role name -> what it serves, of that Vault upstream; None takes every grant. Names are as Vault keeps them.

    Raises Misconfigured for a name that depends on a job: a role that cannot be written down.
    """
    return _collected(policy, VaultGrant, upstream)


def aws_roles(policy: Policy, upstream: str | None) -> Roles:
    """Role ARN -> what it serves, of that AWS upstream; None takes every grant. Raises Misconfigured as above."""
    return _collected(policy, AwsGrant, upstream)


def longest(served: tuple[Served, ...]) -> timedelta:
    """The longest session of the environments that a role serves."""
    return max(one.rule.max_session or LONGEST_SESSION for one in served)


def projects(rule: Environment) -> tuple[str, ...] | None:
    """The stable ids of a rule's projects; None when it takes every project of a namespace."""
    return tuple(sorted(rule.pinned_to)) if rule.pinned_by == PROFILES[rule.profile].stable_id else None


def _collected(policy: Policy, kind: type[AwsGrant | VaultGrant], upstream: str | None) -> Roles:
    found: dict[str, list[Served]] = {}
    solver = Solver()
    for grant in policy.grants:
        if not isinstance(grant.target, kind) or (upstream is not None and grant.target.upstream not in (None, upstream)):
            continue
        for rule in policy.reached_by(grant):
            protected = _protected(solver, rule)
            if protected:  # else no job is ever in it
                for name, subjects in _names(rule, grant):
                    found.setdefault(name, []).append(Served(rule, grant, subjects, protected))
    return {name: tuple(served) for name, served in sorted(found.items())}


def _names(rule: Environment, grant: Grant) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The roles that this grant has in this environment, each with the subjects that it is for."""
    target = grant.target
    template = target.role_arn if isinstance(target, AwsGrant) else target.role
    pinned = projects(rule)
    _fit(rule, grant, pinned or ())
    named = filled(template, {"environment": rule.name, "project_id": "\0project", "job_id": "\0job"})
    if "\0job" in named or ("\0project" in named and pinned is None):
        what = "{job_id}" if "\0job" in named else "{project_id}, and the environment takes every project of a namespace"
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"grant {grant.name!r} in environment {rule.name!r}: {template!r} has {what}, so its roles cannot be listed; "
            "name the role by {environment}, or by {project_id} with projects that are pinned",
        )
    if "\0project" in named and pinned is not None:
        for project in pinned:
            yield named.replace("\0project", project), (_subject(rule, grant, project),)
    else:
        yield named, tuple(_subject(rule, grant, project) for project in pinned or ("*",))


def _fit(rule: Environment, grant: Grant, pinned: tuple[str, ...]) -> None:
    """Raises Misconfigured for an id that no assertion, or not this grant's role or path, can carry: such a job gets nothing."""
    target = grant.target
    texts = (target.role_arn,) if isinstance(target, AwsGrant) else (target.role, target.path)
    fitting = _IN_TEMPLATE if any("{project_id}" in text for text in texts) else _IN_SUBJECT
    for project in pinned:
        if fitting.fullmatch(project) is None:
            where = "a role or path" if fitting is _IN_TEMPLATE else "the broker's assertion"
            raise Misconfigured(
                Code.CONFIG_INVALID,
                f"grant {grant.name!r} in environment {rule.name!r}: {rule.pinned_by} {project!r} does not fit into {where}, so "
                "its jobs never get it; pin an id of letters, digits and _ - ., or leave the grant out",
            )


def _subject(rule: Environment, grant: Grant, project: str) -> str:
    return f"environment:{rule.name}:grant:{grant.name}:issuer:{rule.issuer}:project:{project}"


def _protected(solver: Solver, rule: Environment) -> tuple[str, ...]:
    """What the assertion's `ref_protected` can say of a job in this environment: proved, not read off one condition."""
    question = inside([rule])
    if _PROTECTED not in PROFILES[rule.profile].refs:
        return ("false",) if solver.job(question) is not None else ()
    true = Condition(
        claim=_PROTECTED, clause="model", kind=ClaimKind.BOOL, exact=frozenset({True}), globs=(), negated=False, wanted="true"
    )
    found = []
    if solver.job(replace(question, held=(*question.held, true))) is not None:
        found.append("true")
    if solver.job(replace(question, broken=(true,))) is not None:
        found.append("false")
    return tuple(found)


def have_refs(served: Sequence[Served]) -> bool:
    """Whether jobs of any of these run on a ref. Where none does, the assertion says `false`, and no role binds that."""
    return any(PROFILES[one.rule.profile].refs for one in served)


def fits_one_role(name: str, served: tuple[Served, ...]) -> tuple[str, ...]:
    """The `ref_protected` values that the role has to admit.

    Raises Misconfigured when it serves grants that differ in it: a role admits a value or not, whatever the subject is.
    """
    sets = {one.protected for one in served}
    if len(sets) > 1:
        rules = ", ".join(sorted({f"{one.grant.name}@{one.rule.name}" for one in served}))
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"role {name!r} serves {rules}, of which some need a protected ref and some do not; give them roles of their own, "
            'as in role = "etl-{environment}"',
        )
    return next(iter(sets))
