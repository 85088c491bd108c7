"""What an operator says about one issuer of job tokens."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """One `[[issuer]]` of broker.toml. At most one of `jwks_url`, `jwks_file`, `discovery_url`, or discovery under `issuer`."""

    name: str
    profile: str
    issuer: str  # compared byte for byte with `iss`
    audience: tuple[str, ...]  # any one of them, as the token's single string
    max_lifetime: timedelta
    leeway: timedelta
    jwks_url: str | None
    jwks_file: Path | None
    discovery_url: str | None
    ca_file: Path | None
