"""What a policy is once it is loaded, and what a decision is. Frozen values; the parser is in `language`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, Self

from broker.errors import Code
from broker.identity.claims import ClaimValue
from broker.identity.profile import ClaimKind
from broker.policy.glob import Glob

_PER = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsGrant:
    """`[grant.aws]` as written: templates not yet filled."""

    role_arn: str
    session_policy: str | None  # the text of the template file, read at load
    policy_arns: tuple[str, ...]
    external_id: str | None
    region: str | None
    ttl: timedelta
    upstream: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultGrant:
    """`[grant.vault]` as written: templates not yet filled."""

    role: str
    path: str  # may end in `/*` or `/**`
    engine: Literal["lease", "kv1", "kv2"]
    upstream: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `count` issuances in `per`."""

    count: int
    per: timedelta

    @classmethod
    def parse(cls, text: str) -> Self:
        """`"50/s"`, `"30/m"`, `"1000/h"`. Raises ValueError for anything else, and for none at all."""
        found = re.fullmatch(r"([1-9][0-9]{0,5})/([smh])", text)
        if found is None:
            raise ValueError(f"{text!r} is not a rate")
        return cls(count=int(found[1]), per=_PER[found[2]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    name: str
    environments: tuple[str, ...]
    target: AwsGrant | VaultGrant
    max_ttl: timedelta | None
    rate: Rate | None
    strict_expiry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsTarget:
    """A grant's AWS side with this job's values in it, every limit of `reference/aws.md` 1.2 checked."""

    role_arn: str
    session_policy: str | None  # JSON, at most 2048 characters
    policy_arns: tuple[str, ...]
    external_id: str | None
    region: str | None
    ttl: timedelta
    upstream: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultTarget:
    """A grant's Vault side with this job's values, and the caller's subpath where the grant has one, in it."""

    role: str
    path: str  # canonical: no empty, `.` or `..` segment, nothing percent-encoded
    engine: Literal["lease", "kv1", "kv2"]
    upstream: str | None


Target = AwsTarget | VaultTarget


@dataclass(frozen=True, slots=True)
class Step:
    """One condition that was looked at: where, which claim, what the job's own value was, whether it met the pattern.

    `wanted` is the policy's side. It goes to our log and to `policy explain`, never to a caller (DESIGN section 5).
    """

    environment: str
    clause: str  # "when" or "unless", or the name of a built-in rule such as "merge-request"
    claim: str
    value: str | None  # the job's own; None when absent
    wanted: str
    met: bool


@dataclass(frozen=True, slots=True)
class Allow:
    """The job is in exactly this environment and may have exactly these grants there."""

    environment: str
    grants: tuple[str, ...]
    max_session: timedelta | None
    max_exchanges: int
    trail: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Deny:
    """No. `hint` is one sentence about the job's own claims that may be told to it."""

    code: Code
    hint: str
    trail: tuple[Step, ...]


Decision = Allow | Deny


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What one claim has to be, or (`negated`) must not be. A claim that is absent or of another type fails both."""

    claim: str
    clause: str  # "when" or "unless", "file" (the file's own pin), or "pipeline-source" (the rule for an unnamed source)
    kind: ClaimKind
    exact: frozenset[str | bool | int]
    globs: tuple[Glob, ...]
    negated: bool
    wanted: str  # the policy's side, for log and explain
    _type: type = field(init=False, repr=False, compare=False)  # an enum is slow to look things up by

    def __post_init__(self) -> None:
        object.__setattr__(self, "_type", _TYPES[self.kind])

    def holds(self, value: ClaimValue | None) -> bool:
        """Closed in both directions: what cannot be compared never lets a job in, neither by `when` nor by `unless`."""
        if value is None or type(value) is not self._type:
            return False
        if isinstance(value, tuple):
            return any(self.describes(element) for element in value) is not self.negated
        return self.describes(value) is not self.negated

    def describes(self, value: str | bool | int) -> bool:
        """Whether the value, of the right type, is one of those named."""
        return value in self.exact or (bool(self.globs) and any(glob.matches(str(value)) for glob in self.globs))


_TYPES: dict[ClaimKind, type] = {ClaimKind.TEXT: str, ClaimKind.BOOL: bool, ClaimKind.NUMBER: int, ClaimKind.TEXTS: tuple}


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One `[[environment]]`: a job is in it when every condition holds. `profile` is the kind of its issuer."""

    name: str
    issuer: str
    profile: str
    pinned_by: str  # the claim that it is found by: the first of the profile's pins that it names
    pinned_to: frozenset[str]
    conditions: tuple[Condition, ...]
    allow_forks: bool
    max_session: timedelta | None
    max_exchanges: int
    hints: Literal["own", "full"]
    order: int  # how many stand before it in the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One loaded policy. Only `language` makes these; what is indexed is computed from what is written."""

    hash: str  # "sha256:" + hex of `text`, as the log names it
    text: str  # what was loaded, with its templates, as it is kept with the log
    environments: tuple[Environment, ...]
    grants: tuple[Grant, ...]
    _by_pin: Mapping[tuple[str, str, str], tuple[Environment, ...]] = field(init=False, repr=False, compare=False)
    _by_name: Mapping[str, Grant] = field(init=False, repr=False, compare=False)
    _granted: Mapping[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_pin: dict[tuple[str, str, str], list[Environment]] = {}
        for environment in self.environments:
            for value in environment.pinned_to:
                by_pin.setdefault((environment.issuer, environment.pinned_by, value), []).append(environment)
        granted: dict[str, list[str]] = {environment.name: [] for environment in self.environments}
        for grant in self.grants:
            for name in grant.environments:
                granted[name].append(grant.name)
        object.__setattr__(self, "_by_pin", {key: tuple(found) for key, found in by_pin.items()})
        object.__setattr__(self, "_by_name", {grant.name: grant for grant in self.grants})
        object.__setattr__(self, "_granted", {name: tuple(grants) for name, grants in granted.items()})

    def grant(self, name: str) -> Grant:
        """The grant of that name. Raises KeyError; `decide` has been asked first."""
        return self._by_name[name]

    def has_grant(self, name: str) -> bool:
        return name in self._by_name

    def granted(self, environment: str) -> tuple[str, ...]:
        """The names of the grants of that environment, in the policy's order."""
        return self._granted[environment]

    def pinned(self, issuer: str, claim: str, value: str) -> tuple[Environment, ...]:
        """The environments that are found by this value of this claim: the same cost however many others there are."""
        return self._by_pin.get((issuer, claim, value), ())
