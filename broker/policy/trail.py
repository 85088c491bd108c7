"""What was looked at in a decision, condition by condition. Built when somebody reads it: it costs more than the decision."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import overload

from broker.identity.claims import ClaimSet, ClaimValue
from broker.identity.profiles import PROFILES
from broker.policy.model import Condition, Environment, Step

_SHOWN_CHARS = 80


class Trail(Sequence[Step]):
    """The steps of these environments for these claims, `most` of them. The same environments and claims give the same steps,
    always.
    """

    __slots__ = ("_claims", "_environments", "_most", "_steps")

    def __init__(self, environments: Sequence[Environment], claims: ClaimSet, most: int | None = None) -> None:
        self._most = most
        self._environments = environments
        self._claims = claims
        self._steps: tuple[Step, ...] | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        if self._steps is None:
            every = (step for environment in self._environments for step in examine(environment, self._claims))
            self._steps = tuple(islice(every, self._most))
        return self._steps

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Step, ...]: ...
    def __getitem__(self, index: int | slice) -> Step | tuple[Step, ...]:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.steps == tuple(other)

    def __hash__(self) -> int:
        return hash(self.steps)

    def __repr__(self) -> str:
        return repr(self.steps)


def examine(environment: Environment, claims: ClaimSet) -> Iterator[Step]:
    """Every condition of the environment, met or not; `matches` is true exactly when all are met."""
    profile = PROFILES[environment.profile]
    for condition in environment.conditions:
        value = claims.get(condition.claim)
        personal = profile.claims[condition.claim].personal
        yield Step(
            environment=environment.name,
            clause=_clause(condition),
            claim=condition.claim,
            value="(personal)" if personal and value is not None else shown(value),
            wanted=condition.wanted,
            met=condition.holds(value),
        )
    if not environment.allow_forks and profile.is_fork(claims):
        source = shown(claims.get(profile.source))
        wanted = "not from a fork (allow_forks is not set)"
        yield Step(environment.name, "merge-request", profile.source, source, wanted, met=False)


def shown(value: ClaimValue | None) -> str | None:
    """A claim's value for people, cut to a readable length; None when it is absent."""
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _clause(condition: Condition) -> str:
    return f"guards.{condition.guard}.{condition.clause}" if condition.guard else condition.clause
