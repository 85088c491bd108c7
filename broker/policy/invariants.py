"""`[[invariant]]`: what must never be possible, read into a value. Whether it holds is proved elsewhere."""

from collections.abc import Collection, Sequence

from broker.identity.profile import ClaimKind, Profile
from broker.policy.conditions import conditions
from broker.policy.model import Forbidden, Invariant
from broker.policy.reading import Table
from broker.toml_source import did_you_mean, parse


def invariant_from(
    table: Table, *, environments: Collection[str], grants: Collection[str], profiles: Sequence[Profile]
) -> Invariant | None:
    """One invariant; what is wrong with it goes to the table's problems.

    `environments` and `grants` are the names that there are, `profiles` those of the policy's issuers.
    """
    name = table.text("name", required=True)
    never = table.table("never")
    if never is None:
        if "never" not in table:
            table.problem("", "never is missing", 'write never.environment = "…" and never.claim.NAME = …')
        return None
    reached = _known(never, "environment", environments)
    given = _known(never, "grant", grants)
    claims = never.table("claim")
    never.refuse_others()
    forbidden = _forbidden(claims, profiles) if claims is not None else ()
    if not (reached or given or forbidden):
        table.problem("never", "never says nothing", "name an environment, a grant or a claim")
        return None
    if name is None:
        return None
    return Invariant(name=name, environments=frozenset(reached), grants=frozenset(given), claims=forbidden, place=table.place)


def _known(never: Table, key: str, names: Collection[str]) -> tuple[str, ...]:
    values = never.one_or_more(key)
    for value in values:
        if value not in names:
            never.problem(key, f"never.{key}: there is no {key} {value!r}", did_you_mean(value, names) if names else "")
    return values


def _forbidden(claims: Table, profiles: Sequence[Profile]) -> tuple[Forbidden, ...]:
    named = frozenset(claims.keys())
    if not named:
        claims.problem("", "never.claim is empty", "leave it out or name a claim")
    having = [profile for profile in profiles if all(name in profile.claims for name in named)]
    profile = next((profile for profile in having if _takes(claims, profile)), (having or list(profiles))[0])
    return tuple(
        Forbidden(condition=condition, absent=condition.kind is ClaimKind.BOOL and False in condition.exact)
        for condition in conditions("never.claim", claims, profile)
    )


def _takes(claims: Table, profile: Profile) -> bool:
    """Whether these are values of that profile's claims: two kinds of issuer may have one name for different things."""
    tried = Table(parse("", ""), (), claims.members(), [])
    conditions("never.claim", tried, profile)
    return not tried.faults
