"""The JSON Schema of a policy file, for editors. It is generated: the parser decides, and a test keeps the two in step.

Says what a schema can say: keys, types, shapes. That an environment exists, that a template can be filled is for `policy check`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.profiles import PROFILES
from broker.policy.environments import DEFAULT_EXCHANGES, MAX_EXCHANGES
from broker.policy.placeholders import PLACEHOLDERS

Schema = dict[str, Any]

_NAME: Schema = {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$"}
_TEXT: Schema = {"type": "string", "pattern": r"\S"}
_LENGTH: Schema = {"type": "string", "pattern": "^([0-9]{1,6}[dhms])+$"}
_FLAG: Schema = {"type": "boolean"}
_ANYTHING = "generic"  # the profile whose claims are not all known
_GLOB = "`*` stops at `/`, `**` crosses it"


def schema() -> Schema:
    """The schema of one policy file (JSON Schema 2020-12)."""
    claims = _claims()
    when = _open(
        "What a job's claims have to be, all of them.", {"issuer": _said(_NAME, "The [[issuer]] of broker.toml."), **claims}
    )
    when["allOf"] = [_of_issuer(profile) for profile in PROFILES.values() if profile.name != _ANYTHING]
    unless = _open("What none of the claims may be. An absent claim keeps the job out too.", claims)
    guard = _table(
        "Conditions that environments take over with `use`.",
        {"when": _open("As in an environment, without issuer.", claims), "unless": unless},
        some=True,
    )
    top = {
        "version": _said({"const": 1}, "The language's version."),
        "project_id": _said(_texts(), "Everything in this file belongs to these projects alone."),
        "environment": _array("Exactly one of these is a job's.", _environment(when, unless)),
        "grant": _array("What a job may get in an environment.", _grant()),
        "guards": {
            "description": "Conditions under a name, to be named in `use`.",
            "type": "object",
            "propertyNames": _NAME,
            "additionalProperties": guard,
        },
        "invariant": _array("What must never be possible; proved at load.", _invariant(claims)),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "credbroker policy",
        **_table("Which jobs are in which environment, and what they may have there.", top, required=["version"]),
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def _environment(when: Schema, unless: Schema) -> Schema:
    return _table(
        "One environment.",
        {
            "name": _said(_NAME, "Its name, in sessions, the log and upstream roles."),
            "when": {**when, "required": ["issuer"]},
            "unless": unless,
            "use": _said(_texts(_NAME), "Guards whose conditions this environment takes over."),
            "max_session": _said(_LENGTH, "The longest a session may be: 1m to 7d."),
            "max_exchanges": {
                "description": f"How often one job token may open a session. Default {DEFAULT_EXCHANGES}.",
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_EXCHANGES,
            },
            "hints": _said({"enum": ["own", "full"]}, "`full` tells a refused job of these projects what is wanted, too."),
            "allow_forks": _said(_FLAG, "Take merge requests of forks. Not together with when.ref_protected = true."),
        },
        required=["name", "when"],
    )


def _grant() -> Schema:
    filled = f"May hold {', '.join(PLACEHOLDERS)}."
    rds = {
        "host": _said(_TEXT, "The endpoint, as RDS names it."),
        "port": {"description": "Default 5432.", "type": "integer", "minimum": 1, "maximum": 65535},
        "user": _said(_TEXT, f"The user of the database. {filled}"),
    }
    aws = {
        "role_arn": _said(_TEXT, f"The role to assume. {filled}"),
        "session_policy": _said(_TEXT, f"A JSON file beside the policy that narrows the role. {filled}"),
        "policy_arns": _said(_texts(), f"Managed policies that narrow the role; at most 10. {filled}"),
        "external_id": _said(_TEXT, f'For upstreams with via = "assume-role". {filled}'),
        "region": _said(_TEXT, "The region the job is told; default the upstream's."),
        "ttl": _said(_LENGTH, "How long a credential lasts: 15m to 12h, default 1h."),
        "upstream": _said(_NAME, "Which [[upstream]] of kind aws, when there are several."),
        "rds": _table("A token for this database of RDS, and not the keys. Without ttl.", rds, required=["host", "user"]),
    }
    vault = {
        "role": _said(_TEXT, f"The role of Vault's JWT auth. {filled}"),
        "path": _said(_TEXT, f"What is read, from the mount on; ending in /* or /** it admits a subpath. {filled}"),
        "engine": _said({"enum": ["lease", "kv1", "kv2"]}, "Kind of engine; a kv2 path is written without data/."),
        "upstream": _said(_NAME, "Which [[upstream]] of kind vault, when there are several."),
    }
    grant = _table(
        "One grant.",
        {
            "name": _said(_NAME, "As `credbroker get NAME` and secret://NAME have it."),
            "environments": _said(_texts(), "Where it may be had: environments of this file, or with `shared` of every file."),
            "shared": _said(_FLAG, "For the environments of that name in every file of the folder."),
            "max_ttl": _said(_LENGTH, "A bound on its leases: 1s to 7d."),
            "rate": _said({"type": "string", "pattern": "^[1-9][0-9]{0,5}/[smh]$"}, 'Issuances per project: "30/m".'),
            "strict_expiry": _said(_FLAG, "Refuse a credential that would outlive the session."),
            "aws": _table("From AWS STS.", aws, required=["role_arn"]),
            "vault": _table("From Vault or OpenBao.", vault, required=["role", "path"]),
        },
        required=["name", "environments"],
    )
    return {**grant, "oneOf": [{"required": ["aws"]}, {"required": ["vault"]}]}


def _invariant(claims: Mapping[str, Schema]) -> Schema:
    one_or_more = {"anyOf": [_TEXT, _texts()]}
    never = {
        "environment": _said(one_or_more, "In none of these environments."),
        "grant": _said(one_or_more, "With none of these grants."),
        "claim": _open("No job whose claims are all like this. `false` means: not proved true.", claims, some=True),
    }
    table = {"name": _said(_TEXT, "What it says, for people."), "never": _table("What must never be.", never, some=True)}
    return _table("One invariant.", table, required=["name", "never"])


# --- claims -----------------------------------------------------------------------------------------------------------


def _claims() -> dict[str, Schema]:
    """The claims of every profile. One that two profiles have under different types may be either."""
    found: dict[str, list[Claim]] = {}
    for profile in PROFILES.values():
        for name, claim in profile.claims.items():
            found.setdefault(name, []).append(claim)
    return {name: _claim(claims) for name, claims in sorted(found.items())}


def _claim(claims: Iterable[Claim]) -> Schema:
    shapes: list[Schema] = []
    words = []
    for claim in claims:
        shapes += [shape for shape in _shapes(claim) if shape not in shapes]
        kind = f"{claim.kind.value}, {claim.assurance.value}"
        words.append(kind + (f"; {_GLOB}" if claim.path_like else ""))
    return _said({"anyOf": shapes} if len(shapes) > 1 else shapes[0], "; or ".join(dict.fromkeys(words)))


def _shapes(claim: Claim) -> list[Schema]:
    if claim.kind is ClaimKind.BOOL:
        return [_FLAG]
    if claim.kind is ClaimKind.NUMBER:
        number: Schema = {"type": "integer"}
        return [number, {"type": "array", "items": number, "minItems": 1}]
    text: Schema = {"type": "string", "minLength": 1}
    if claim.assurance is Assurance.ID or not claim.path_like:
        text = {**text, "pattern": r"^[^*]*$"}
    return [text, {"type": "array", "items": text, "minItems": 1}]


def _open(description: str, keys: Mapping[str, Schema], *, some: bool = False) -> Schema:
    """A table of claims: an issuer of the profile `generic` has others, each a text, or one in an object by its JSON pointer."""
    text: Schema = {"type": "string", "pattern": "^[^*]+$"}
    table = _table(description, keys, some=some)
    return {**table, "additionalProperties": {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]}}


def _of_issuer(profile: Profile) -> Schema:
    """An issuer that is called like its profile has that profile's claims and no others."""
    said: Schema = {"properties": {"issuer": {"const": profile.name}}, "required": ["issuer"]}
    return {"if": said, "then": {"propertyNames": {"enum": ["issuer", *sorted(profile.claims)]}}}


# --- shapes -----------------------------------------------------------------------------------------------------------


def _said(shape: Schema, description: str) -> Schema:
    return {"description": description, **shape}


def _texts(item: Schema = _TEXT) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}


def _array(description: str, item: Schema) -> Schema:
    return {"description": description, "type": "array", "items": item}


def _table(description: str, keys: Mapping[str, Schema], *, required: Iterable[str] = (), some: bool = False) -> Schema:
    table: Schema = {"description": description, "type": "object", "properties": dict(keys), "additionalProperties": False}
    if required := list(required):
        table["required"] = required
    if some:
        table["minProperties"] = 1
    return table
