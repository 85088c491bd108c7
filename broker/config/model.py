"""What a `broker.toml` is once it is loaded. Every path is absolute, every URL checked, every default filled in."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from broker.identity.settings import IssuerSettings
from broker.policy.model import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a TCP listener listens. Port 0 lets the kernel choose one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Https:
    address: Address
    cert: Path
    key: Path
    client_ca: Path | None  # a client certificate is then checked, and still optional


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """At least one of `unix`, `http`, `https`."""

    unix: Path | None
    http: Address | None  # loopback only
    https: Https | None
    admin: Path | None  # never in the folder of `unix`
    admin_uids: tuple[int, ...]
    unix_bind_uid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    issuer: Path  # a folder of PEM files
    log: Path
    store: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultConfig:
    """One `[[upstream]]` of kind vault."""

    name: str
    url: str
    mount: str
    via: Literal["issuer"]
    namespace: str | None
    ca_file: Path | None
    audience: str  # default: url
    maintenance_role: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsConfig:
    """One `[[upstream]]` of kind aws."""

    name: str
    region: str
    via: Literal["issuer", "assume-role"]
    sts_url: str | None  # None: the region's own endpoint
    audience: str


UpstreamConfig = VaultConfig | AwsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    body_bytes: int
    token_chars: int
    request_seconds: float  # to send the headers, and again to send the body
    concurrency: int  # requests in flight, on each listener
    project_rate: Rate  # exchanges of one project; more wait their turn
    rotate_every: timedelta | None  # upper bound on a lease's age, for demos and drills


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    public_url: str
    issuer_url: str  # `iss` of the broker's own assertions
    policy: Path
    listen: Listen
    store: Path  # the SQLite file
    keys: Keys
    log_origin: str
    issuers: tuple[IssuerSettings, ...]
    upstreams: tuple[UpstreamConfig, ...]
    limits: Limits
    warnings: tuple[str, ...]  # allowed, but the operator should know
