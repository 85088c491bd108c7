"""Reads `broker.toml` (DESIGN section 5). Keys of features that do not exist yet are unknown keys."""

import os
import re
from collections.abc import Iterable
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
from broker.identity.profiles import PROFILES
from broker.identity.settings import IssuerSettings
from broker.policy.model import Rate
from broker.policy.templates import REGION
from broker.toml_source import Problem, SourceInvalid, parse, read_text

NOWHERE = Path()
_SECOND = timedelta(seconds=1)
_ORIGIN = re.compile(r"[A-Za-z0-9._~/-]{1,255}")  # goes into signed notes: no space, no '+' (C2SP tlog-checkpoint)


class ConfigInvalid(SourceInvalid):
    """A configuration that cannot be used, with every problem in it and its line (`problems`).

    `so_far` is what could be read of it: for looking for more problems, and for nothing else. None when it is not even TOML.
    """

    def __init__(self, problems: Iterable[Problem], so_far: Config | None = None) -> None:
        super().__init__(problems)
        self.so_far = so_far


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
    root = Table(source, path.parent, problems)
    config = _config(root)
    if problems:
        raise ConfigInvalid(problems, config)
    return config


def _config(root: Table) -> Config:
    warnings: list[str] = []
    public_url = root.url("public_url", required=True, bare=True) or ""
    issuer_url = root.url("issuer_url") or public_url
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
    root.refuse_others()
    return config


# --- store, keys, log -------------------------------------------------------------------------------------------------


def _store(root: Table) -> Path:
    table = root.table("store")
    url = table.text("url", required=True)
    table.refuse_others()
    if url is None:
        return NOWHERE
    scheme, _, rest = url.partition(":///")
    if scheme != "sqlite" or not rest or "?" in rest:
        table.problem("url", f"url: {_without_password(url)!r} is not a store", 'write "sqlite:///broker.db"')
        return NOWHERE
    path = table.beside("url", rest) or NOWHERE
    if not path.parent.is_dir():
        table.problem("url", f"url: the folder {path.parent} does not exist", "make it first")
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        table.problem("url", f"url: the folder {path.parent} may not be written to by this user", "check as the broker's user")
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
    table.refuse_others()
    return keys


def _origin(root: Table) -> str:
    table = root.table("log")
    origin = table.text("origin", required=True) or ""
    if origin and not _ORIGIN.fullmatch(origin):
        table.problem(
            "origin", f"origin: {origin!r} cannot name a log", 'write a URL without its scheme, such as "broker.example.com/log"'
        )
        origin = ""
    table.refuse_others()
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
    name = table.name("name", required=True) or ""
    kind = table.choice("profile", tuple(PROFILES), required=True) or ""
    url = table.url("issuer", required=True) or ""
    profile = PROFILES.get(kind)
    longest = day if profile is None else profile.longest
    if url and profile is not None and (problem := profile.issuer_problem(url)):
        table.problem("issuer", f"issuer: {url}: {problem.partition(';')[0]}", problem.partition("; ")[2])
    issuer = IssuerSettings(
        name=name,
        profile=kind,
        issuer=url,
        audience=table.texts("audience") or (public_url,),
        max_lifetime=table.length("max_lifetime", timedelta(minutes=1), 31 * day) or longest,
        leeway=table.length("leeway", _SECOND, 120 * _SECOND) or 30 * _SECOND,
        jwks_url=table.url("jwks_url"),
        jwks_file=table.file("jwks_file"),
        discovery_url=table.url("discovery_url"),
        ca_file=table.file("ca_file"),
    )
    sources = [key for key in ("jwks_url", "jwks_file", "discovery_url") if key in table]
    if len(sources) > 1:
        table.problem(sources[1], f"{' and '.join(sources)} both say where the keys are", "keep one")
    table.refuse_others()
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
        name = table.name("name", required=True) or ""
        _once(table, "name", name, names)
        kind = table.choice("kind", ("vault", "aws"), required=True)
        if kind == "vault":
            upstreams.append(_vault(table, name, warnings))
        elif kind == "aws":
            upstreams.append(_aws(table, name, issuer_url, warnings))
        else:
            continue  # which keys are known depends on the kind
        table.refuse_others()
    return tuple(upstreams)


def _vault(table: Table, name: str, warnings: list[str]) -> VaultConfig:
    url = table.url("url", required=True) or ""
    table.choice("via", ("issuer",))
    role = table.text("maintenance_role")
    if role is None:
        warnings.append(
            f"upstream {name!r} has no maintenance_role: revocation of cold sessions (those whose handle was not seen since a "
            "restart) waits for expiry"
        )
    return VaultConfig(
        name=name,
        url=url,
        mount=(table.text("mount") or "jwt").strip("/"),
        via="issuer",
        namespace=table.text("namespace"),
        ca_file=table.file("ca_file"),
        audience=table.text("audience") or url,
        maintenance_role=role,
    )


def _aws(table: Table, name: str, issuer_url: str, warnings: list[str]) -> AwsConfig:
    assume_role = table.choice("via", ("issuer", "assume-role")) == "assume-role"
    region = table.text("region", required=True) or ""
    if region and not REGION.fullmatch(region):  # it becomes part of a host's name
        table.problem("region", f"region: {region!r} is not a region such as eu-central-1")
    sts_url = table.url("sts_url")
    if not assume_role and sts_url is None and issuer_url.startswith("http://"):
        warnings.append(
            f"upstream {name!r}: AWS STS fetches the broker's keys from issuer_url over public https, and that is {issuer_url}"
        )
    return AwsConfig(
        name=name,
        region=region,
        via="assume-role" if assume_role else "issuer",
        sts_url=sts_url,
        audience=table.text("audience") or "sts.amazonaws.com",
    )


# --- limits -----------------------------------------------------------------------------------------------------------


def _limits(table: Table, warnings: list[str]) -> Limits:
    rotate_every = table.length("rotate_every", _SECOND, timedelta(days=1))
    if rotate_every is not None:
        warnings.append(
            f"rotate_every = {rotate_every.total_seconds():.0f}s bounds every lease's age: that is for demos and drills"
        )
    rate = table.parsed("project_rate", Rate.parse, 'write a number and a unit such as "50/s" or "30/m"')
    limits = Limits(
        body_bytes=table.integer("body_bytes", 32 * 1024, 1024, 1024 * 1024),
        token_chars=table.integer("token_chars", 20_000, 1000, 100_000),
        request_seconds=table.integer("request_seconds", 10, 1, 300),
        concurrency=table.integer("concurrency", 1024, 1, 100_000),
        project_rate=rate or Rate(count=50, per=_SECOND),
        rotate_every=rotate_every,
    )
    table.refuse_others()
    return limits
