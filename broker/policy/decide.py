"""The decision: which environment a job is in, and which grants it may have there. Pure: the same input gives the same trail.

Deny is the default. What a refused job is told are its own claims only (DESIGN section 5): the policy's side would let a stranger
read the policy by asking.
"""

from collections.abc import Sequence

from broker.errors import Code
from broker.identity.claims import ClaimSet, JobIdentity
from broker.identity.profiles import PROFILES
from broker.policy.model import Allow, Decision, Deny, Environment, Policy, Step
from broker.policy.trail import Trail, examine

_STRANGER = "this job is in no environment of this broker's policy"
_MAX_CLAIMS = 8  # told in a hint
_MAX_STEPS = 64  # of a denial's trail: somebody may be near many environments
_NAME_CHARS = 80


def decide(policy: Policy, identity: JobIdentity, wants: Sequence[str] | None) -> Decision:
    """What this job may have. `wants` None means every grant of its environment; one grant that is denied refuses all.

    Checks no time and no signature: an identity is made of verified claims only.
    """
    return decide_claims(policy, identity.issuer_name, identity.profile, identity.claims, wants)


def decide_claims(policy: Policy, issuer: str, profile: str, claims: ClaimSet, wants: Sequence[str] | None) -> Decision:
    """`decide`, for claims that belong to no verified job: what `policy explain` asks."""
    found = candidates(policy, issuer, profile, claims)
    matching = [environment for environment in found if matches(environment, claims)]
    if not matching:
        return Deny(
            Code.NO_ENVIRONMENT, _hint(found, [tuple(examine(e, claims)) for e in found]), Trail(found, claims, most=_MAX_STEPS)
        )
    if len(matching) > 1:
        # The proof at load excludes this. Should it have a hole, two environments are none.
        hint = "the policy puts this job into two environments; its owner has to look at it"
        return Deny(Code.NO_ENVIRONMENT, hint, Trail(matching, claims))
    return _granted(policy, matching[0], Trail(matching, claims), wants)


def candidates(policy: Policy, issuer: str, profile: str, claims: ClaimSet) -> list[Environment]:
    """The environments that are pinned to this job's own stable ids, in the policy's order."""
    found: list[Environment] = []
    get = claims.by_name.get
    for pin, pinned in policy.pins(issuer, profile):
        value = get(pin)
        if type(value) is str and value in pinned:
            found = sorted([*found, *pinned[value]], key=_order) if found else [*pinned[value]]
    return found


def matches(environment: Environment, claims: ClaimSet) -> bool:
    """Whether every condition holds, and the job runs its own project's code or forks are allowed.

    Says nothing about the issuer: `candidates` has looked at it.
    """
    get = claims.by_name.get
    for condition in environment.other:  # globs first: a project's environments differ in their refs
        if not condition.holds(get(condition.claim)):
            return False
    for claim, kind, exact in environment.plain:
        value = get(claim)
        if value not in exact or type(value) is not kind:  # 1 is in {True}
            return False
    return environment.allow_forks or not PROFILES[environment.profile].is_fork(claims)


def _order(environment: Environment) -> int:
    return environment.order


def _granted(policy: Policy, environment: Environment, trail: Trail, wants: Sequence[str] | None) -> Decision:
    there = policy.granted(environment)
    if wants is None:
        return Allow(environment, tuple(there.values()), trail)
    found = []
    for name in dict.fromkeys(wants) if len(wants) > 1 else wants:
        grant = there.get(name)
        if grant is None:
            return _withheld(policy, environment, trail, name)
        found.append(grant)
    return Allow(environment, tuple(found), trail)


def _withheld(policy: Policy, environment: Environment, trail: Trail, name: str) -> Deny:
    if not policy.knows(environment, name):
        return Deny(Code.GRANT_UNKNOWN, f"there is no grant {name[:_NAME_CHARS]!r}; check its spelling", trail)
    hint = f"grant {name!r} is not for environment {environment.name!r}, which this job is in"
    return Deny(Code.GRANT_DENIED, hint, trail)


def _hint(environments: Sequence[Environment], trails: Sequence[Sequence[Step]]) -> str:
    """The job's own claims that kept it out of its own project's environments, those of the nearest environment first."""
    if not environments:
        return _STRANGER
    missed = [
        (environment, [step for step in trail if not step.met]) for environment, trail in zip(environments, trails, strict=True)
    ]
    missed.sort(key=lambda pair: len(pair[1]))
    told: dict[str, None] = {}
    for environment, steps in missed:
        told |= dict.fromkeys(_told(environment, step) for step in steps)
    words = list(told)
    more = f" and {len(words) - _MAX_CLAIMS} more" if len(words) > _MAX_CLAIMS else ""
    hint = "this job is in no environment; what kept it out: " + ", ".join(words[:_MAX_CLAIMS]) + more
    wanted = [
        f"{environment.name!r} wants " + ", ".join(f"{step.claim} {step.wanted}" for step in steps)
        for environment, steps in missed
        if environment.hints == "full"
    ]
    return "; ".join([hint, *wanted])


def _told(environment: Environment, step: Step) -> str:
    if step.value is None:
        sent_by = PROFILES[environment.profile].claims[step.claim].sent_by
        return f"{step.claim} is absent" + (f" (sent by {sent_by})" if sent_by else "")
    if step.clause == "merge-request":
        return "it runs a fork's code, or its token does not say whose"
    return f"{step.claim} is {step.value!r}"
