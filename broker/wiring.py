"""From a Config to running parts: the only file that knows all of them, and the only one that reads the clock."""

import asyncio
import contextlib
import ctypes
import importlib.metadata
import logging
import random
import resource
import sys
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from broker.assertions import AssertionIssuer
from broker.audit.checkpoint import LogSigner
from broker.audit.entry import Journal
from broker.audit.rollup import BoundedDenials
from broker.config import Config
from broker.errors import Gathering, Misconfigured
from broker.exchanging import Exchanging
from broker.fitting import listeners, made_upstreams, region_of, require_upstreams, upstream_name
from broker.identity.jwks import Keys
from broker.identity.verify import TokenVerifier
from broker.issuing import Issuing, is_unsafe
from broker.keyfiles import read_private, read_symmetric
from broker.leases.desk import SessionDesk
from broker.leases.ending import Ending
from broker.leases.policing import POLICY_REASON, InForce, Policing
from broker.leases.revocation import Revocation
from broker.leases.rotation import Rotation
from broker.leases.table import LiveSession, Table
from broker.leases.upkeep import Upkeep
from broker.leasing import Pace
from broker.moment import Moment
from broker.policy.language import load as load_policy
from broker.policy.model import Policy
from broker.policy_files import PolicyFiles
from broker.refusing import Refusing
from broker.session import SessionState, new_id
from broker.signing import Keyring
from broker.store.serving import only_server_of
from broker.store.sqlite import SqliteLedger
from broker.upstreams.pool import UpstreamPool
from broker.web.desk import Publication, Readiness
from broker.web.door import Door
from broker.web.limits import DoorLimits, GatedVerifier, ProjectGate
from broker.web.metrics import Metrics
from broker.web.routes import Routes
from broker.web.server import asked_by_hangup, serve, stopped_by_signals

log = logging.getLogger("credbroker")

_PR_SET_DUMPABLE = 4


# Sessions and credentials end while a machine is suspended, or a virtual one paused: CLOCK_MONOTONIC stands still then.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def system_clock() -> Moment:
    """Now, on both clocks."""
    return Moment(datetime.now(UTC), time.clock_gettime(_ELAPSED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a broker reads from files before it opens or asks anything."""

    policy: Policy
    keyring: Keyring
    signer: LogSigner
    row_key: bytes = field(repr=False)


def read_policy(config: Config) -> Policy:
    """Raises PolicyInvalid with every problem. Issuers that have problems themselves are not held against it."""
    issuers = {issuer.name: issuer.profile for issuer in config.issuers if issuer.name and issuer.profile}
    return load_policy(config.policy, issuers=issuers if len(issuers) == len(config.issuers) and issuers else None)


def read_log_key(config: Config) -> LogSigner:
    """Raises Misconfigured, naming the file."""
    pem = read_private(config.keys.log)
    try:
        return LogSigner.load(pem, config.log_origin or "unknown")
    except Misconfigured as fault:
        raise Misconfigured(fault.code, f"key file {config.keys.log}: {fault.public}") from None


def read_files(config: Config) -> Read:
    """Policy and keys. Raises Misconfigured, ManyFaults when several of these files cannot be used."""
    gathering = Gathering()
    with gathering:
        policy = policy_files(config).read()
    with gathering:
        keyring = Keyring.load(config.keys.issuer, system_clock().wall)
    with gathering:
        signer = read_log_key(config)
    with gathering:
        row_key = read_symmetric(config.keys.store)
    gathering.raise_any()
    return Read(policy=policy, keyring=keyring, signer=signer, row_key=row_key)


def policy_files(config: Config) -> PolicyFiles:
    issuers = {issuer.name: issuer.profile for issuer in config.issuers}
    return PolicyFiles(path=config.policy, issuers=issuers, fits=lambda policy: require_upstreams(config, policy))


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises what is wrong before anything is served."""
    _keep_memory_private()
    if sys.platform == "linux":
        import uvloop

        uvloop.run(_run(config))
    else:
        asyncio.run(_run(config))


async def _run(config: Config) -> None:
    stop, asked = asyncio.Event(), asyncio.Event()
    # Signals to the very end: a second SIGTERM must not cut the flush short.
    with stopped_by_signals(stop), asked_by_hangup(asked), only_server_of(config.store):
        await _serve_until(stop, asked, config)


async def _serve_until(stop: asyncio.Event, asked: asyncio.Event, config: Config) -> None:
    files = read_files(config)
    in_force = InForce(files.policy)
    metrics = Metrics()
    pool = UpstreamPool()
    ledger = SqliteLedger.open(
        config.store, row_key=files.row_key, signer=files.signer, clock=system_clock, key_name=str(config.keys.store)
    )
    journal = Journal(new_id(), importlib.metadata.version("credbroker"))
    assertions = AssertionIssuer(config.issuer_url, files.keyring, system_clock)
    verifier = TokenVerifier([(issuer, Keys(issuer)) for issuer in config.issuers])
    upstreams = made_upstreams(config, assertions, pool, system_clock)
    denials = BoundedDenials()
    rate = config.limits.project_rate
    refusing = Refusing(
        policy=in_force,
        ledger=ledger,
        journal=journal,
        denials=denials,
        meter=metrics,
        clock=system_clock,
    )
    exchanging = Exchanging(
        verifier=GatedVerifier(verifier=verifier, gate=ProjectGate(rate.count, rate.per, clock=time.monotonic)),
        policy=in_force,
        ledger=ledger,
        journal=journal,
        refusing=refusing,
        clock=system_clock,
        bind_uid=config.listen.unix_bind_uid,
    )
    issuing = Issuing(
        policy=in_force,
        ledger=ledger,
        journal=journal,
        refusing=refusing,
        upstream_for=lambda target: upstreams[upstream_name(config, target)],
        clock=system_clock,
        skew=lambda: verifier.skew,
        pace=Pace(rotate_every=config.limits.rotate_every, spread=random.random),
    )
    table = Table()

    def end_by_policy(live: LiveSession) -> None:
        ending.start(live, SessionState.REVOKED, POLICY_REASON)

    rotation = Rotation(issuing, in_force, system_clock, end_by_policy)
    revocation = Revocation(ledger=ledger, journal=journal, upstreams=upstreams, clock=system_clock)
    ending = Ending(table=table, rotation=rotation, revocation=revocation, ledger=ledger, journal=journal, clock=system_clock)
    desk = SessionDesk(
        exchanging=exchanging,
        refusing=refusing,
        ledger=ledger,
        table=table,
        rotation=rotation,
        ending=ending,
        policy=in_force,
        region=lambda grant: region_of(config.upstreams, grant),
        clock=system_clock,
    )
    upkeep = Upkeep(
        table=table,
        ending=ending,
        ledger=ledger,
        journal=journal,
        rollup=denials,
        rolled_up=metrics.rolled_up,
        clock=system_clock,
    )
    policing = Policing(
        in_force=in_force,
        files=policy_files(config),
        table=table,
        ending=ending,
        refusing=refusing,
        ledger=ledger,
        journal=journal,
        clock=system_clock,
        asked=asked,
    )

    limits = DoorLimits(
        body_bytes=config.limits.body_bytes,
        token_chars=config.limits.token_chars,
        request_seconds=config.limits.request_seconds,
        concurrency=config.limits.concurrency,
    )
    _watch(metrics, table, verifier)
    routes = Routes(
        desk=desk,
        publication=Publication(discovery=assertions.discovery, jwks=assertions.jwks),
        ready=lambda: _readiness(ledger, verifier),
        metrics=metrics,
        limits=limits,
        public_url=config.public_url,
    )
    door = Door(desk=desk, rest=routes.app(), limits=limits, clock=system_clock, metrics=metrics, public_url=config.public_url)
    try:
        now = system_clock()
        await upkeep.resume()
        await policing.begin()
        await ledger.commit([], [journal.broker_started(at=now.wall, policy_hash=files.policy.hash, log_vkey=files.signer.vkey)])
        await verifier.warm(now)
        with _looking_after(upkeep.run(), policing.run()):
            await serve(door, listeners(config), limits, stop=stop, on_ready=_announce)
    finally:
        # What was in flight is answered. Sessions live on in the store; endings under way are finished or swept later.
        await ending.drain()
        await upkeep.stop()
        await ledger.close()
        await verifier.close()
        pool.close()
        log.info("broker.stopped")


async def _readiness(ledger: SqliteLedger, verifier: TokenVerifier) -> Readiness:
    """Log writable, keys loaded, clock sane (DESIGN section 5)."""
    problems: list[str] = []
    if not ledger.healthy():
        problems += ["the log cannot be written, or a row of the store was changed by somebody else", *ledger.faults()]
    if not await verifier.ready(system_clock()):
        problems += verifier.problems(system_clock())
    if verifier.skew is not None and is_unsafe(verifier.skew):
        problems.append(f"our clock and an issuer's differ by {verifier.skew.total_seconds():.0f} s")
    return Readiness(tuple(problems))


def _watch(metrics: Metrics, table: Table, verifier: TokenVerifier) -> None:
    metrics.watch("live_sessions", "Sessions that are served.", lambda: float(len(table)))
    metrics.watch("oldest_lease_seconds", "Age of the oldest current lease.", lambda: _oldest(table))
    metrics.watch("clock_skew_seconds", "An issuer's clock minus ours.", lambda: _seconds(verifier.skew))
    metrics.watch(
        "tokens_with_unknown_claims",
        "Tokens with claims that no profile knows.",
        lambda: float(sum(verifier.unknown_claims.values())),
    )


@contextlib.contextmanager
def _looking_after(*work: Coroutine[None, None, None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def _announce(urls: tuple[str, ...]) -> None:
    log.info("broker.listening", extra={"urls": list(urls)})


def _seconds(length: timedelta | None) -> float:
    return 0.0 if length is None else length.total_seconds()


def _oldest(table: Table) -> float:
    now = system_clock().mono
    ages = [now - slot.lease.mono_issued for live in table for slot in live.slots.values() if slot.lease is not None]
    return max(ages, default=0.0)


def _keep_memory_private() -> None:
    """No core dump, and no other process of this uid reads our memory (DESIGN 3.9)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
