"""What a policy is once it is loaded, and what a decision is. Frozen values; the parser is in `language`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import Literal, Self

from broker.errors import Code
from broker.identity.claims import ClaimValue
from broker.identity.profile import ClaimKind
from broker.policy.glob import Glob
from broker.policy.target import AwsGrant, VaultGrant
from broker.toml_lines import KeyPath
from broker.toml_source import Place, Problem, Source

_PER = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1)}


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
    """One `[[grant]]`: for the environments of its own file, or with `shared` for those of that name in every file."""

    name: str
    environments: tuple[str, ...]
    target: AwsGrant | VaultGrant
    max_ttl: timedelta | None
    rate: Rate | None
    strict_expiry: bool
    shared: bool = False
    place: Place = field(default=Place("", ()), compare=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One condition that was looked at: where, which claim, what the job's own value was, whether it met the pattern.

    `wanted` is the policy's side. It goes to our log and to `policy explain`, never to a caller (DESIGN section 5).
    """

    environment: str
    clause: str  # "when" or "unless" ("guards.NAME.when"), or the name of a built-in rule such as "merge-request"
    claim: str
    value: str | None  # the job's own; None when absent
    wanted: str
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What one claim has to be, or (`negated`) must not be. A claim that is absent or of another type fails both."""

    claim: str
    clause: str  # "when" or "unless", "file" (the file's own pin), "pipeline-source" (the rule for an unnamed source), "never"
    kind: ClaimKind
    exact: frozenset[str | bool | int]
    globs: tuple[Glob, ...]
    negated: bool
    wanted: str  # the policy's side, for log and explain
    guard: str = ""  # the guard that brought it here
    place: Place | None = field(default=None, compare=False)  # None: not written, the language adds it
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
        if value in self.exact:
            return True
        for glob in self.globs:  # noqa: SIM110  `any` is the cost of two of these
            if glob.matches(str(value)):
                return True
        return False


_TYPES: dict[ClaimKind, type] = {ClaimKind.TEXT: str, ClaimKind.BOOL: bool, ClaimKind.NUMBER: int, ClaimKind.TEXTS: tuple}


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One `[[environment]]`: a job is in it when every condition holds, its guards' among them. `profile` is the kind of its
    issuer. Other files may have one of the same name, pinned to other ids.
    """

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
    order: int  # how many stand before it in the whole policy
    place: Place = field(default=Place("", ()), compare=False)
    plain: tuple[tuple[str, type, frozenset[str | bool | int]], ...] = field(init=False, repr=False, compare=False)
    other: tuple[Condition, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sorts conditions into `plain` ones (claim, its type, the values that meet it) and others that ask more."""
        is_plain = [not (c.negated or c.globs or c.kind is ClaimKind.TEXTS) for c in self.conditions]
        plain = (c for c, simple in zip(self.conditions, is_plain, strict=True) if simple)
        object.__setattr__(self, "plain", tuple((c.claim, _TYPES[c.kind], c.exact) for c in plain))
        object.__setattr__(self, "other", tuple(c for c, simple in zip(self.conditions, is_plain, strict=True) if not simple))

    @property
    def file(self) -> str:
        return self.place.file


@dataclass(frozen=True, slots=True)
class Allow:
    """The job is in exactly this environment and may have exactly these grants there."""

    rule: Environment = field(repr=False)  # the environment that was selected
    definitions: tuple[Grant, ...] = field(repr=False)
    trail: Sequence[Step] = field(repr=False)

    @property
    def environment(self) -> str:
        return self.rule.name

    @property
    def grants(self) -> tuple[str, ...]:
        return tuple(grant.name for grant in self.definitions)


@dataclass(frozen=True, slots=True)
class Deny:
    """No. `hint` is one sentence about the job's own claims that may be told to it."""

    code: Code
    hint: str
    trail: Sequence[Step]


Decision = Allow | Deny


@dataclass(frozen=True, slots=True, kw_only=True)
class Forbidden:
    """`never.claim.NAME`: the values that no job may have. With `absent` a job without the claim is one of those too."""

    condition: Condition  # what is forbidden, not negated
    absent: bool

    def holds(self, value: ClaimValue | None) -> bool:
        """Whether this value is a forbidden one. A value of the wrong type proves no more than none at all."""
        return self.condition.holds(value) or (self.absent and value is not True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """One `[[invariant]]`: no job whose claims meet all of `claims` is in one of `environments` with one of `grants`.

    Empty `environments` or `grants` mean any. A claim named with `false` means "absent or false": not proved true.
    """

    name: str
    environments: frozenset[str]
    grants: frozenset[str]
    claims: tuple[Forbidden, ...]
    place: Place = field(default=Place("", ()), compare=False)


_Pins = tuple[tuple[str, Mapping[str, tuple[Environment, ...]]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One loaded policy, of a file or a folder. Only `language` makes these; indexes are computed from what is written."""

    hash: str  # "sha256:" + hex of `text`, as the log names it
    text: str  # what was loaded, with its templates, as it is kept with the log
    environments: tuple[Environment, ...]
    grants: tuple[Grant, ...]
    invariants: tuple[Invariant, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict, repr=False, compare=False)  # by file name
    _by_pin: Mapping[tuple[str, str], _Pins] = field(init=False, repr=False, compare=False)
    _granted: Mapping[int, Mapping[str, Grant]] = field(init=False, repr=False, compare=False)
    _reached: Mapping[tuple[str, Place], tuple[Environment, ...]] = field(init=False, repr=False, compare=False)
    _known: frozenset[tuple[str, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_pin: dict[tuple[str, str], dict[str, dict[str, tuple[Environment, ...]]]] = {}
        own: dict[tuple[str, str], list[Environment]] = {}
        named: dict[str, list[Environment]] = {}
        for environment in self.environments:
            pins = by_pin.setdefault((environment.issuer, environment.profile), {}).setdefault(environment.pinned_by, {})
            for value in environment.pinned_to:
                pins[value] = (*pins.get(value, ()), environment)
            own.setdefault((environment.file, environment.name), []).append(environment)
            named.setdefault(environment.name, []).append(environment)
        granted: dict[int, dict[str, Grant]] = {environment.order: {} for environment in self.environments}
        reached: dict[tuple[str, Place], tuple[Environment, ...]] = {}
        for grant in self.grants:
            there = [named.get(n, ()) if grant.shared else own.get((grant.place.file, n), ()) for n in grant.environments]
            reached[grant.name, grant.place] = tuple(chain.from_iterable(there))
            for environment in reached[grant.name, grant.place]:
                granted[environment.order][grant.name] = grant
        object.__setattr__(self, "_by_pin", {key: tuple(pins.items()) for key, pins in by_pin.items()})
        object.__setattr__(self, "_granted", granted)
        object.__setattr__(self, "_reached", reached)
        known = frozenset(("" if grant.shared else grant.place.file, grant.name) for grant in self.grants)
        object.__setattr__(self, "_known", known)

    def granted(self, environment: Environment) -> Mapping[str, Grant]:
        """The grants of that environment by name, in the policy's order."""
        return self._granted[environment.order]

    def knows(self, environment: Environment, grant: str) -> bool:
        """Whether that environment's file has a grant of that name, or shares in one. Others' names are not its business."""
        return (environment.file, grant) in self._known or ("", grant) in self._known

    def reached_by(self, grant: Grant) -> tuple[Environment, ...]:
        """The environments that have this grant, in every file."""
        return self._reached[grant.name, grant.place]

    def pins(self, issuer: str, profile: str) -> _Pins:
        """By claim that pins: who is found by which of its values. Looking there costs the same however many others there are."""
        return self._by_pin.get((issuer, profile), ())

    def line(self, place: Place) -> int:
        """The line on which that stands."""
        return self.sources[place.file].line_of(place.path)

    def problem(self, place: Place, key: KeyPath, what: str, instead: str = "") -> Problem:
        """That problem, at the line of that key of what stands there."""
        return self.sources[place.file].problem((*place.path, *key), what, instead)
