"""`[[environment]]` and the `[guards.NAME]` it uses: one environment with every condition that it rests on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import Literal

from broker.identity.profile import Profile
from broker.identity.profiles import PROFILES
from broker.policy.conditions import built_in, conditions
from broker.policy.model import Condition, Environment
from broker.policy.reading import Table
from broker.toml_source import Place, did_you_mean

DEFAULT_EXCHANGES = 8
MAX_EXCHANGES = 1000
_CLAUSES = ("when", "unless")


@dataclass(slots=True)
class Guards:
    """The guards of the whole policy. A file's own come first; another file's serves when only one has that name."""

    _tables: dict[str, dict[str, Table]] = field(default_factory=dict)  # name -> file -> table
    _compiled: dict[tuple[Place, str], tuple[Condition, ...]] = field(default_factory=dict)

    def read(self, top: Table) -> None:
        """The guards of one file, each tried on its own, so that one that nobody uses is read too."""
        tables = top.table("guards")
        if tables is None:
            return
        for name in tables.keys():  # noqa: SIM118  a Table is no dict: this marks its keys as known
            tables.named(name)
            guard = tables.table(name)
            if guard is None:
                continue
            clauses = [clause for clause in _CLAUSES if clause in guard]
            if not clauses:
                tables.problem(name, f"guard {name!r} asks for nothing", "give it a `when` or an `unless`")
            guard.refuse_others()
            self._tables.setdefault(name, {})[top.place.file] = guard

    def used(self, table: Table, profile: Profile) -> list[Condition]:
        """The conditions of every guard that this environment names in `use`."""
        names = table.texts("use")
        return [condition for name in names for condition in self._conditions(table, name, profile)]

    def rest(self, profiles: Sequence[Profile]) -> None:
        """Read what no environment of this policy uses, for the first of these issuers whose tokens have all its claims."""
        compiled = {place for place, _ in self._compiled}
        for guard in (guard for files in self._tables.values() for guard in files.values()):
            if guard.place not in compiled:
                named = [claim for clause in _CLAUSES if isinstance(raw := guard.members().get(clause), dict) for claim in raw]
                having = (profile for profile in profiles if all(claim in profile.claims for claim in named))
                _guard_conditions(guard, next(having, profiles[0]))

    def _conditions(self, table: Table, name: str, profile: Profile) -> Iterable[Condition]:
        files = self._tables.get(name, {})
        guard = files.get(table.place.file) or (next(iter(files.values())) if len(files) == 1 else None)
        if guard is None and files:
            what = f"guard {name!r} stands in several files: {', '.join(sorted(files))}"
            table.problem("use", what, "give this file one of its own, or name them apart")
        elif guard is None:
            instead = did_you_mean(name, self._tables) if self._tables else f"write [guards.{name}]"
            table.problem("use", f"there is no guard {name!r}", instead)
        if guard is None:
            return ()
        key = (guard.place, profile.name)
        if key not in self._compiled:
            self._compiled[key] = _guard_conditions(guard, profile)
        return self._compiled[key]


def _guard_conditions(guard: Table, profile: Profile) -> tuple[Condition, ...]:
    name = str(guard.place.path[-1])
    return tuple(_clauses(guard, profile, guard=name))


def environment_from(
    table: Table, *, file: Table, own_projects: tuple[str, ...], guards: Guards, issuers: Mapping[str, str] | None, order: int
) -> Environment | None:
    """One environment; what is wrong with it goes to the table's problems."""
    name = table.name("name", required=True)
    when, _ = table.table("when"), table.table("unless")
    max_session = table.length("max_session", timedelta(minutes=1), timedelta(days=7))
    max_exchanges = table.integer("max_exchanges", DEFAULT_EXCHANGES, 1, MAX_EXCHANGES)
    hints: Literal["own", "full"] = "full" if table.choice("hints", ("own", "full")) == "full" else "own"
    allow_forks = table.flag("allow_forks")
    if when is None:
        if "when" not in table:
            instead = 'write when.issuer = "…" and when.project_id = ["…"]'
            table.problem("when", "an environment without `when` would take every job", instead)
        return None
    issuer = when.name("issuer", required=True)
    profile = _profile(when, issuer, issuers)
    if issuer is None or profile is None:
        return None

    if own_projects and "project_id" not in profile.pins:
        what = f"the file is for project_id {', '.join(own_projects)} alone, and {profile.name} tokens have no project_id"
        when.problem("issuer", what, f"put it into a file of its own, where it pins {' or '.join(profile.pins)} itself")
        return None
    found = [built_in("file", "project_id", frozenset(own_projects), file.at("project_id"))] if own_projects else []
    found += _clauses(table, profile)
    found += guards.used(table, profile)
    if profile.source and not any(c.claim == profile.source and not c.negated for c in found):
        # Where the environment does not say: nothing that runs somebody else's proposal.
        found.append(built_in("pipeline-source", profile.source, profile.open_sources))
    pin = _pin(table, found, profile)
    if allow_forks and any(c.claim == "ref_protected" and not c.negated and True in c.exact for c in found):
        what = "allow_forks together with when.ref_protected = true: a fork's refs are not the pinned project's"
        table.problem("allow_forks", what, "give forks an environment of their own, without ref_protected")
    if name is None or pin is None:
        return None
    return Environment(
        name=name,
        issuer=issuer,
        profile=profile.name,
        pinned_by=pin[0],
        pinned_to=pin[1],
        conditions=tuple(found),
        allow_forks=allow_forks,
        max_session=max_session,
        max_exchanges=max_exchanges,
        hints=hints,
        order=order,
        place=table.place,
    )


def name_problems(environments: Iterable[Environment]) -> Iterator[tuple[Environment, str, str]]:
    """Environments of one name in several files whose pins are not apart."""
    seen: dict[tuple[str, str], dict[tuple[str, str], Environment]] = {}
    for environment in environments:
        pins = seen.setdefault((environment.name, environment.issuer), {})
        mine = [(environment.pinned_by, value) for value in sorted(environment.pinned_to)]
        for other in dict.fromkeys(chain((pins[key].place for key in mine if key in pins), _other_kind(pins, environment))):
            what = f"environment {environment.name!r} stands in {other.file} too, and the two can have a project in common"
            yield environment, what, "pin them to different ids of the same claim, or give one another name"
        pins.update(dict.fromkeys(mine, environment))


def _other_kind(pins: Mapping[tuple[str, str], Environment], environment: Environment) -> Iterator[Place]:
    """Those found by another claim: nobody knows which projects a group has."""
    return (other.place for (claim, _), other in pins.items() if claim != environment.pinned_by)


def _clauses(table: Table, profile: Profile, *, guard: str = "") -> list[Condition]:
    found = []
    for clause in _CLAUSES:
        claims = table.table(clause)
        if claims is None:
            continue
        skip = frozenset({"issuer"}) if clause == "when" and not guard else frozenset[str]()
        if not [*claims.keys()]:
            table.problem(clause, f"{clause} is empty", "leave it out or name a claim")
        found += conditions(clause, claims, profile, skip=skip, guard=guard)
    return found


def _profile(when: Table, issuer: str | None, issuers: Mapping[str, str] | None) -> Profile | None:
    if issuer is None:
        return None
    if issuers is None:
        return PROFILES.get(issuer, PROFILES["gitlab"])
    if issuer not in issuers:
        when.problem("issuer", f"when.issuer: no [[issuer]] is called {issuer!r}", did_you_mean(issuer, issuers))
        return None
    return PROFILES[issuers[issuer]]


def _pin(table: Table, found: list[Condition], profile: Profile) -> tuple[str, frozenset[str]] | None:
    """The immutable id that the environment is found by: all conditions on the first such claim, taken together."""
    for claim in profile.pins:
        sets = [frozenset(map(str, c.exact)) for c in found if c.claim == claim and not c.negated]
        if sets:
            values = frozenset.intersection(*sets)
            if not values:
                instead = f"the file is for {', '.join(sorted(sets[0]))} alone"
                table.problem("when", f"when.{claim} names none of the file's own {claim}", instead)
                return None
            return claim, values
    pins = " or ".join(f"when.{claim}" if claim.isidentifier() else f'when."{claim}"' for claim in profile.pins)
    what = "the environment pins no project: names and paths can be taken by others"
    table.problem("when", what, f"add {pins}{', or project_id to the file' if 'project_id' in profile.pins else ''}")
    return None
