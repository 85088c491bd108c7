"""What has to be proved before a policy is taken: that no job is in two environments, and that its invariants hold."""

from broker.policy.model import Policy
from broker.policy.overlap import TooComplexError, overlaps
from broker.policy.prove import violation
from broker.policy.satisfy import Solver
from broker.policy.trail import shown
from broker.toml_source import Problem

_MAX_OVERLAPS = 20  # reported at once


def overlap_problems(policy: Policy) -> list[Problem]:
    """One for every pair that is not proved apart, up to a readable number of them."""
    instead = "a job is in exactly one environment: let a `when` or `unless` of one keep the other's jobs out"
    found = []
    try:
        for first, second, job in overlaps(policy.environments):
            witness = ", ".join(f"{claim} = {shown(value)!r}" for claim, value in job.items())
            one = repr(first.name) + (f" ({first.file})" if first.file != second.file else "")
            what = f"environments {one} and {second.name!r} can both match one job: {witness}"
            found.append(policy.problem(second.place, (), what, instead))
            if len(found) == _MAX_OVERLAPS:
                break
    except TooComplexError:
        what = "it cannot be proved that no two environments match one job: the wildcards are too many to follow"
        found.append(Problem(next(iter(policy.sources)), 1, what, "use fewer wildcards in one pattern, or exact values"))
    return found


def invariant_problems(policy: Policy) -> list[Problem]:
    """One for every invariant that is not proved, with the job that breaks it."""
    found = []
    solver = Solver()
    for invariant in policy.invariants:
        try:
            witness = violation(policy, invariant, solver)
        except TooComplexError:
            what = f"invariant {invariant.name!r} cannot be proved: the wildcards are too many to follow"
            found.append(policy.problem(invariant.place, (), what, "use fewer wildcards in one pattern, or exact values"))
            continue
        if witness is not None:
            job = ", ".join(f"{claim} = {shown(value)!r}" for claim, value in witness.job.items())
            given = f" and gets {', '.join(witness.grants)}" if witness.grants else ""
            rule = f"{witness.environment.name!r} ({witness.environment.place.file}:{policy.line(witness.environment.place)})"
            what = f"invariant {invariant.name!r} does not hold: a job with {job} is in environment {rule}{given}"
            found.append(policy.problem(invariant.place, (), what, "narrow that environment, or the invariant"))
    return found
