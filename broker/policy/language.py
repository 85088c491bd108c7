"""Policy text to a Policy, or to every problem in it at once. Data only: no expressions, nothing that runs (DESIGN section 7)."""

import contextlib
import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.profiles import PROFILES
from broker.policy.conditions import wrong_value
from broker.policy.environments import Guards, environment_from, name_problems
from broker.policy.grants import grant_from
from broker.policy.invariants import invariant_from
from broker.policy.model import Environment, Grant, Invariant, Policy
from broker.policy.proved import invariant_problems, overlap_problems
from broker.policy.reading import Table
from broker.toml_source import FilePath, Problem, Source, SourceInvalid, reader_beside, texts_at
from broker.toml_source import parse as parse_toml

Named = TypeVar("Named", Environment, Grant, Invariant)

VERSION = 1
CASES = ".cases.toml"  # files whose names end so are a policy's cases, and no part of it
_OWN_PROJECT = Claim(kind=ClaimKind.TEXT, assurance=Assurance.ID)


class PolicyInvalid(SourceInvalid):
    """A policy that is not taken, with every problem found in it."""


def load(path: FilePath, *, issuers: Mapping[str, str] | None = None) -> Policy:
    """The policy in that file, or in all files of that folder, and in the templates beside it. See `parse_files`."""
    try:
        texts = texts_at(path, leaving_out=CASES)
    except SourceInvalid as invalid:
        raise PolicyInvalid(invalid.problems) from None
    return parse_files(texts, reader_beside(path), issuers=issuers)


def text_hash(path: FilePath) -> str:
    """What names the texts at that path, good or bad, without their templates; `""` when they cannot be read."""
    try:
        texts = texts_at(path, leaving_out=CASES)
    except SourceInvalid:
        return ""
    return _hash(_kept(texts, {}))


def parse(text: str, name: str, templates: Callable[[str], str], *, issuers: Mapping[str, str] | None = None) -> Policy:
    """The policy in one file's text. See `parse_files`."""
    return parse_files({name: text}, templates, issuers=issuers)


def parse_files(texts: Mapping[str, str], templates: Callable[[str], str], *, issuers: Mapping[str, str] | None = None) -> Policy:
    """The policy in these files' texts, complete and consistent: no two of its environments can match one job.

    `templates` gives the text of a file beside the policy. `issuers` maps the configured issuers' names to their profiles;
    without it any name is taken, as a GitLab unless it is another profile's own name. Not checked: whether upstreams have the
    roles and paths. Raises PolicyInvalid with every problem.
    """
    with _uncollected():
        return _read(texts, templates, issuers)


def _read(texts: Mapping[str, str], templates: Callable[[str], str], issuers: Mapping[str, str] | None) -> Policy:
    sources, problems = _parsed(texts)
    used: dict[str, str] = {}

    def template(file: str) -> str:
        used[file] = templates(file)
        return used[file]

    files = [_File.of(source, problems) for source in sources]
    guards = Guards()
    for file in files:
        guards.read(file.top)
    environments = _environments(files, guards, issuers)
    profiles = [PROFILES[name] for name in dict.fromkeys(e.profile for e in environments)] or [PROFILES["gitlab"]]
    guards.rest(profiles)
    grants = _grants(files, template)
    invariants = _invariants(files, profiles)
    for file in files:
        file.top.refuse_others()
    _nothing_is_empty(files)
    policy = _policy(sources, used, environments, grants, invariants)
    problems += _ambiguous_grants(policy)
    problems += [policy.problem(e.place, ("when",), what, instead) for e, what, instead in name_problems(environments)]
    problems += overlap_problems(policy)
    problems += invariant_problems(policy)
    if problems:
        raise PolicyInvalid(problems)
    return policy


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cycle collector: nothing of a policy is garbage, and looking for some doubles the time of a large one."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# --- one file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """A policy file, its head read."""

    top: Table
    own_projects: tuple[str, ...]
    environments: tuple[Table, ...]
    grants: tuple[Table, ...]
    invariants: tuple[Table, ...]

    @classmethod
    def of(cls, source: Source, problems: list[Problem]) -> "_File":
        top = Table(source, (), source.data, problems)
        version = top.raw("version")
        if type(version) is not int or version != VERSION:
            what = f"version is {'missing' if version is None else repr(version)}"
            top.problem("version", what, f"write version = {VERSION}")
        own_projects = top.texts("project_id")
        for project in own_projects:
            if wrong := wrong_value(project, _OWN_PROJECT):
                top.problem("project_id", f"project_id: {wrong[0]}", wrong[1])
        environments, grants, invariants = (tuple(top.tables(key)) for key in ("environment", "grant", "invariant"))
        return cls(top, own_projects, environments, grants, invariants)

    def environment_names(self) -> frozenset[str]:
        return _names(self.environments)


def _parsed(texts: Mapping[str, str]) -> tuple[list[Source], list[Problem]]:
    """Every file that is TOML. Raises PolicyInvalid when one is not: half a policy is not read further."""
    sources: list[Source] = []
    problems: list[Problem] = []
    for name, text in texts.items():
        try:
            sources.append(parse_toml(text, name))
        except SourceInvalid as invalid:
            problems += invalid.problems
    if problems:
        raise PolicyInvalid(problems)
    return sources, problems


def _names(tables: Iterable[Table]) -> frozenset[str]:
    return frozenset(name for table in tables if type(name := table.raw("name")) is str)


def _nothing_is_empty(files: Sequence[_File]) -> None:
    first = files[0].top
    for key, tables in (("environment", [f.environments for f in files]), ("grant", [f.grants for f in files])):
        if not any(tables) and not any(key in f.top for f in files):
            first.problem(key, f"there is no [[{key}]]", f"a policy has at least one [[{key}]]")
    for file in files if len(files) > 1 else ():
        if not (file.environments or file.grants or file.invariants or "guards" in file.top):
            file.top.problem("", "the file says nothing", "write what is for it to say, or remove it")


# --- the parts --------------------------------------------------------------------------------------------------------


def _environments(files: Sequence[_File], guards: Guards, issuers: Mapping[str, str] | None) -> tuple[Environment, ...]:
    found: list[Environment] = []
    for file in files:
        names: set[str] = set()
        for table in file.environments:
            faults = table.faults
            made = environment_from(
                table, file=file.top, own_projects=file.own_projects, guards=guards, issuers=issuers, order=len(found)
            )
            found += _taken(table, made, faults, names, "environment")
    return tuple(found)


def _grants(files: Sequence[_File], template: Callable[[str], str]) -> tuple[Grant, ...]:
    every = frozenset(name for file in files for name in file.environment_names())
    found: list[Grant] = []
    for file in files:
        names: set[str] = set()
        own = file.environment_names()
        for table in file.grants:
            faults = table.faults
            made = grant_from(table, own=own, every=every, template=template)
            found += _taken(table, made, faults, names, "grant")
    return tuple(found)


def _invariants(files: Sequence[_File], profiles: Sequence[Profile]) -> tuple[Invariant, ...]:
    environments = frozenset(name for file in files for name in file.environment_names())
    grants = frozenset(name for file in files for name in _names(file.grants))
    found: list[Invariant] = []
    for file in files:
        names: set[str] = set()
        for table in file.invariants:
            faults = table.faults
            made = invariant_from(table, environments=environments, grants=grants, profiles=profiles)
            found += _taken(table, made, faults, names, "invariant")
    return tuple(found)


def _taken(table: Table, made: Named | None, faults: int, names: set[str], key: str) -> Iterator[Named]:
    """What was made of a table, unless something is wrong with it or its name is taken."""
    table.refuse_others()
    if table.faults > faults or made is None:  # nothing is concluded from what is half read
        return
    if made.name in names:
        table.problem("name", f"{key} {made.name!r} stands twice", "give each its own name")
        return
    names.add(made.name)
    yield made


# --- the whole --------------------------------------------------------------------------------------------------------


def _policy(
    sources: Sequence[Source],
    used: Mapping[str, str],
    environments: tuple[Environment, ...],
    grants: tuple[Grant, ...],
    invariants: tuple[Invariant, ...],
) -> Policy:
    kept = _kept({source.name: source.text for source in sources}, used)
    return Policy(
        hash=_hash(kept),
        text=kept,
        environments=environments,
        grants=grants,
        invariants=invariants,
        sources={source.name: source for source in sources},
    )


def _ambiguous_grants(policy: Policy) -> Iterator[Problem]:
    """A shared grant whose name another grant has, where an environment would have both."""
    shared: dict[tuple[str, str], Grant] = {}
    for grant in policy.grants:
        if grant.shared:
            for environment in grant.environments:
                other = shared.setdefault((grant.name, environment), grant)
                if other is not grant:
                    yield _twice(policy, grant, environment, other)
    for grant in policy.grants:
        for environment in () if grant.shared else grant.environments:
            shares = shared.get((grant.name, environment))
            if shares is not None:
                yield _twice(policy, grant, environment, shares)


def _twice(policy: Policy, grant: Grant, environment: str, other: Grant) -> Problem:
    what = f"environment {environment!r} would have two grants {grant.name!r}: {other.place.file} shares one of that name"
    return policy.problem(grant.place, ("name",), what, "give one of them another name")


def _hash(kept: str) -> str:
    return "sha256:" + hashlib.sha256(kept.encode()).hexdigest()


def _kept(texts: Mapping[str, str], templates: Mapping[str, str]) -> str:
    """The policy and the templates it uses as one text: what is hashed, and what is kept with the log.

    One file's is TOML. Several files' has a line before each, with its name and its length, so that no file's text can pass for
    another file.
    """
    parts = []
    for name, text in texts.items():
        whole = text if text.endswith("\n") else text + "\n"
        parts += [f"#: file {name} {len(whole)}\n"] if len(texts) > 1 else []
        parts.append(whole)
    for file in sorted(templates):
        parts.append(f"#: {file}\n")
        parts += [f"#:   {line}\n" for line in templates[file].splitlines()]
    return "".join(parts)
