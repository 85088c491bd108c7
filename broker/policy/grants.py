"""`[[grant]]`: what may be had, with its templates read and tried at load."""

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from broker.policy.model import Grant, Rate
from broker.policy.placeholders import PLACEHOLDERS
from broker.policy.target import AwsGrant, Rds, VaultGrant
from broker.policy.templates import Unfit, try_aws, try_vault
from broker.toml_source import SourceInvalid, did_you_mean
from broker.toml_table import Table

_STS_DEFAULT = timedelta(hours=1)
_STS_MIN, _STS_MAX = timedelta(minutes=15), timedelta(hours=12)
_RDS_PORT, _MAX_PORT = 5432, 65535
_ENGINES: dict[str, Literal["lease", "kv1", "kv2"]] = {"lease": "lease", "kv1": "kv1", "kv2": "kv2"}


def grant_from(table: Table, *, own: frozenset[str], every: frozenset[str], template: Callable[[str], str]) -> Grant | None:
    """One grant; what is wrong with it goes to the table's problems.

    `own` are the names of the environments of its file, `every` those of the whole policy.
    """
    name = table.name("name", required=True)
    reached = table.texts("environments", required=True)
    shared = table.flag("shared")
    known = every if shared else own
    for environment in reached:
        if environment in known:
            continue
        if environment in every:
            what = f"environment {environment!r} is another file's, and a grant is for the environments of its own file"
            table.problem("environments", what, "write shared = true if every file's environment of that name is to have it")
        else:
            what = f"there is no environment {environment!r}"
            table.problem("environments", what, did_you_mean(environment, known) if known else "")
    max_ttl = table.length("max_ttl", timedelta(seconds=1), timedelta(days=7))
    rate = table.parsed("rate", Rate.parse, 'write a number and a unit, "30/m" is thirty a minute')
    strict_expiry = table.flag("strict_expiry")
    aws, vault = table.table("aws"), table.table("vault")
    if ("aws" in table) == ("vault" in table):
        number = "one upstream, not two" if "aws" in table else "an upstream"
        table.problem("", f"a grant comes from {number}", "write either [grant.aws] or [grant.vault]")
        return None
    target = _aws(aws, template, reached) if aws is not None else _vault(vault, reached) if vault is not None else None
    if name is None or target is None:
        return None
    return Grant(
        name=name,
        environments=reached,
        target=target,
        max_ttl=max_ttl,
        rate=rate,
        strict_expiry=strict_expiry,
        shared=shared,
        place=table.place,
    )


def _aws(table: Table, template: Callable[[str], str], environments: tuple[str, ...]) -> AwsGrant | None:
    role_arn = table.text("role_arn", required=True)
    file = table.text("session_policy")
    policy_arns = table.texts("policy_arns")
    external_id = table.text("external_id")
    region = table.text("region")
    ttl = table.length("ttl", _STS_MIN, _STS_MAX)
    upstream = table.name("upstream")
    rds = _rds(table)
    table.refuse_others()
    session_policy = None
    if file is not None:
        try:
            session_policy = template(file)
        except SourceInvalid as invalid:
            table.problem("session_policy", f"session_policy {file!r}: {invalid.problems[0].what}", invalid.problems[0].instead)
    if role_arn is None or (file is not None and session_policy is None) or ("rds" in table and rds is None):
        return None
    grant = AwsGrant(
        role_arn=role_arn,
        session_policy=session_policy,
        policy_arns=policy_arns,
        external_id=external_id,
        region=region,
        ttl=_STS_MIN if rds is not None else ttl or _STS_DEFAULT,
        upstream=upstream,
        rds=rds,
    )
    return grant if _tried(table, try_aws(grant, environments)) else None


def _rds(table: Table) -> Rds | None:
    database = table.table("rds")
    if database is None:
        return None
    host = database.text("host", required=True)
    port = database.integer("port", _RDS_PORT, 1, _MAX_PORT)
    user = database.text("user", required=True)
    database.refuse_others()
    if "ttl" in table:
        table.problem("ttl", "ttl changes nothing beside rds: a token is good for 15 minutes", "leave it out")
    return None if host is None or user is None else Rds(host=host, port=port, user=user)


def _vault(table: Table, environments: tuple[str, ...]) -> VaultGrant | None:
    role = table.text("role", required=True)
    path = table.text("path", required=True)
    engine = _ENGINES[table.choice("engine", tuple(_ENGINES)) or "lease"]
    upstream = table.name("upstream")
    table.refuse_others()
    if role is None or path is None:
        return None
    grant = VaultGrant(role=role, path=path, engine=engine, upstream=upstream)
    return grant if _tried(table, try_vault(grant, environments)) else None


def _tried(table: Table, unfit: list[Unfit]) -> bool:
    for key, what in unfit:
        table.problem(key, f"{key}: {what}", f"placeholders are {', '.join(PLACEHOLDERS)}" if "placeholder" in what else "")
    return not unfit
