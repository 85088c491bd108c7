"""A broker without its doors: the real policy, ledger, journal and leases, on a clock that stands still and a fake upstream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.audit.checkpoint import LogSigner
from broker.audit.entry import Journal
from broker.audit.rollup import BoundedDenials
from broker.errors import Code, Refused
from broker.exchanging import ExchangeRequest, Exchanging, Peer
from broker.identity.claims import JobIdentity
from broker.issuing import Issuing
from broker.leases.desk import SessionDesk
from broker.leases.ending import Ending
from broker.leases.requests import ReadRequest
from broker.leases.revocation import Revocation
from broker.leases.rotation import Rotation
from broker.leases.table import Table
from broker.leases.upkeep import Upkeep
from broker.leasing import Pace
from broker.moment import Moment
from broker.policy.language import parse
from broker.policy.model import Policy
from broker.policy.target import AwsTarget, Target
from broker.refusing import Refusing
from broker.session import SessionState
from broker.store.sqlite import SqliteLedger
from tests.fakes.upstream import FakeUpstream
from tests.strategies import ManualClock, identity

POLICY = """
version = 1
project_id = ["4711"]

[[environment]]
name = "production"
when.issuer = "gitlab"
when.ref_path = "refs/heads/main"
when.ref_protected = true
when.environment = "production"
when.pipeline_source = ["push"]

[[environment]]
name = "review"
when.issuer = "gitlab"
when.ref_path = "refs/heads/**"
when.pipeline_source = ["push"]
unless.ref_path = "refs/heads/main"
max_session = "30m"

[[grant]]
name = "lake"
environments = ["production", "review"]
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"
ttl = "1h"

[[grant]]
name = "warehouse"
environments = ["production"]
[grant.vault]
role = "etl-{environment}"
path = "database/creds/etl-{environment}"

[[grant]]
name = "settings"
environments = ["production"]
[grant.vault]
role = "etl-{environment}"
path = "secret/etl/*"
engine = "kv2"

[[grant]]
name = "seldom"
environments = ["production"]
rate = "2/m"
[grant.aws]
role_arn = "arn:aws:iam::111122223333:role/etl-{environment}"
ttl = "1h"
"""
SOCKET = Peer(transport="unix", uid=1000, pid=42)
LOOPBACK = Peer(transport="http", address="127.0.0.1")


class Tokens:
    """A verifier for tokens that the test has put in by name; real ones are the identity room's tests."""

    def __init__(self) -> None:
        self.known: dict[str, JobIdentity] = {"main": identity()}

    async def verify(self, unverified_token: str, now: Moment) -> JobIdentity:
        if unverified_token not in self.known:
            raise Refused(Code.TOKEN_SIGNATURE, "the token's signature does not verify")
        return self.known[unverified_token]


class CountingMeter:
    def __init__(self) -> None:
        self.exchanges: list[str] = []
        self.issuances: list[str] = []
        self.thefts = 0

    def exchange(self, outcome: str) -> None:
        self.exchanges.append(outcome)

    def issuance(self, upstream: str, outcome: str, seconds: float) -> None:
        self.issuances.append(outcome)

    def theft_suspected(self) -> None:
        self.thefts += 1


def log_signer() -> LogSigner:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return LogSigner.load(pem, "test.example/log")


@dataclass
class Rig:
    """What a test needs to hold. `restart` is another process on the same store."""

    path: Path
    clock: ManualClock
    tokens: Tokens
    signer: LogSigner
    ledger: SqliteLedger
    aws: FakeUpstream
    vault: FakeUpstream
    policy: Policy
    rotate_every: timedelta | None = None
    meter: CountingMeter = field(default_factory=CountingMeter)

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> None:
        self.skew: timedelta | None = None
        self.rolled_up: list[tuple[str, str, int]] = []
        self.table = Table()
        self.denials = BoundedDenials()
        self.journal = Journal("broker-1", "0.1.0")
        upstreams = {"aws": self.aws, "vault": self.vault}
        self.refusing = refusing = Refusing(
            policy=lambda: self.policy,
            ledger=self.ledger,
            journal=self.journal,
            denials=self.denials,
            meter=self.meter,
            clock=self.clock,
        )
        exchanging = Exchanging(
            verifier=self.tokens,
            policy=lambda: self.policy,
            ledger=self.ledger,
            journal=self.journal,
            refusing=refusing,
            clock=self.clock,
            bind_uid=True,
        )
        self.issuing = Issuing(
            policy=lambda: self.policy,
            ledger=self.ledger,
            journal=self.journal,
            refusing=refusing,
            upstream_for=self._upstream_for,
            clock=self.clock,
            skew=lambda: self.skew,
            pace=Pace(rotate_every=self.rotate_every, spread=lambda: 0.0),
        )
        self.rotation = Rotation(
            self.issuing,
            lambda: self.policy,
            self.clock,
            lambda live: self.ending.start(live, SessionState.REVOKED, "the policy answers differently"),
        )
        self.revocation = Revocation(ledger=self.ledger, journal=self.journal, upstreams=upstreams, clock=self.clock)
        self.ending = Ending(
            table=self.table,
            rotation=self.rotation,
            revocation=self.revocation,
            ledger=self.ledger,
            journal=self.journal,
            clock=self.clock,
        )
        self.desk = SessionDesk(
            exchanging=exchanging,
            refusing=refusing,
            ledger=self.ledger,
            table=self.table,
            rotation=self.rotation,
            ending=self.ending,
            policy=lambda: self.policy,
            region=lambda grant: grant.region or "eu-central-1",
            clock=self.clock,
        )
        self.upkeep = Upkeep(
            table=self.table,
            ending=self.ending,
            ledger=self.ledger,
            journal=self.journal,
            rollup=self.denials,
            rolled_up=lambda code, listener, count: self.rolled_up.append((code, listener, count)),
            clock=self.clock,
        )

    def _upstream_for(self, target: Target) -> FakeUpstream:
        return self.aws if isinstance(target, AwsTarget) else self.vault

    async def restart(self) -> None:
        """Everything in memory is gone; the store and the upstreams are as they were."""
        for live in self.table:
            self.rotation.forget(live)
        await self.ledger.close()
        self.ledger = SqliteLedger.open(self.path, row_key=b"k" * 32, signer=self.signer, clock=self.clock)
        self.build()
        await self.upkeep.resume()

    def change_policy(self, text: str) -> None:
        self.policy = parse(text, "policy.toml", lambda name: "")

    # --- what jobs do -----------------------------------------------------------------------------------------------

    async def open(self, token: str = "main", **changes: Any) -> str:
        """The handle of a fresh session."""
        return (await self.desk.exchange(exchange_request(token, **changes))).handle.reveal()

    async def read(self, handle: str, grant: str = "lake", **changes: Any) -> Any:
        return await self.desk.read(read_request(handle, grant, **changes))

    def kinds(self) -> list[str]:
        """The kinds of all entries, in order."""
        return [row["kind"] for row in self.entries()]

    def entries(self, kind: str = "") -> list[dict[str, Any]]:
        """`unmapped` of each entry, and its kind, in order."""
        import json
        import sqlite3

        db = sqlite3.connect(self.path)
        try:
            bodies = [json.loads(body) for (body,) in db.execute("SELECT body FROM entry ORDER BY idx")]
        finally:
            db.close()
        return [body["unmapped"] | {"whole": body} for body in bodies if kind in ("", body["unmapped"]["kind"])]


def exchange_request(token: str = "main", **changes: Any) -> ExchangeRequest:
    fields: dict[str, Any] = {
        "unverified_token": token,
        "wants": None,
        "environment": None,
        "resume_key": None,
        "heartbeat": False,
        "peer": LOOPBACK,
        "correlation_id": "c1",
    }
    return ExchangeRequest(**(fields | changes))


def read_request(handle: str, grant: str = "lake", **changes: Any) -> ReadRequest:
    fields: dict[str, Any] = {
        "unverified_handle": handle,
        "grant": grant,
        "kind": None,
        "subpath": "",
        "min_ttl": None,
        "luigi_task": None,
        "patience": None,
        "peer": LOOPBACK,
        "correlation_id": "c2",
    }
    return ReadRequest(**(fields | changes))


@asynccontextmanager
async def rig(folder: Path, *, rotate_every: timedelta | None = None, clock: ManualClock | None = None) -> AsyncIterator[Rig]:
    clock = clock or ManualClock()
    signer = log_signer()
    path = folder / "broker.db"
    built = Rig(
        path=path,
        clock=clock,
        tokens=Tokens(),
        signer=signer,
        ledger=SqliteLedger.open(path, row_key=b"k" * 32, signer=signer, clock=clock),
        aws=FakeUpstream(clock),
        vault=FakeUpstream(clock, name="vault", kind="vault", renewable=True, revocable="lease"),
        policy=parse(POLICY, "policy.toml", lambda name: ""),
        rotate_every=rotate_every,
    )
    try:
        yield built
    finally:
        for live in built.table:
            built.rotation.forget(live)
        await built.ending.drain()
        await built.ledger.close()
