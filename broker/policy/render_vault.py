"""The Vault or OpenBao side of a policy: JWT auth, one role for each role the policy names, what their tokens may read.

Written to be applied as it is, with `vault` or `bao` or Terraform. A role admits the subjects of its grants and nothing else; its
tokens are renewed by the broker, and without it end within half an hour, at the latest with `max_session`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from broker.policy.model import Policy
from broker.policy.placeholders import filled
from broker.policy.render_roles import (
    MAINTENANCE_SUBJECT,
    Roles,
    Served,
    fits_one_role,
    have_refs,
    longest,
    projects,
    vault_roles,
)
from broker.policy.target import VaultGrant
from broker.policy.templates import wildcard

_TOKEN_TTL = timedelta(minutes=30)
_UPKEEP_TTL = timedelta(minutes=5)
_UPKEEP = (
    "sys/leases/renew",
    "sys/leases/revoke",
    "auth/token/renew-accessor",
    "auth/token/revoke-accessor",
    "auth/token/revoke-self",
)
_PREFIX = "credbroker-"

Rules = Mapping[str, Sequence[str]]  # path -> capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSide:
    """What is not in the policy: `[[upstream]]` of kind vault, and the broker's `issuer_url`."""

    issuer_url: str
    audience: str
    mount: str = "jwt"
    maintenance_role: str | None = "credbroker-maintenance"
    database: str = "database"  # the mount whose `creds/` are database roles
    connection: str = "postgres"  # `db_name` of those roles
    upstream: str | None = None


@dataclass(frozen=True, slots=True)
class VaultFiles:
    """What is written to the API: bodies by path, in the order in which they are applied; and policies by name."""

    writes: Mapping[str, Mapping[str, Any]]
    policies: Mapping[str, Rules]
    owners: tuple[str, ...]  # roles of the database that own what the jobs make


def vault(policy: Policy, side: VaultSide) -> VaultFiles:
    """Everything that this policy needs in Vault. Raises Misconfigured for a role that cannot be written down."""
    roles = vault_roles(policy, side.upstream)
    writes: dict[str, Mapping[str, Any]] = {f"auth/{side.mount}/config": config(side)}
    policies: dict[str, Rules] = {}
    databases = _databases(roles, side)
    for name, lease in databases.items():
        writes[f"{side.database}/roles/{name}"] = database_role(name, side.connection, lease)
    for name, served in roles.items():
        policies[_PREFIX + name] = _reads(served)
        writes[f"auth/{side.mount}/role/{name}"] = job_role(name, served, side)
    if side.maintenance_role:
        policies[_PREFIX + "upkeep"] = dict.fromkeys(_UPKEEP, ("update",))
        writes[f"auth/{side.mount}/role/{side.maintenance_role}"] = _maintenance(side)
    return VaultFiles(writes, policies, tuple(databases))


def config(side: VaultSide) -> dict[str, Any]:
    """`iss` is compared only because of `bound_issuer`, also with discovery (reference/vault.md 1.1)."""
    return {
        "oidc_discovery_url": side.issuer_url,
        "bound_issuer": side.issuer_url,
        "jwt_supported_algs": ["ES256", "RS256"],
    }


def job_role(name: str, served: tuple[Served, ...], side: VaultSide) -> dict[str, Any]:
    subjects = sorted({subject for one in served for subject in one.subjects})
    protected = fits_one_role(name, served)
    claims: dict[str, Any] = {"sub": subjects}
    if len(protected) == 1 and have_refs(served):
        claims["ref_protected"] = list(protected)
    whole = int(longest(served).total_seconds())
    return {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [side.audience],
        "bound_claims_type": "glob" if any(one.open_ended for one in served) else "string",
        "bound_claims": claims,
        "claim_mappings": {claim: claim for claim in ("project_id", "pipeline_id", "job_id", "ref_path")},
        "token_policies": [_PREFIX + name],
        "token_type": "service",
        "token_ttl": min(int(_TOKEN_TTL.total_seconds()), whole),
        "token_max_ttl": whole,
        "token_explicit_max_ttl": whole,
    }


def _maintenance(side: VaultSide) -> dict[str, Any]:
    short = int(_UPKEEP_TTL.total_seconds())
    return {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [side.audience],
        "bound_subject": MAINTENANCE_SUBJECT,
        "token_policies": [_PREFIX + "upkeep"],
        "token_no_default_policy": True,
        "token_type": "service",
        "token_ttl": short,
        "token_max_ttl": short,
        "token_explicit_max_ttl": short,
    }


# --- what a token may read --------------------------------------------------------------------------------------------


def _reads(served: tuple[Served, ...]) -> Rules:
    return {path: ("read",) for one in served for path in _paths(one)}


def _paths(one: Served) -> list[str]:
    """The API paths of a grant. A job's own number in one is any segment: the role's tokens are told apart by no more."""
    target = one.grant.target
    assert isinstance(target, VaultGrant)
    ending = wildcard(target.path)
    pinned = projects(one.rule) or ("+",)
    found = []
    for project in pinned if "{project_id}" in target.path else pinned[:1]:
        values = {"environment": one.rule.name, "project_id": project, "job_id": "+"}
        path = filled(target.path.removesuffix(ending), values)
        if target.engine == "kv2":
            mount, _, rest = path.partition("/")
            path = f"{mount}/data/{rest}"
        found.append(path + {"/*": "/+", "/**": "/*", "": ""}[ending])
    return found


# --- database roles ---------------------------------------------------------------------------------------------------


def _databases(roles: Roles, side: VaultSide) -> dict[str, timedelta]:
    """Names of the database roles that grants read, with the longest time that one of their leases is wanted."""
    found: dict[str, timedelta] = {}
    for one in (one for served in roles.values() for one in served):
        limit = one.grant.max_ttl or one.rule.max_session or timedelta(hours=24)
        for path in _paths(one):
            head, _, name = path.rpartition("/")
            if head == f"{side.database}/creds" and name not in ("+", "*"):
                found[name] = max(limit, found.get(name, timedelta()))
    return dict(sorted(found.items()))


def database_role(name: str, connection: str, longest_lease: timedelta) -> dict[str, Any]:
    """A PostgreSQL role whose users come and go while what they make stays: it belongs to the role `name`, as whom they act.

    Revocation locks the user out, ends its connections, and drops it. A superuser's connection is not ended by others.
    """
    seconds = int(longest_lease.total_seconds())
    owner = name.replace('"', '""')
    return {
        "db_name": connection,
        "creation_statements": [
            "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'" + f' IN ROLE "{owner}";',
            f'ALTER ROLE "{{{{name}}}}" SET ROLE "{owner}";',
        ],
        "renew_statements": ["ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';"],
        "revocation_statements": [
            'ALTER ROLE "{{name}}" NOLOGIN;',
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';",
            f'REASSIGN OWNED BY "{{{{name}}}}" TO "{owner}";',
            'DROP OWNED BY "{{name}}";',
            'DROP ROLE IF EXISTS "{{name}}";',
        ],
        "default_ttl": min(seconds // 2, int(_TOKEN_TTL.total_seconds())),  # room to renew in, and short without the broker
        "max_ttl": seconds,
    }


# --- files ------------------------------------------------------------------------------------------------------------


def files(rendered: VaultFiles) -> dict[str, str]:
    """File name -> text."""
    out: dict[str, str] = {}
    script = ["#!/bin/sh", "# Applies what stands beside it. VAULT_ADDR and VAULT_TOKEN say where and as whom.", "set -eu"]
    script += ['cd "$(dirname "$0")"', 'vault="${VAULT:-vault}"   # or bao']
    mount = _mount(rendered)
    script.append(f'"$vault" auth list -format=json | grep -q \'"{mount}/"\' || "$vault" auth enable -path={mount} jwt')
    for name, rules in rendered.policies.items():
        out[f"policy-{name}.hcl"] = hcl(rules)
        out[f"policy-{name}.json"] = _json({"path": {path: {"capabilities": list(can)} for path, can in rules.items()}})
        script.append(f'"$vault" policy write {name} policy-{name}.hcl')
    for path, body in rendered.writes.items():
        file = path.replace("/", "_") + ".json"
        out[file] = _json(body)
        script.append(f'"$vault" write {path} @{file}')
    if rendered.owners:
        out["owners.sql"] = "".join(
            f'-- Owns what the jobs of this role make. Give it what they may do.\nCREATE ROLE "{owner}" NOLOGIN;\n'
            for owner in rendered.owners
        )
    out["apply.sh"] = "\n".join(script) + "\n"
    out["credbroker.tf"] = _terraform(rendered)
    return out


def hcl(rules: Rules) -> str:
    return "".join(f'path "{path}" {{\n  capabilities = {json.dumps(list(can))}\n}}\n' for path, can in rules.items())


def _terraform(rendered: VaultFiles) -> str:
    """Every file as a resource of the `vault` provider; `vault_generic_endpoint` takes the API's own bodies."""
    mount = _mount(rendered)
    blocks = [f'resource "vault_auth_backend" "credbroker" {{\n  type = "jwt"\n  path = "{mount}"\n}}\n']
    blocks += [
        f'resource "vault_policy" "{_label(name)}" {{\n  name   = "{name}"\n'
        f'  policy = file("${{path.module}}/policy-{name}.hcl")\n}}\n'
        for name in rendered.policies
    ]
    blocks += [
        f'resource "vault_generic_endpoint" "{_label(path)}" {{\n  path                 = "{path}"\n'
        f'  data_json            = file("${{path.module}}/{path.replace("/", "_")}.json")\n'
        "  ignore_absent_fields = true\n  depends_on           = [vault_auth_backend.credbroker]\n}\n"
        for path in rendered.writes
    ]
    return "\n".join(blocks)


def _mount(rendered: VaultFiles) -> str:
    return next(path for path in rendered.writes if path.endswith("/config")).removeprefix("auth/").removesuffix("/config")


def _label(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


# --- without the broker -----------------------------------------------------------------------------------------------


def stop(policy: Policy, side: VaultSide) -> list[str]:
    """Commands that end everything this policy gave out here, without the broker. First nothing new, then what there is."""
    roles = vault_roles(policy, side.upstream)
    names = [*roles, *([side.maintenance_role] if side.maintenance_role else [])]
    lines = [f"vault delete auth/{side.mount}/role/{name}" for name in names]
    lines.append(f"vault lease revoke -prefix -sync auth/{side.mount}/login")
    prefixes = sorted({path for served in roles.values() for one in served for path in _leased(one)})
    return lines + [f"vault lease revoke -prefix -sync {prefix}" for prefix in prefixes]


def _leased(one: Served) -> list[str]:
    target = one.grant.target
    assert isinstance(target, VaultGrant)
    if target.engine != "lease":
        return []
    return [path.split("/+", 1)[0].removesuffix("/*") for path in _paths(one)]
