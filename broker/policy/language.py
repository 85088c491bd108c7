"""Policy text to a Policy, or to every problem in it at once. Data only: no expressions, nothing that runs (DESIGN section 7)."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Literal, TypeVar

from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.profiles import PROFILES
from broker.policy.conditions import built_in, conditions, wrong_value
from broker.policy.decide import shown
from broker.policy.grants import grant_from
from broker.policy.model import Condition, Environment, Grant, Policy
from broker.policy.overlap import TooComplexError, overlaps
from broker.policy.reading import Table
from broker.toml_source import FilePath, Problem, Source, SourceInvalid, did_you_mean, read_text, reader_beside
from broker.toml_source import parse as parse_toml

Named = TypeVar("Named", Environment, Grant)

VERSION = 1
_OWN_PROJECT = Claim(kind=ClaimKind.TEXT, assurance=Assurance.ID)
_DEFAULT_EXCHANGES = 8
_MAX_EXCHANGES = 1000
_MAX_OVERLAPS = 20  # reported at once


class PolicyInvalid(SourceInvalid):
    """A policy that is not taken, with every problem found in it."""


def load(path: FilePath, *, issuers: Mapping[str, str] | None = None) -> Policy:
    """The policy in that file and in the templates beside it. See `parse`."""
    try:
        text = read_text(path)
    except SourceInvalid as invalid:
        raise PolicyInvalid(invalid.problems) from None
    name = str(path).replace("\\", "/").rpartition("/")[2]
    return parse(text, name, reader_beside(path), issuers=issuers)


def parse(text: str, name: str, templates: Callable[[str], str], *, issuers: Mapping[str, str] | None = None) -> Policy:
    """The policy in `text`, complete and consistent: no two of its environments can match one job.

    `templates` gives the text of a file beside the policy. `issuers` maps the configured issuers' names to their profiles;
    without it any name is taken, as a GitLab unless it is another profile's own name. Not checked: whether upstreams have the
    roles and paths. Raises PolicyInvalid with every problem.
    """
    try:
        source = parse_toml(text, name)
    except SourceInvalid as invalid:
        raise PolicyInvalid(invalid.problems) from None
    problems: list[Problem] = []
    used: dict[str, str] = {}

    def template(file: str) -> str:
        used[file] = templates(file)
        return used[file]

    top = Table(source, (), source.data, problems)
    version = top.raw("version")
    if type(version) is not int or version != VERSION:
        top.problem("version", f"version is {'missing' if version is None else repr(version)}", f"write version = {VERSION}")
    own_projects = top.texts("project_id")
    for project in own_projects:
        if wrong := wrong_value(project, _OWN_PROJECT):
            top.problem("project_id", f"project_id: {wrong[0]}", wrong[1])
    environments = _named(top, "environment", partial(_environment, own_projects=own_projects, issuers=issuers))
    grants = _named(top, "grant", partial(grant_from, environments=_names(top, "environment"), template=template))
    top.refuse_others()
    problems += _overlap_problems(source, environments)
    if problems:
        raise PolicyInvalid(problems)
    kept = _kept(source.text, used)
    return Policy(hash="sha256:" + hashlib.sha256(kept.encode()).hexdigest(), text=kept, environments=environments, grants=grants)


def _overlap_problems(source: Source, environments: tuple[Environment, ...]) -> list[Problem]:
    """One for every pair that is not proved apart, up to a readable number of them."""
    instead = "a job is in exactly one environment: let a `when` or `unless` of one keep the other's jobs out"
    found = []
    try:
        for first, second, job in overlaps(environments):
            witness = ", ".join(f"{claim} = {shown(value)!r}" for claim, value in job.items())
            what = f"environments {first.name!r} and {second.name!r} can both match one job: {witness}"
            found.append(source.problem(("environment", second.order), what, instead))
            if len(found) == _MAX_OVERLAPS:
                break
    except TooComplexError:
        what = "it cannot be proved that no two environments match one job: the wildcards are too many to follow"
        found.append(Problem(source.name, 1, what, "use fewer wildcards in one pattern, or exact values"))
    return found


def _names(top: Table, key: str) -> frozenset[str]:
    return frozenset(name for table in top.tables(key) if type(name := table.raw("name")) is str)


def _named(top: Table, key: str, read: Callable[[Table], Named | None]) -> tuple[Named, ...]:
    """The array of that name, each element with a name of its own. Nothing is empty by accident."""
    tables = top.tables(key)
    if not tables:
        top.problem(key, f"there is no [[{key}]]", f"a policy has at least one [[{key}]]")
    found: dict[str, Named] = {}
    for table in tables:
        faults = table.faults
        made = read(table)
        table.refuse_others()
        if table.faults > faults:  # nothing is concluded from what is half read
            continue
        if made is not None and made.name in found:
            table.problem("name", f"{key} {made.name!r} stands twice", "give each its own name")
        elif made is not None:
            found[made.name] = made
    return tuple(found.values())


def _environment(table: Table, *, own_projects: tuple[str, ...], issuers: Mapping[str, str] | None) -> Environment | None:
    name = table.name("name", required=True)
    when, unless = table.table("when"), table.table("unless")
    max_session = table.length("max_session", timedelta(minutes=1), timedelta(days=7))
    max_exchanges = table.integer("max_exchanges", _DEFAULT_EXCHANGES, 1, _MAX_EXCHANGES)
    hints: Literal["own", "full"] = "full" if table.choice("hints", ("own", "full")) == "full" else "own"
    allow_forks = table.flag("allow_forks")
    if when is None and "when" in table:
        return None
    if when is None:
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
    found = [built_in("file", "project_id", frozenset(own_projects))] if own_projects else []
    found += conditions("when", when, profile, skip=frozenset({"issuer"}))
    found += _source_rule(when, profile)
    if unless is not None:
        if not [*unless.keys()]:
            table.problem("unless", "unless is empty", "leave it out or name a claim")
        found += conditions("unless", unless, profile)
    pin = _pin(table, found, profile)
    if allow_forks and any(c.claim == "ref_protected" and c.clause == "when" and True in c.exact for c in found):
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
        order=table.position,
    )


def _profile(when: Table, issuer: str | None, issuers: Mapping[str, str] | None) -> Profile | None:
    if issuer is None:
        return None
    if issuers is None:
        return PROFILES.get(issuer, PROFILES["gitlab"])
    if issuer not in issuers:
        when.problem("issuer", f"when.issuer: no [[issuer]] is called {issuer!r}", did_you_mean(issuer, issuers))
        return None
    return PROFILES[issuers[issuer]]


def _source_rule(when: Table, profile: Profile) -> list[Condition]:
    """What a job may have been started by where the environment does not say: nothing that runs somebody else's proposal."""
    return (
        []
        if not profile.source or profile.source in when
        else [built_in("pipeline-source", profile.source, profile.open_sources)]
    )


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


def _kept(text: str, templates: Mapping[str, str]) -> str:
    """The policy and the templates it uses as one TOML text: what is hashed, and what is kept with the log."""
    parts = [text if text.endswith("\n") else text + "\n"]
    for file in sorted(templates):
        parts.append(f"#: {file}\n")
        parts += [f"#:   {line}\n" for line in templates[file].splitlines()]
    return "".join(parts)
