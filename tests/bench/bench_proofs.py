"""What proofs cost: that no two of 200 and 2 000 rules of one project match one job, and an invariant over them.

Goals (issue 5): 0.1 s and 2 s. Rules of one project are the hard case: those of different projects are apart by their pins.
"""

import sys
import time
from collections.abc import Callable, Mapping

from broker.identity.profiles import PROFILES
from broker.policy.conditions import conditions
from broker.policy.model import Condition, Environment, Forbidden, Invariant, Policy
from broker.policy.overlap import overlaps
from broker.policy.prove import violation
from broker.policy.reading import Table
from broker.toml_source import Problem, parse

SHAPES: Mapping[str, Callable[[int], str]] = {
    "beginnings": lambda n: f"refs/heads/team-{n}/**",
    "middles": lambda n: f"refs/heads/*/team-{n}-*/**",
    "ends": lambda n: f"refs/heads/**/team-{n}",
    "exact": lambda n: f"refs/heads/team-{n}",
}
GOALS = {200: 0.1, 2_000: 2.0}


def rules(count: int, ref: Callable[[int], str]) -> list[Environment]:
    """That many environments of one project, apart by their refs."""
    found = []
    for n in range(count):
        problems: list[Problem] = []
        when = {"project_id": "4711", "ref_path": ref(n), "ref_protected": True, "pipeline_source": ["push", "web"]}
        made = tuple(conditions("when", Table(parse("", "x"), (), when, problems), PROFILES["gitlab"]))
        assert not problems
        found.append(_environment(n, made))
    return found


def _environment(n: int, made: tuple[Condition, ...]) -> Environment:
    return Environment(
        name=f"e{n}", issuer="gitlab", profile="gitlab", pinned_by="project_id", pinned_to=frozenset({"4711"}), conditions=made,
        allow_forks=False, max_session=None, max_exchanges=8, hints="own", order=n,
    )  # fmt: skip


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def invariant() -> Invariant:
    """No unprotected ref gets anything."""
    problems: list[Problem] = []
    table = Table(parse("", "x"), (), {"ref_protected": False}, problems)
    (condition,) = conditions("never.claim", table, PROFILES["gitlab"])
    return Invariant(
        name="i", environments=frozenset(), grants=frozenset(), claims=(Forbidden(condition=condition, absent=True),)
    )


def main() -> None:
    for count, goal in GOALS.items():
        for name, shape in SHAPES.items():
            environments = rules(count, shape)
            apart = seconds(lambda environments=environments: list(overlaps(environments)))  # type: ignore[misc]  # bound now
            sys.stdout.write(
                f"proof that {count} rules with globs of different {name} are apart: {apart:.3f} s (goal {goal} s)\n"
            )
        policy = Policy(hash="", text="", environments=tuple(environments), grants=())
        held = seconds(lambda policy=policy: violation(policy, invariant()))  # type: ignore[misc]  # bound now
        sys.stdout.write(f"proof of one invariant over {count} rules: {held:.3f} s\n")


if __name__ == "__main__":
    main()
