"""Reads `broker.toml` (DESIGN section 5). Keys of features that do not exist yet are unknown keys."""

import re
from datetime import timedelta
from pathlib import Path

from broker.config.listeners import listeners
from broker.config.model import (
    AwsConfig,
    Config,
    Keys,
    Limits,
    UpstreamConfig,
    VaultConfig,
)
from broker.config.table import Table
from broker.identity.settings import IssuerSettings
from broker.policy.model import Rate
from broker.toml_source import Problem, SourceInvalid, parse, read_text

NOWHERE = Path()
_NO_TIME = timedelta(0)
_SECOND = timedelta(seconds=1)
_ORIGIN = re.compile(r"[A-Za-z0-9._~/-]{1,255}")  # goes into signed notes: no space, no '+' (C2SP tlog-checkpoint)


class ConfigInvalid(SourceInvalid):
    """A configuration that cannot be used, with every problem in it and its line (`problems`)."""


def load(path: Path) -> Config:
    """The configuration in that file. Raises ConfigInvalid with every problem at once.

    Checked here: shapes, bounds, contradictions, that named files exist. Not checked: what is in the keys and the policy, and
    whether anything answers at any address.
    """
    path = path.absolute()
    problems: list[Problem] = []
    try:
        source = parse(read_text(path), path.name)
    except SourceInvalid as error:
        raise ConfigInvalid(error.problems) from None
    root = Table(source, (), dict(source.data), path.parent, problems)
    config = _config(root)
    if problems:
        raise ConfigInvalid(problems)
    return config


def _config(root: Table) -> Config:
    warnings: list[str] = []
    public_url = root.url("public_url", required=True, bare=True)
    issuer_url = root.url("issuer_url", default=public_url)
    config = Config(
        public_url=public_url,
        issuer_url=issuer_url,
        policy=root.file_or_folder("policy") or NOWHERE,
        listen=listeners(root, warnings),
        store=_store(root),
        keys=_keys(root),
        log_origin=_origin(root),
        issuers=_issuers(root, public_url),
        upstreams=_upstreams(root, issuer_url, warnings),
        limits=_limits(root.table("limits"), warnings),
        warnings=tuple(warnings),
    )
    root.finish()
    return config


# --- store, keys, log -------------------------------------------------------------------------------------------------


def _store(root: Table) -> Path:
    table = root.table("store")
    url = table.text("url", required=True)
    table.finish()
    scheme, _, rest = url.partition(":///")
    if scheme != "sqlite" or not rest or "?" in rest:
        if url:
            table.problem("url", f"url: {_without_password(url)!r} is not a store", 'write "sqlite:///broker.db"')
        return NOWHERE
    path = root.beside(rest)
    if not path.parent.is_dir():
        table.problem("url", f"url: the folder {path.parent} does not exist", "make it first")
    return path


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)


def _keys(root: Table) -> Keys:
    table = root.table("keys")
    keys = Keys(
        issuer=table.directory("issuer") or NOWHERE,
        log=table.file("log", required=True) or NOWHERE,
        store=table.file("store", required=True) or NOWHERE,
    )
    table.finish()
    return keys


def _origin(root: Table) -> str:
    table = root.table("log")
    origin = table.text("origin", required=True)
    if origin and not _ORIGIN.fullmatch(origin):
        table.problem(
            "origin", f"origin: {origin!r} cannot name a log", 'write a URL without its scheme, such as "broker.example.com/log"'
        )
    table.finish()
    return origin


# --- issuers ----------------------------------------------------------------------------------------------------------


def _issuers(root: Table, public_url: str) -> tuple[IssuerSettings, ...]:
    tables = root.tables("issuer")
    if not tables:
        root.problem("", "no [[issuer]]: nobody could mint a job token that is accepted", "add one")
    issuers = []
    names: set[str] = set()
    urls: set[str] = set()
    for table in tables:
        issuer = _issuer(table, public_url)
        _once(table, "name", issuer.name, names)
        # Two entries for one `iss` would leave open which audience and keys decide.
        _once(table, "issuer", issuer.issuer, urls)
        issuers.append(issuer)
    return tuple(issuers)


def _issuer(table: Table, public_url: str) -> IssuerSettings:
    day = timedelta(days=1)
    issuer = IssuerSettings(
        name=table.name(),
        profile=table.text("profile", required=True, one_of=("gitlab",)),
        issuer=table.url("issuer", required=True),
        audience=table.texts("audience", (public_url,)),
        max_lifetime=table.length("max_lifetime", day, timedelta(minutes=1), 31 * day),
        leeway=table.length("leeway", 30 * _SECOND, _SECOND, 120 * _SECOND),
        jwks_url=table.url("jwks_url") or None,
        jwks_file=table.file("jwks_file"),
        discovery_url=table.url("discovery_url") or None,
        ca_file=table.file("ca_file"),
    )
    sources = [key for key in ("jwks_url", "jwks_file", "discovery_url") if key in table]
    if len(sources) > 1:
        table.problem(sources[1], f"{' and '.join(sources)} both say where the keys are", "keep one")
    table.finish()
    return issuer


def _once(table: Table, key: str, value: str, seen: set[str]) -> None:
    if value and value in seen:
        table.problem(key, f"{key} {value!r} is used twice", "each may stand once")
    seen.add(value)


# --- upstreams --------------------------------------------------------------------------------------------------------


def _upstreams(root: Table, issuer_url: str, warnings: list[str]) -> tuple[UpstreamConfig, ...]:
    tables = root.tables("upstream")
    if not tables:
        root.problem("", "no [[upstream]]: there is nowhere to get a credential from", "add one")
    upstreams: list[UpstreamConfig] = []
    names: set[str] = set()
    for table in tables:
        name = table.name()
        _once(table, "name", name, names)
        kind = table.text("kind", required=True, one_of=("vault", "aws"))
        if kind == "vault":
            upstreams.append(_vault(table, name, warnings))
        elif kind == "aws":
            upstreams.append(_aws(table, name, issuer_url, warnings))
        else:
            continue  # which keys are known depends on the kind
        table.finish()
    return tuple(upstreams)


def _vault(table: Table, name: str, warnings: list[str]) -> VaultConfig:
    url = table.url("url", required=True)
    table.text("via", default="issuer", one_of=("issuer",))
    role = table.text("maintenance_role") or None
    if role is None:
        warnings.append(
            f"upstream {name!r} has no maintenance_role: revocation of cold sessions (those whose handle was not seen since a "
            "restart) waits for expiry"
        )
    return VaultConfig(
        name=name,
        url=url,
        mount=table.text("mount", default="jwt").strip("/"),
        via="issuer",
        namespace=table.text("namespace") or None,
        ca_file=table.file("ca_file"),
        audience=table.text("audience", default=url),
        maintenance_role=role,
    )


def _aws(table: Table, name: str, issuer_url: str, warnings: list[str]) -> AwsConfig:
    via = table.text("via", default="issuer", one_of=("issuer", "assume-role"))
    sts_url = table.url("sts_url") or None
    if via == "issuer" and sts_url is None and issuer_url.startswith("http://"):
        warnings.append(
            f"upstream {name!r}: AWS STS fetches the broker's keys from issuer_url over public https, and that is {issuer_url}"
        )
    return AwsConfig(
        name=name,
        region=table.text("region", required=True),
        via="assume-role" if via == "assume-role" else "issuer",
        sts_url=sts_url,
        audience=table.text("audience", default="sts.amazonaws.com"),
    )


# --- limits -----------------------------------------------------------------------------------------------------------


def _limits(table: Table, warnings: list[str]) -> Limits:
    rotate_every = table.length("rotate_every", _NO_TIME, _SECOND, timedelta(days=1)) or None
    if rotate_every is not None:
        warnings.append(
            f"rotate_every = {rotate_every.total_seconds():.0f}s bounds every lease's age: that is for demos and drills"
        )
    limits = Limits(
        body_bytes=table.integer("body_bytes", 32 * 1024, 1024, 1024 * 1024),
        token_chars=table.integer("token_chars", 20_000, 1000, 100_000),
        request_seconds=table.integer("request_seconds", 10, 1, 300),
        concurrency=table.integer("concurrency", 1024, 1, 100_000),
        project_rate=table.rate("project_rate", Rate(count=50, per=_SECOND)),
        rotate_every=rotate_every,
    )
    table.finish()
    return limits
