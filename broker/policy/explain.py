"""Why a policy decides as it does about these claims: every condition of the environments that are near, met or not.

The claims are whatever the caller has: nothing here is verified, and what comes out is an explanation, never a permission.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.pointer import flattened
from broker.identity.profile import ClaimKind, Profile
from broker.identity.profiles import PROFILES
from broker.policy.claims_model import model_of
from broker.policy.decide import candidates, decide_claims
from broker.policy.model import Decision, Policy, Step
from broker.policy.trail import examine, shown

_NEAR = 3  # environments of other projects that are shown when none is pinned to the job's own


@dataclass(frozen=True, slots=True)
class Trail:
    """One environment's conditions, and what the claims made of them."""

    environment: str
    file: str
    pinned_here: bool  # found by the claims' own stable ids; the others are shown for comparison
    steps: tuple[Step, ...]

    @property
    def missing(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if not step.met)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, and the trails with the nearest environment first."""

    issuer: str
    pins: Mapping[str, str | None]  # the claims' own stable ids
    remarks: tuple[str, ...]  # what a broker would say to a token with these claims, apart from the policy
    decision: Decision
    trails: tuple[Trail, ...]


def explain(policy: Policy, issuer: str, members: Mapping[str, Any], wants: Sequence[str] | None = None) -> Explanation:
    """The explanation for claims as JSON has them, under that issuer's name. Claims of a wrong type count as absent."""
    claims, remarks = _loosely_typed(profile_of(policy, issuer), members)
    return explain_claims(policy, issuer, claims, wants, remarks)


def explain_claims(
    policy: Policy, issuer: str, claims: ClaimSet, wants: Sequence[str] | None = None, remarks: Sequence[str] = ()
) -> Explanation:
    """The explanation for claims that are typed."""
    profile = profile_of(policy, issuer)
    own = candidates(policy, issuer, profile.name, claims)
    trails = [Trail(e.name, e.file, True, tuple(examine(e, claims))) for e in own]
    if not own:
        others = [Trail(e.name, e.file, False, tuple(examine(e, claims))) for e in policy.environments if e.issuer == issuer]
        trails = sorted(others, key=_distance)[:_NEAR]
    return Explanation(
        issuer=issuer,
        pins={pin: shown(claims.get(pin)) for pin in profile.pins},
        remarks=tuple(remarks),
        decision=decide_claims(policy, issuer, profile.name, claims, wants),
        trails=tuple(sorted(trails, key=_distance)),
    )


def issuers_of(policy: Policy) -> tuple[str, ...]:
    """The issuers that the policy speaks of, in its order."""
    return tuple(dict.fromkeys(environment.issuer for environment in policy.environments))


def profile_of(policy: Policy, issuer: str) -> Profile:
    """The profile of that issuer, as the policy's environments have it."""
    return PROFILES[next((e.profile for e in policy.environments if e.issuer == issuer), "gitlab")]


def _distance(trail: Trail) -> int:
    return len(trail.missing)


def _loosely_typed(profile: Profile, members: Mapping[str, Any]) -> tuple[ClaimSet, list[str]]:
    """Typed as the profile says, without its refusals: those become remarks, so that a handful of claims can be tried."""
    typed: dict[str, ClaimValue] = {}
    remarks = []
    # A witness of `policy prove` and an option name a claim inside an object by its pointer.
    members = flattened(members) | {name: value for name, value in members.items() if name.startswith("/")}
    documented = frozenset(profile.claims)  # of `generic` any other text is a claim too, and what is none is left out
    missing = [name for name, claim in profile.claims.items() if claim.required and members.get(name) is None]
    if missing:
        remarks.append(f"missing: {', '.join(missing)}; a token without them is refused")
    for name, value in members.items():
        claim = profile.claims.get(name)
        if claim is None or value is None:
            continue
        taken = (value,) if claim.one_or_more and type(value) is str else _typed(claim.kind, value)
        if taken is None and name not in documented:
            continue
        if taken is None:
            remarks.append(f"{name} is not {claim.kind.value}: a token with it is refused, here it counts as absent")
        else:
            typed[name] = taken
    for twin, other in model_of(profile.name).twins.items():
        if twin in typed and typed[twin] != typed.get(other):
            del typed[twin]
            remarks.append(f"{twin} is not {other}: the broker leaves it out, here it counts as absent")
    return ClaimSet(typed), remarks


def _typed(kind: ClaimKind, value: Any) -> ClaimValue | None:
    if kind is ClaimKind.BOOL:
        return {"true": True, "false": False}.get(str(value).lower() if isinstance(value, bool) else str(value))
    if kind is ClaimKind.TEXTS:
        return tuple(value) if isinstance(value, list) and all(type(element) is str for element in value) else None
    wanted = str if kind is ClaimKind.TEXT else int
    return value if type(value) is wanted else None
