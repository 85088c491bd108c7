"""`when` and `unless`: from a table of claims to compiled conditions.

What each claim is (its type, whether it has segments, whether it is an id) the issuer's profile says; no issuer is known here.
"""

import re
from dataclasses import replace

from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.policy.glob import Glob, compile_glob, is_glob
from broker.policy.model import Condition
from broker.policy.reading import Table
from broker.toml_source import Place, did_you_mean

_WANTED_CHARS = 160
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SINGLE = {ClaimKind.TEXT: str, ClaimKind.TEXTS: str, ClaimKind.NUMBER: int}


def conditions(
    clause: str, table: Table, profile: Profile, *, skip: frozenset[str] = frozenset(), guard: str = ""
) -> list[Condition]:
    """The conditions of one clause; what is wrong with any goes to the table's problems."""
    found = []
    for name in table.keys():  # noqa: SIM118  a Table is no dict: this marks its keys as known
        if name in skip:
            continue
        claim = profile.claims.get(name)
        if claim is None:
            table.problem(name, *_unknown(clause, name, profile))
            continue
        condition = _condition(clause, name, claim, table)
        if condition is not None:
            found.append(replace(condition, guard=guard) if guard else condition)
    return found


def built_in(clause: str, claim: str, values: frozenset[str], place: Place | None = None) -> Condition:
    """A condition that the language adds: exact texts."""
    return _compiled(clause, claim, ClaimKind.TEXT, frozenset(values), (), place)


def _unknown(clause: str, name: str, profile: Profile) -> tuple[str, str]:
    if name == "sub":
        return f"{clause}.sub: a project's maintainer shapes sub", "decide on its parts: project_id, ref_path, ref_type"
    if name in profile.untyped:
        return f"{clause}.{name}: nothing is decided on this claim", f"known are {', '.join(sorted(profile.claims))}"
    return f"{clause}.{name}: {profile.name} tokens have no such claim", did_you_mean(name, profile.claims)


def _condition(clause: str, name: str, claim: Claim, table: Table) -> Condition | None:
    value = table.raw(name)
    if claim.kind is ClaimKind.BOOL:
        if type(value) is not bool:
            meant = str(value).lower()
            instead = f"write {clause}.{name} = {meant if meant in ('true', 'false') else 'true or false'}"
            table.problem(name, f"{clause}.{name} is a boolean and {value!r} is none", f"{instead}, without quotes")
            return None
        return _compiled(clause, name, claim.kind, frozenset({value}), (), table.at(name))
    values = value if type(value) is list else [value]
    if not values:
        table.problem(
            name, f"{clause}.{name} is an empty list, which nothing can meet", "list at least one value or leave it out"
        )
        return None
    exact: set[str | bool | int] = set()
    globs: list[Glob] = []
    good = True
    for element in values:
        what = wrong_value(element, claim)
        if what:
            table.problem(name, f"{clause}.{name}: {what[0]}", what[1])
            good = False
        elif isinstance(element, str) and is_glob(element):
            globs.append(compile_glob(element))
        else:
            exact.add(element)
    return _compiled(clause, name, claim.kind, frozenset(exact), tuple(globs), table.at(name)) if good else None


def wrong_value(element: object, claim: Claim) -> tuple[str, str] | None:
    """What is wrong with one value for this claim, and what to write instead."""
    if type(element) is not _SINGLE[claim.kind]:
        return _wrong_type(element, claim)
    if not isinstance(element, str):
        return None
    if not element:
        return "the value is empty", "write the value that the claim has to have, or leave the condition out"
    if element != element.strip() or _CONTROL.search(element):
        return f"{element!r} has blanks at its ends or control characters in it", "no claim's value has"
    return _wrong_glob(element, claim) if is_glob(element) else _wrong_exact(element, claim)


def _wrong_type(element: object, claim: Claim) -> tuple[str, str]:
    if claim.kind is ClaimKind.NUMBER:
        return f"{element!r} is not a whole number", "write digits, without quotes"
    if type(element) is int:
        return f"{element} is a number, and this claim is text", f'write "{element}" in quotes'
    return f"{element!r} is not text", "write text in quotes, or a list of texts; there is no nesting"


def _wrong_exact(element: str, claim: Claim) -> tuple[str, str] | None:
    if claim.path_like and any(sign in element for sign in "?["):
        return f"`?` and `[` are no wildcards, so {element!r} can never match", "only `*` and `**` are wildcards"
    return None


def _wrong_glob(element: str, claim: Claim) -> tuple[str, str] | None:
    if claim.assurance is Assurance.ID:
        return f"{element!r}: an id is compared exactly", "list the ids"
    if not claim.path_like:
        return f"{element!r}: wildcards are for claims with segments between slashes", "list the exact values"
    if not element.strip("*/"):
        return f"{element!r} matches everything", "leave the condition out, or say what the value has to start with"
    try:
        compile_glob(element)
    except ValueError as error:
        return f"{element!r}: {error}", "write an exact value or one of these wildcards"
    return None


def _compiled(
    clause: str,
    name: str,
    kind: ClaimKind,
    exact: frozenset[str | bool | int],
    globs: tuple[Glob, ...],
    place: Place | None,
) -> Condition:
    negated = clause == "unless"
    shown = [_shown(value) for value in sorted(exact, key=str)] + [_shown(glob.text) for glob in globs]
    wanted = ("not " if negated else "") + " or ".join(shown)
    if len(wanted) > _WANTED_CHARS:
        wanted = f"{wanted[:_WANTED_CHARS]}… ({len(shown)} values)"
    return Condition(claim=name, clause=clause, kind=kind, exact=exact, globs=globs, negated=negated, wanted=wanted, place=place)


def _shown(value: str | bool | int) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
