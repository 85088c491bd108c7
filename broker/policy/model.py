"""What a policy is once it is loaded, and what a decision is. Frozen values; the parser is in `language`."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from broker.errors import Code


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


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultGrant:
    """`[grant.vault]` as written: templates not yet filled."""

    role: str
    path: str  # may end in `/*` or `/**`
    engine: Literal["lease", "kv1", "kv2"]
    upstream: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `count` issuances in `per`."""

    count: int
    per: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    name: str
    environments: tuple[str, ...]
    target: AwsGrant | VaultGrant
    max_ttl: timedelta | None
    rate: Rate | None
    strict_expiry: bool


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


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultTarget:
    """A grant's Vault side with this job's values, and the caller's subpath where the grant has one, in it."""

    role: str
    path: str  # canonical: no empty, `.` or `..` segment, nothing percent-encoded
    engine: Literal["lease", "kv1", "kv2"]
    upstream: str | None


Target = AwsTarget | VaultTarget


@dataclass(frozen=True, slots=True)
class Step:
    """One condition that was looked at: where, which claim, what the job's own value was, whether it met the pattern.

    `wanted` is the policy's side. It goes to our log and to `policy explain`, never to a caller (DESIGN section 5).
    """

    environment: str
    clause: str  # "when" or "unless", or the name of a built-in rule such as "merge-request"
    claim: str
    value: str | None  # the job's own; None when absent
    wanted: str
    met: bool


@dataclass(frozen=True, slots=True)
class Allow:
    """The job is in exactly this environment and may have exactly these grants there."""

    environment: str
    grants: tuple[str, ...]
    max_session: timedelta | None
    max_exchanges: int
    trail: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Deny:
    """No. `hint` is one sentence about the job's own claims that may be told to it."""

    code: Code
    hint: str
    trail: tuple[Step, ...]


Decision = Allow | Deny


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One loaded policy. The environments' conditions and the index over them are the language's and decide's business."""

    hash: str  # "sha256:" + hex of the policy's canonical text, as the log names it
    text: str  # what was loaded, as it is kept with the log
    environments: tuple["Environment", ...]
    grants: tuple[Grant, ...]

    def grant(self, name: str) -> Grant:
        """The grant of that name. Raises KeyError; `decide` has been asked first."""
        return next(grant for grant in self.grants if grant.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    name: str
