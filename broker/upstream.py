"""What is asked of an upstream: orders, what comes back, and the protocol. The adapters are in `upstreams/`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.errors import BrokerError
from broker.identity.claims import JobIdentity
from broker.lease import Kind, Revocable, UpstreamIds
from broker.policy.target import AwsGrant, AwsTarget, Target, VaultGrant
from broker.secret import Secret


def kind_of(target: AwsGrant | VaultGrant | Target) -> Kind:
    """What a job gets of it: AWS keys, a token for a database of RDS, or what Vault has."""
    if not isinstance(target, AwsGrant | AwsTarget):
        return "vault"
    return "aws" if target.rds is None else "rds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is needed to renew or revoke one issued credential: its ids, and (Vault) the token that made it, if known."""

    ids: UpstreamIds
    token: Secret | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One credential that policy has allowed and the log has promised."""

    correlation_id: str  # goes upstream where it can (Vault: X-Correlation-Id)
    session_id: str
    identity: JobIdentity
    environment: str
    grant: str
    target: Target
    ttl: timedelta  # no longer than this is wanted: min(grant, rest of the session)
    login: Held | None  # an earlier login of the same (session, grant) that may be used again


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    fields: Mapping[str, Secret]
    held: Held
    expires_at: datetime | None  # the true end: min(lease, upstream token). None for a value without one
    renewable: bool
    revocable: Revocable
    static: bool = False  # not made for us: reading it again may give the same value


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    expires_at: datetime
    request_id: str


class LeftBehind(Exception):
    """`issue` failed, and what it had made upstream could not be ended: the intent stays open, for the sweeper."""

    def __init__(self, error: BrokerError) -> None:
        super().__init__()
        self.error = error


Note = Callable[[UpstreamIds], Awaitable[None]]
"""Makes ids durable in the middle of an issuance; raises what the ledger raises, and then nothing more may be read."""


class Upstream(Protocol):
    """Where credentials come from. Every method raises Refused, Unavailable or Misconfigured and no library's error."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    def plan(self, order: Order) -> UpstreamIds:
        """What can be named before anything is asked for (role, path, session name). Pure.

        Raises Refused(template_value) for a value that the upstream's character set does not take.
        """

    async def issue(self, order: Order, note: Note) -> Minted:
        """One credential. What a revocation would need is handed to `note`, and is durable, before any secret is read.

        Raises LeftBehind too, when it failed and could not clean up after itself.
        """

    async def renew(self, order: Order, held: Held) -> Renewed:
        """The same credential, for longer. Refused means that it is gone: a new one has to be issued."""

    async def take_back(self, order: Order, minted: Minted) -> None:
        """What was minted and may not be handed out is gone. A login of `order` that it was read with lives on."""

    async def revoke(self, helds: Sequence[Held]) -> None:
        """The credentials of one login, then the login. Returns when they are gone, verified; unknown ones are gone."""
