"""The two sides a grant can have: as the policy writes them, and with one job's values in them (`templates` fills them)."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rds:
    """`rds` of `[grant.aws]`: whom a token is for and where it is shown. In a grant `user` is a template."""

    host: str
    port: int
    user: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsGrant:
    """`[grant.aws]` as written: templates not yet filled."""

    role_arn: str
    session_policy: str | None  # the text of the template file, read at load
    policy_arns: tuple[str, ...]
    external_id: str | None
    region: str | None
    ttl: timedelta
    upstream: str | None
    rds: Rds | None = None  # the job gets a token for this database, and not the keys


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultGrant:
    """`[grant.vault]` as written: templates not yet filled."""

    role: str
    path: str  # may end in `/*` or `/**`
    engine: Literal["lease", "kv1", "kv2"]
    upstream: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsTarget:
    """A grant's AWS side with this job's values in it, every limit of `reference/aws.md` 1.2 checked."""

    role_arn: str
    session_policy: str | None  # JSON, at most 2048 characters
    policy_arns: tuple[str, ...]
    external_id: str | None
    region: str | None
    ttl: timedelta
    upstream: str | None
    rds: Rds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultTarget:
    """A grant's Vault side with this job's values, and the caller's subpath where the grant has one, in it."""

    role: str
    path: str  # canonical: no empty, `.` or `..` segment, nothing percent-encoded
    engine: Literal["lease", "kv1", "kv2"]
    upstream: str | None


Target = AwsTarget | VaultTarget
